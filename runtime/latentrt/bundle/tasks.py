"""The tasks that a bundle can do, by the components that it has and by how its denoiser is fed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from latentrt.bundle.manifest import Component
from latentrt.bundle.sources import CLASS_LABEL, CONTEXT_VECTORS, LAYOUT_TOKENS, LOW_RESOLUTION, SEGMENTATION

# Tasks of models that do nothing else, by their extra channels.
OF_EXTRA_CHANNELS = {LOW_RESOLUTION: "super-resolution", SEGMENTATION: "semantic-synthesis"}
# Tasks of models without prompts, by the value of the request that they are conditioned on.
OF_VALUES = {CLASS_LABEL: "class-to-image", LAYOUT_TOKENS: "layout-to-image", CONTEXT_VECTORS: "vectors-to-image"}
DECODER, ENCODER = "vae_decoder", "vae_encoder"
# An optional component for previews and `fast_decode`.
TINY_DECODER = "tiny_decoder"


def tasks_of(components: Mapping[str, Component]) -> tuple[str, ...]:
    """The names of the tasks whose components are all there."""
    return tuple(found_tasks(components))


def found_tasks(components: Mapping[str, Component]) -> Iterator[str]:
    """Yields the tasks: the one that the denoiser was trained for, then those from an image."""
    if DECODER not in components:
        return
    if not any(component.role == "denoiser" for component in components.values()):
        yield "autoencoding"
        return
    sources = [source for component in components.values() for source in component.sources.values()]
    extra = {extra.name for source in sources for extra in source.extra_channels}
    own = [task for name, task in OF_EXTRA_CHANNELS.items() if name in extra]
    if own:
        yield from own
        return
    if any(component.role == "image_embedder" for component in components.values()):
        yield "image-variation"
    elif any(source.kind == "text" for source in sources):
        yield "text-to-image"
    else:
        values = {value for source in sources for value in source.values}
        yield next((task for value, task in OF_VALUES.items() if value in values), "unconditional")
    if ENCODER in components and any(source.rotary and source.rotary.references for source in sources):
        yield "editing"
    if ENCODER in components:
        yield from ("image-to-image", "inpainting")
