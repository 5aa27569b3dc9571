"""The tasks that a bundle can do, by the components that it has."""

from __future__ import annotations

from collections.abc import Collection

# Besides the denoiser, which every bundle has with all that feeds it, and the text encoders that it names.
TEXT_TO_IMAGE = frozenset({"vae_decoder"})
FROM_AN_IMAGE = TEXT_TO_IMAGE | {"vae_encoder"}
TASKS = {"text-to-image": TEXT_TO_IMAGE, "image-to-image": FROM_AN_IMAGE, "inpainting": FROM_AN_IMAGE}
# An optional component for previews and `fast_decode`.
TINY_DECODER = "tiny_decoder"


def tasks_of(components: Collection[str]) -> tuple[str, ...]:
    """The names of the tasks whose components are all there."""
    return tuple(task for task, needed in TASKS.items() if needed.issubset(components))
