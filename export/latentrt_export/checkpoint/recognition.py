"""Recognition of a checkpoint's family, from its configs and the keys of its files; other kinds of file by name."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from latentrt.bundle.sources import ExtraChannels, extra_channels_of
from latentrt.errors import CheckpointError, first_few
from latentrt_export.checkpoint.config_defaults import DEFAULTS
from latentrt_export.checkpoint.families import FAMILIES
from latentrt_export.checkpoint.family import PRIOR_ENCODER, Family
from latentrt_export.checkpoint.layouts import Shape
from latentrt_export.networks.component import Config
from latentrt_export.networks.image_embedding import AUGMENTOR, EMBEDDER
from latentrt_export.networks.known import transformer_kind
from latentrt_export.networks.prior import PRIOR

Configs = Mapping[str, Config]

# Entry of the UNet's config: the width of the pooled text and of the sinusoids of all size ids together.
ADDED_WIDTH = "projection_class_embeddings_input_dim"
# The convolution of a single file whose second axis is the UNet's input channels.
FIRST_LAYER = "model.diffusion_model.input_blocks.0.0.weight"
# Prefixes of keys in other kinds of file, and the kind.
OTHER_KINDS = (
    ("model.diffusion_model.joint_blocks.", "Stable Diffusion 3 in its original layout (give its diffusers folder)"),
    ("model.diffusion_model.double_blocks.", "Flux"),
    ("double_blocks.", "Flux"),
    ("embedder.", "an unCLIP model without the statistics of its image embedding (give its diffusers folder)"),
    ("t_block.", "PixArt in its original layout (give its diffusers folder)"),
    ("adaln_single.", "the transformer of a diffusers folder (give the folder that holds model_index.json)"),
    ("control_model.", "a ControlNet"),
    ("lora_", "a LoRA"),
    ("down_blocks.", "the UNet of a diffusers folder (give the folder that holds model_index.json)"),
    ("image_proj.", "an IP-Adapter (give it by --ip-adapter, beside a checkpoint)"),
    ("text_model.", "a text encoder alone"),
    *((key, "textual inversion (give it by --embedding, beside a checkpoint)") for key in ("emb_params", "clip_g")),
    ("encoder.down", "a VAE alone (give it by --vae, in Python vae=, beside a checkpoint)"),
)


def recognise(
    source: str, differences: Callable[[Family], list[str]], *, look: str = "", other_kind: str | None = None
) -> Family:
    """Returns the first family without differences.

    differences: the reasons against a family, each "this is so, expected that". look: description of the file, for the
    error. other_kind: description of a file of another kind, if it is one. Raises CheckpointError where no family is
    left, with a line of differences per family, or with `other_kind` alone.
    """
    found = {}
    for family in FAMILIES:
        try:
            found[family.name] = differences(family)
        except (TypeError, ValueError, AttributeError, KeyError) as error:  # of a config that holds other types
            found[family.name] = [f"its configs cannot be compared ({error})"]
        if not found[family.name]:
            return family
    if other_kind is not None:
        names = ", ".join(family.name for family in FAMILIES)
        raise CheckpointError(f"{source} is of no supported family ({names}); {other_kind}")
    against = "".join(f"\n  {name}: {'; '.join(reasons)}" for name, reasons in found.items())
    raise CheckpointError(f"{source} is of no supported family{look}{against}")


def shape_differences(family: Family, shapes: Mapping[str, Shape], configs: Configs) -> list[str]:
    """Returns the differences of a single file (shapes by key) from the family, at the widths of `configs`."""
    found = [key for key in shapes if key.startswith(family.absent)]
    if found:
        return [f"{first_few(found)} is there, which such a file does not have"]
    got, width = shapes.get(family.mark), configs["unet"].get(family.mark_width)
    width = width[0] if isinstance(width, list) else width
    if got and got[-1] == width:
        found = [prefix for prefix in family.absent if any(key.startswith(prefix) for key in shapes)]
        return [f"it has {prefix}*, expected none" for prefix in found]
    state = f"has shape {got}" if got else "is absent"
    return [f"{family.mark} {state}, expected a last axis of {width} (other widths: --configs DIR, in Python configs=)"]


def pipeline_names(family: Family) -> str:
    """Returns the pipeline classes of a family's folders, for a message."""
    first, *others = family.pipelines or ("a single file",)
    return f"{first} or another of its {len(others) + 1} pipelines (docs/export.md)" if others else first


