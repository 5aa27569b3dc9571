"""The model families that can be exported, each a value in one table: how its checkpoints are recognised and laid out.

A family is added by adding a `Family` to FAMILIES and its folder to `configs/`; no other code asks which one it has.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

from latentrt.bundle.sources import ExtraChannelsName, SizeId
from latentrt.errors import CheckpointError, first_few
from latentrt_export.checkpoint.layouts import Shape, Tensors, open_clip_keys, text_keys, vae_keys
from latentrt_export.checkpoint.paths import CONFIGS as CONFIGS
from latentrt_export.checkpoint.pipelines import STABLE_PIPELINES, XL_PIPELINES
from latentrt_export.networks.component import Config

Configs = Mapping[str, Config]


@dataclass(frozen=True)
class Slot:
    """Where a single file keeps one component: the prefix of its keys, and how they become the module's keys.

    unread: what of the keys under the prefix the module does not have, a pattern with the config's entries in braces.
    """

    prefix: str
    convert: Callable[[Tensors, Config], Tensors]
    unread: str | None = None


@dataclass(frozen=True)
class Encoder:
    """What a family takes of a text encoder.

    skipped: the layers at its end that are never used. normed: whether the final layer norm follows the one that is.
    pooled: whether its projected summary of the prompt is taken as well. tokenizer: the folder of its tokenizer; pad:
    the token that fills rows where a single file is exported, which brings none; None for EOS.
    """

    skipped: int = 0
    normed: bool = True
    pooled: bool = False
    tokenizer: str = "tokenizer"
    pad: int | None = None


@dataclass(frozen=True)
class Family:
    """What tells a family's checkpoints from all others, and where a single file of it keeps each component.

    `mark` is a key that every single file of the family has, and `mark_width` the entry of the UNet's config that its
    last axis must equal. `values` are the config entries that set the family apart, by component; what a config means
    by lacking one is in DEFAULTS. `encoders` are its text encoders: the UNet sees their contexts side by side, in this
    order. `size_ids` are the numbers that its time embedding takes besides the timestep; `float32_vae`: whether
    the VAE leaves fp16's range unless its config says `force_upcast` false; `zero_negative`: whether zeros stand for a
    negative prompt that is not given, unless model_index.json says otherwise. `others` are the configs of single files
    whose UNet takes so many channels, where `configs` are not, `by_prediction` those of files that declare to predict
    that.
    """

    name: str
    configs: Path
    pipelines: tuple[str, ...]
    slots: Mapping[str, Slot]
    mark: str
    mark_width: str
    values: Mapping[str, Config]
    encoders: Mapping[str, Encoder]
    size_ids: tuple[SizeId, ...] = ()
    float32_vae: bool = False
    zero_negative: bool = False
    others: Mapping[int, Path] = field(default_factory=dict)
    by_prediction: Mapping[str, Path] = field(default_factory=dict)

    @property
    def tokenizer(self) -> str:
        """The folder of the tokenizer that cuts prompts into tokens, for all text encoders alike."""
        return next(iter(self.encoders.values())).tokenizer


# The entry of the UNet's config that is the width of pooled text and the sinusoids of all size ids together.
ADDED_WIDTH = "projection_class_embeddings_input_dim"
# Where a single file keeps the convolution whose second axis is the channels that the UNet takes.
FIRST_LAYER = "model.diffusion_model.input_blocks.0.0.weight"
# What the UNet may be shown besides noisy latents, its channels in this order.
SHOWN: tuple[tuple[ExtraChannelsName, ...], ...] = ((), ("mask", "masked_image"), ("image",))
STABLE_MARK = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
UNET_SLOT = Slot("model.diffusion_model.", convert_ldm_unet_checkpoint)
VAE_SLOT = Slot("first_stage_model.", vae_keys)

# What a config means by leaving out an entry by which families are told apart: the class's default.
DEFAULTS: Configs = {
    "unet": {
        "_class_name": "UNet2DConditionModel",
        "use_linear_projection": False,
        "addition_embed_type": None,
        "attention_type": "default",
        "class_embed_type": None,
        "encoder_hid_dim_type": None,
        "num_class_embeds": None,
        "resnet_time_scale_shift": "default",
    },
    "vae": {"_class_name": "AutoencoderKL", "latents_mean": None, "latents_std": None},
    "text_encoder": {"model_type": "clip_text_model"},
    "text_encoder_2": {"model_type": "clip_text_model"},
}
STABLE_VALUES = {name: DEFAULTS[name] for name in ("unet", "vae", "text_encoder")}
# The original second encoder's leftovers that nothing reads.
OPEN_CLIP_UNREAD = r"\.(logit_scale|attn_mask)$"
SIZES: tuple[SizeId, ...] = ("original_height", "original_width", "crop_top", "crop_left")
XL_SECOND = Encoder(skipped=1, normed=False, pooled=True, tokenizer="tokenizer_2", pad=0)
XL_MARK = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
XL_UNET = {**DEFAULTS["unet"], "use_linear_projection": True, "addition_embed_type": "text_time"}

FAMILIES = (
    Family(
        name="sd1",
        configs=CONFIGS / "sd15",
        pipelines=STABLE_PIPELINES,
        slots={
            "unet": UNET_SLOT,
            "vae": VAE_SLOT,
            "text_encoder": Slot("cond_stage_model.transformer.", text_keys),
        },
        mark=STABLE_MARK,
        mark_width="cross_attention_dim",
        values=STABLE_VALUES,
        encoders={"text_encoder": Encoder()},
    ),
    Family(
        name="sd2",
        configs=CONFIGS / "sd2",
        pipelines=STABLE_PIPELINES,
        slots={
            "unet": UNET_SLOT,
            "vae": VAE_SLOT,
            # The original encoder has one layer more, which it skips: the checkpoints of diffusers leave it out.
            "text_encoder": Slot(
                "cond_stage_model.model.",
                open_clip_keys,
                unread=r"\.(resblocks\.{num_hidden_layers}\..*|text_projection|logit_scale|attn_mask)$",
            ),
        },
        mark=STABLE_MARK,
        mark_width="cross_attention_dim",
        values={**STABLE_VALUES, "unet": {**DEFAULTS["unet"], "use_linear_projection": True}},
        encoders={"text_encoder": Encoder(pad=0)},
        others={9: CONFIGS / "sd2-base"},
        by_prediction={"epsilon": CONFIGS / "sd2-base"},
    ),
    Family(
        name="sdxl",
        configs=CONFIGS / "sdxl",
        pipelines=XL_PIPELINES,
        slots={
            "unet": UNET_SLOT,
            "vae": VAE_SLOT,
            "text_encoder": Slot("conditioner.embedders.0.transformer.", text_keys),
            "text_encoder_2": Slot("conditioner.embedders.1.model.", open_clip_keys, OPEN_CLIP_UNREAD),
        },
        mark=XL_MARK,
        mark_width="cross_attention_dim",
        values={**DEFAULTS, "unet": XL_UNET},
        encoders={
            "text_encoder": Encoder(skipped=1, normed=False),
            "text_encoder_2": XL_SECOND,
        },
        size_ids=(*SIZES, "target_height", "target_width"),
        float32_vae=True,
        zero_negative=True,
    ),
    Family(
        name="sdxl-refiner",
        configs=CONFIGS / "sdxl-refiner",
        pipelines=XL_PIPELINES,
        slots={
            "unet": UNET_SLOT,
            "vae": VAE_SLOT,
            "text_encoder_2": Slot("conditioner.embedders.0.model.", open_clip_keys, OPEN_CLIP_UNREAD),
        },
        mark=XL_MARK,
        mark_width="cross_attention_dim",
        values={**{name: DEFAULTS[name] for name in ("vae", "text_encoder_2")}, "unet": XL_UNET},
        encoders={"text_encoder_2": XL_SECOND},
        size_ids=(*SIZES, "aesthetic_score"),
        float32_vae=True,
    ),
)

STRANGERS = (
    ("model.diffusion_model.joint_blocks.", "Stable Diffusion 3"),
    ("model.diffusion_model.double_blocks.", "Flux"),
    ("double_blocks.", "Flux"),
    ("control_model.", "a ControlNet"),
    ("lora_", "a LoRA"),
    ("down_blocks.", "the UNet of a diffusers folder (give the folder that holds model_index.json)"),
    ("image_proj.", "an IP-Adapter (give it by --ip-adapter, beside a checkpoint)"),
    ("text_model.", "a text encoder alone"),
    *((key, "textual inversion (give it by --embedding, beside a checkpoint)") for key in ("emb_params", "clip_g")),
    ("encoder.down", "a VAE alone (give it by --vae, in Python vae=, beside a checkpoint)"),
)


def recognise(
    source: str, differences: Callable[[Family], list[str]], *, look: str = "", stranger: str | None = None
) -> Family:
    """Returns the first family from which nothing differs.

    differences: what speaks against a family, each "this is so, expected that". look: what the checkpoint seems to be;
    stranger: what it is known to be, where it is none of these. Raises CheckpointError when no family is left, with a
    line of differences for each unless there is a stranger.
    """
    found = {}
    for family in FAMILIES:
        try:
            found[family.name] = differences(family)
        except (TypeError, ValueError, AttributeError, KeyError) as error:  # of a config that holds other types
            found[family.name] = [f"its configs cannot be compared ({error})"]
        if not found[family.name]:
            return family
    names = ", ".join(family.name for family in FAMILIES)
    if stranger is not None:
        raise CheckpointError(f"{source} is of no supported family ({names}); {stranger}")
    against = "".join(f"\n  {name}: {'; '.join(reasons)}" for name, reasons in found.items())
    raise CheckpointError(f"{source} is of no supported family ({names}){look}{against}")


def shape_differences(family: Family, shapes: Mapping[str, Shape], configs: Configs) -> list[str]:
    """Returns what in a single file (the shape of each key) differs from the family, at the widths of `configs`."""
    got, width = shapes.get(family.mark), configs["unet"].get(family.mark_width)
    if got and got[-1] == width:
        return []
    state = f"has shape {got}" if got else "is absent"
    return [f"{family.mark} {state}, expected a last axis of {width} (other widths: --configs DIR, in Python configs=)"]


def pipeline_names(family: Family) -> str:
    """Returns the names by which a family's folders go, for a message."""
    return f"{family.pipelines[0]} or another of its {len(family.pipelines)} pipelines (docs/export.md)"


