"""The model families that can be exported: one row per family, from which its checkpoints are recognised and read.

A family of a known shape is added by a `Family` in FAMILIES and its folder in `configs/`. No other code asks for a
family's name. Where two rows match a checkpoint, the first one counts: a row with more `values` stands before the row
that it refines.
"""

from functools import partial

from latentrt.bundle.sources import SizeId
from latentrt_export.checkpoint import bert_layout
from latentrt_export.checkpoint.family import PRIOR_ENCODER, Encoder, Family, Slot
from latentrt_export.checkpoint.flux2_families import FLUX2_FAMILIES
from latentrt_export.checkpoint.layouts import folder_keys, open_clip_keys, text_keys, unet_keys, vae_keys
from latentrt_export.checkpoint.ldm_families import LDM_FAMILIES
from latentrt_export.checkpoint.paths import CONFIGS
from latentrt_export.checkpoint.pipelines import PRIOR_PIPELINES, STABLE_PIPELINES, UNCLIP_PIPELINES, XL_PIPELINES
from latentrt_export.checkpoint.pixart_families import PIXART_FAMILIES
from latentrt_export.checkpoint.sd3_families import SD3_FAMILIES

STABLE_MARK = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
XL_MARK = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
UNET_SLOT = Slot("model.diffusion_model.", unet_keys)
VAE_SLOT = Slot("first_stage_model.", vae_keys)
# Of a component of a family whose single files are not read.
FOLDER_SLOT = Slot("", folder_keys)
# Keys of the original second text encoder that no module has.
OPEN_CLIP_UNREAD = r"\.(logit_scale|attn_mask)$"
XL_SECOND = Encoder(skipped=1, normed=False, pooled=True, tokenizer="tokenizer_2", pad=0)
XL_VALUES = {"unet": {"use_linear_projection": True, "addition_embed_type": "text_time"}}
SIZES: tuple[SizeId, ...] = ("original_height", "original_width", "crop_top", "crop_left")

SD2_SLOTS = {
    "unet": UNET_SLOT,
    "vae": VAE_SLOT,
    # The original encoder has one layer more, which is never used: diffusers' checkpoints leave it out.
    "text_encoder": Slot(
        "cond_stage_model.model.",
        open_clip_keys,
        unread=r"\.(resblocks\.{num_hidden_layers}\..*|text_projection|logit_scale|attn_mask)$",
    ),
}
UNCLIP_VALUES = {"unet": {"use_linear_projection": True, "class_embed_type": "projection"}}
unclip = partial(
    Family, configs=CONFIGS / "sd2", mark="", encoders={"text_encoder": Encoder(pad=0)}, extra=((),), guidance=10.0
)

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
        slots=SD2_SLOTS,
        mark=STABLE_MARK,
        encoders={"text_encoder": Encoder(pad=0)},
        values={"unet": {"use_linear_projection": True}},
        configs_by_channels={9: CONFIGS / "sd2-base"},
        configs_by_prediction={"epsilon": CONFIGS / "sd2-base"},
        absent=("embedder.",),
    ),
    unclip(
        name="sd2-unclip",
        pipelines=UNCLIP_PIPELINES,
        slots={**SD2_SLOTS, **dict.fromkeys(("image_embedder", "noise_augmentor"), FOLDER_SLOT)},
        values=UNCLIP_VALUES,
        folders={"image_embedder": "image_encoder", "noise_augmentor": "image_normalizer"},
        schedules={"noise_augmentor": "image_noising_scheduler"},
    ),
    unclip(
        name="sd2-unclip-prior",
        pipelines=PRIOR_PIPELINES,
        slots={**SD2_SLOTS, **dict.fromkeys((PRIOR_ENCODER, "prior", "noise_augmentor"), FOLDER_SLOT)},
        values=UNCLIP_VALUES,
        folders={"noise_augmentor": "image_normalizer"},
        schedules={"noise_augmentor": "image_noising_scheduler", "prior": "prior_scheduler"},
        prior=Encoder(pooled=True, tokenizer="prior_tokenizer"),
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
        absent=(bert_layout.TOKENS,),
    ),
    *LDM_FAMILIES,
    *PIXART_FAMILIES,
    *FLUX2_FAMILIES,
    *SD3_FAMILIES,
)
# Folders that a checkpoint of any family may have: IP-Adapters' encoder.
OPTIONAL = ("image_encoder",)
# The folders of components that a checkpoint of some family has.
FOLDERS = tuple({family.folder(name): None for family in FAMILIES for name in family.slots})
