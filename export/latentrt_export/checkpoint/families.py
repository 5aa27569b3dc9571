"""The model families that can be exported: one row per family, from which its checkpoints are recognised and read.

A family of a known shape is added by a `Family` in FAMILIES and its folder in `configs/`. No other code asks for a
family's name. Where two rows match a checkpoint, the first one counts: a row with more `values` stands before the row
that it refines.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from latentrt.bundle.sources import SizeId
from latentrt_export.checkpoint.config_defaults import DEFAULTS
from latentrt_export.checkpoint.layouts import Tensors, open_clip_keys, text_keys, unet_keys, vae_keys
from latentrt_export.checkpoint.paths import CONFIGS
from latentrt_export.checkpoint.pipelines import STABLE_PIPELINES, XL_PIPELINES
from latentrt_export.networks.component import Config


@dataclass(frozen=True)
class Slot:
    """Place of one component in a single file: the prefix of its keys, and their conversion to the module's keys.

    unread: pattern of keys under the prefix that the module does not have, with entries of the config in braces.
    """

    prefix: str
    convert: Callable[[Tensors, Config], Tensors]
    unread: str | None = None


@dataclass(frozen=True)
class Encoder:
    """Outputs that a family takes from a text encoder.

    skipped: layers at the end that are never used. normed: apply the final layer norm to the output. pooled: take the
    projected pooled output as well. tokenizer: folder of the tokenizer. pad: token that fills rows of a single file,
    which has no tokenizer; None for EOS.
    """

    skipped: int = 0
    normed: bool = True
    pooled: bool = False
    tokenizer: str = "tokenizer"
    pad: int | None = None


@dataclass(frozen=True)
class Family:
    """One model family.

    configs: configs of its single files. pipelines: its names in model_index.json. slots: its components and their
    places in a single file. mark: a key that every single file of the family has. mark_width: entry of the UNet's
    config that the last axis of the mark must equal. encoders: its text encoders; their contexts are concatenated in
    this order. values: entries of configs that set the family apart, by component; entries that are not named must be
    those of DEFAULTS. size_ids: numbers that the time embedding takes besides the timestep. float32_vae: the VAE
    leaves fp16's range, unless its config says `force_upcast` false. zero_negative: zeros stand for a negative prompt
    that is not given, unless model_index.json says otherwise. configs_by_channels, configs_by_prediction: configs of
    single files whose UNet has that many input channels, or that declare that prediction type.
    """

    name: str
    configs: Path
    pipelines: tuple[str, ...]
    slots: Mapping[str, Slot]
    mark: str
    encoders: Mapping[str, Encoder]
    values: Mapping[str, Config] = field(default_factory=dict)
    mark_width: str = "cross_attention_dim"
    size_ids: tuple[SizeId, ...] = ()
    float32_vae: bool = False
    zero_negative: bool = False
    configs_by_channels: Mapping[int, Path] = field(default_factory=dict)
    configs_by_prediction: Mapping[str, Path] = field(default_factory=dict)

    @property
    def tokenizer(self) -> str:
        """The folder of the tokenizer, which all text encoders share."""
        return next(iter(self.encoders.values())).tokenizer

    def expected(self, component: str) -> Config:
        """The entries that a component's config must have."""
        return {**DEFAULTS[component], **self.values.get(component, {})}


STABLE_MARK = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
XL_MARK = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
UNET_SLOT = Slot("model.diffusion_model.", unet_keys)
VAE_SLOT = Slot("first_stage_model.", vae_keys)
# Keys of the original second text encoder that no module has.
OPEN_CLIP_UNREAD = r"\.(logit_scale|attn_mask)$"
XL_SECOND = Encoder(skipped=1, normed=False, pooled=True, tokenizer="tokenizer_2", pad=0)
XL_VALUES = {"unet": {"use_linear_projection": True, "addition_embed_type": "text_time"}}
SIZES: tuple[SizeId, ...] = ("original_height", "original_width", "crop_top", "crop_left")

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
        encoders={"text_encoder": Encoder()},
    ),
    Family(
        name="sd2",
        configs=CONFIGS / "sd2",
        pipelines=STABLE_PIPELINES,
        slots={
            "unet": UNET_SLOT,
            "vae": VAE_SLOT,
            # The original encoder has one layer more, which is never used: diffusers' checkpoints leave it out.
            "text_encoder": Slot(
                "cond_stage_model.model.",
                open_clip_keys,
                unread=r"\.(resblocks\.{num_hidden_layers}\..*|text_projection|logit_scale|attn_mask)$",
            ),
        },
        mark=STABLE_MARK,
        encoders={"text_encoder": Encoder(pad=0)},
        values={"unet": {"use_linear_projection": True}},
        configs_by_channels={9: CONFIGS / "sd2-base"},
        configs_by_prediction={"epsilon": CONFIGS / "sd2-base"},
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
        encoders={"text_encoder": Encoder(skipped=1, normed=False), "text_encoder_2": XL_SECOND},
        values=XL_VALUES,
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
        encoders={"text_encoder_2": XL_SECOND},
        values=XL_VALUES,
        size_ids=(*SIZES, "aesthetic_score"),
        float32_vae=True,
    ),
)
# The components that a checkpoint of some family has.
COMPONENTS = tuple(dict.fromkeys(name for family in FAMILIES for name in family.slots))