def config_differences(family: Family, configs: Configs) -> list[str]:
    """Returns what in the components' configs differs from the family, or does not fit together."""
    meant = {component: {**DEFAULTS[component], **configs[component]} for component in family.values}
    differences = [
        f"the config of {component} has {key} {meant[component][key]!r}, expected {value!r}"
        for component, values in family.values.items()
        for key, value in values.items()
        if meant[component][key] != value
    ]
    return differences or [
        f"{what} is {got}, expected {expected} to fit the other components"
        for what, got, expected in sizes_that_fit(family, configs)
        if got != expected
    ]


def sizes_that_fit(family: Family, configs: Configs) -> Iterator[tuple[str, Any, Any]]:
    """Yields a name, what the UNet has there, and what the other components say it should have."""
    unet = configs["unet"]
    width = sum(configs[name].get("hidden_size", 0) for name in family.encoders)
    yield "unet cross_attention_dim", unet.get("cross_attention_dim"), width
    got, fitting = unet.get("in_channels", 4), shown_by_channels(configs)
    yield "unet in_channels", got, got if got in fitting else " or ".join(map(str, fitting))
    for name, encoder in family.encoders.items():
        if encoder.pooled:
            sizes = len(family.size_ids) * unet.get("addition_time_embed_dim", 0)
            pooled = configs[name].get("projection_dim", 0)
            yield f"unet {ADDED_WIDTH}", unet.get(ADDED_WIDTH), pooled + sizes


def shown_by_channels(configs: Configs) -> dict[int, tuple[ExtraChannelsName, ...]]:
    """Returns what UNets of these latents may be shown besides them, by how many channels they take in all."""
    latents = configs["vae"].get("latent_channels", 4)
    return {latents + sum(1 if name == "mask" else latents for name in names): names for names in SHOWN}


def likeness(shapes: Mapping[str, Shape]) -> str:
    """Returns what a single file of no supported family is made of: the groups of its keys."""
    return f"; its keys are {first_few(sorted({key.split('.')[0] + '.*' for key in shapes}))}"


def stranger_in(shapes: Mapping[str, Shape]) -> str | None:
    """Returns what a single file of no supported family looks like, None where it is nothing known."""
    for prefix, name in STRANGERS:
        if any(key.startswith(prefix) for key in shapes):
            return f"its keys {prefix}* look like {name}"
    return None


# The components that a checkpoint of some family has.
PARTS = tuple(dict.fromkeys(name for family in FAMILIES for name in family.slots))