def config_differences(family: Family, configs: Configs) -> list[str]:
    """Returns the differences of the components' configs from the family, and the sizes that do not fit together."""
    meant = {component: {**DEFAULTS[component], **configs[component]} for component in family.slots}
    differences = [
        f"the config of {component} has {key} {meant[component][key]!r}, expected {value!r}"
        for component in family.slots
        for key, value in family.expected(component).items()
        if meant[component].get(key) not in (value if isinstance(value, tuple) else (value,))
    ]
    return differences or [
        f"{what} is {got}, expected {expected} to fit the other components"
        for what, got, expected in sizes_that_fit(family, configs)
        if got != expected
    ]


def sizes_that_fit(family: Family, configs: Configs) -> Iterator[tuple[str, Any, Any]]:
    """Yields a name, the denoiser's size, and the size that the other components need."""
    if "transformer" in configs:
        yield from transformer_kind(configs["transformer"]).fitting(configs)
    if "unet" not in configs:  # an autoencoder alone, or a transformer
        return
    unet = configs["unet"]
    width = sum(configs[name].get("hidden_size", 0) for name in family.encoders)
    if family.encoders:
        yield "unet cross_attention_dim", unet.get("cross_attention_dim"), width
    got, fitting = unet.get("in_channels", 4), extra_channels_by_count(family, configs)
    yield "unet in_channels", got, got if got in fitting else " or ".join(map(str, fitting))
    for name, encoder in family.encoders.items():
        if encoder.pooled:
            sizes = len(family.size_ids) * unet.get("addition_time_embed_dim", 0)
            pooled = configs[name].get("projection_dim", 0)
            yield f"unet {ADDED_WIDTH}", unet.get(ADDED_WIDTH), pooled + sizes
    if AUGMENTOR in family.slots:
        embedding = configs[AUGMENTOR].get("embedding_dim", 0)
        yield f"unet {ADDED_WIDTH}", unet.get(ADDED_WIDTH), 2 * embedding
        for name in {EMBEDDER, PRIOR_ENCODER} & family.slots.keys():
            yield f"{family.folder(name)} projection_dim", configs[name].get("projection_dim"), embedding
    if PRIOR in family.slots:
        text = configs[PRIOR_ENCODER]
        yield "prior embedding_dim", configs[PRIOR].get("embedding_dim", 768), text.get("projection_dim")
        yield "prior_text_encoder hidden_size", text.get("hidden_size"), text.get("projection_dim")
        yield "prior num_embeddings", configs[PRIOR].get("num_embeddings", 77), text.get("max_position_embeddings")


def extra_channels_by_count(family: Family, configs: Configs) -> dict[int, tuple[ExtraChannels, ...]]:
    """Returns the extra channels that a UNet may take over these latents, by its number of input channels."""
    latents = configs["vae"].get("vq_embed_dim") or configs["vae"].get("latent_channels", 4)
    possible = [extra_channels_of(names, latents) for names in family.extra]
    return {latents + sum(one.channels for one in extra): extra for extra in possible}


def likeness(shapes: Mapping[str, Shape]) -> str:
    """Returns the groups of keys in a single file of no supported family."""
    return f"; its keys are {first_few(sorted({key.split('.')[0] + '.*' for key in shapes}))}"


def other_kind_of(shapes: Mapping[str, Shape]) -> str | None:
    """Returns the kind of a single file of no supported family; None for an unknown one."""
    for prefix, name in OTHER_KINDS:
        if any(key.startswith(prefix) for key in shapes):
            return f"its keys {prefix}* look like {name}"
    return None
