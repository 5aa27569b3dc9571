"""The systems of the latent diffusion paper, Rombach et al. (2022), each a family."""

from collections.abc import Mapping
from functools import partial

from latentrt.bundle.sources import LOW_RESOLUTION, SEGMENTATION, ExtraChannels
from latentrt_export.checkpoint.bert_layout import PREFIX as BERT_PREFIX
from latentrt_export.checkpoint.bert_layout import TOKENS, UNREAD, bert_keys
from latentrt_export.checkpoint.family import Encoder, Family, Slot
from latentrt_export.checkpoint.layouts import Tensors, unet_keys
from latentrt_export.checkpoint.ldm_layouts import UNET_PREFIX, first_stage_keys, unet2d_keys
from latentrt_export.checkpoint.paths import CONFIGS
from latentrt_export.checkpoint.word_pieces import BERT
from latentrt_export.networks.component import Config

TIME_MARK = f"{UNET_PREFIX}time_embed.0.weight"
CONDITION = "cond_stage_model."
PLAIN_UNET = Slot(UNET_PREFIX, unet2d_keys)
CROSS_UNET = Slot(UNET_PREFIX, unet_keys)
FIRST_STAGE = Slot("first_stage_model.", first_stage_keys)
AUTOENCODERS = ("VQModel", "AutoencoderKL")
TIME_SHIFTS = ("default", "scale_shift")
PLAIN_VALUES: Mapping[str, Config] = {
    "unet": {"_class_name": "UNet2DModel", "resnet_time_scale_shift": TIME_SHIFTS},
    "vae": {"_class_name": AUTOENCODERS},
}
# Prefixes of the first cross-attention of each level, which UNets without any lack.
CROSS_ATTENTION = tuple(f"{UNET_PREFIX}input_blocks.{block}.1.transformer_blocks." for block in (1, 4, 7))
# In the order of the UNet's channels. Holes are black, and the mask is -1 or 1, where Stable Diffusion's is 0 or 1.
MASKED = (ExtraChannels("masked_image", 0, fill=-1.0), ExtraChannels("mask", 1, (-1.0, 1.0)))


def bare_keys(prefix: str, tensors: Tensors, config: Config) -> Tensors:
    """The tensors under the names of their module, which are those after the prefix."""
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}


def bare_slot(prefix: str) -> Slot:
    """The place of a component whose keys are its module's after the prefix."""
    return Slot(prefix, partial(bare_keys, prefix))


BERT_SLOT = Slot(BERT_PREFIX, bert_keys, UNREAD)
CLASSES, MAPPER = bare_slot(f"{CONDITION}embedding."), bare_slot(f"{CONDITION}channel_mapper.")
# All of the paper's systems, and those of them whose UNet has no cross-attention. Where diffusers has no pipeline for
# one, model_index.json has the family's name in its place.
ldm = partial(Family, pipelines=(), averaged=True, encoders={}, extra=((),))
plain = partial(ldm, mark=TIME_MARK, mark_width="block_out_channels", values=PLAIN_VALUES, guidance=1.0)

LDM_FAMILIES = (
    ldm(
        name="ldm-text",
        configs=CONFIGS / "ldm-text-large",
        configs_by_channels={3: CONFIGS / "ldm-text-256"},
        pipelines=("LDMTextToImagePipeline", "LatentDiffusionPipeline"),
        slots={"unet": CROSS_UNET, "vae": FIRST_STAGE, "text_encoder": BERT_SLOT},
        folders={"vae": "vqvae", "text_encoder": "bert"},
        mark=TOKENS,
        encoders={"text_encoder": Encoder(vocabulary=BERT)},
        values={"text_encoder": {"model_type": "ldmbert"}, "vae": {"_class_name": AUTOENCODERS}},
        steps=50,
        guidance=5.0,
    ),
    plain(
        name="ldm-unconditional",
        configs=CONFIGS / "ldm-celebahq",
        configs_by_width={192: CONFIGS / "ldm-churches"},
        pipelines=("LDMPipeline",),
        slots={"unet": PLAIN_UNET, "vae": FIRST_STAGE},
        folders={"vae": "vqvae"},
        absent=(CONDITION, *CROSS_ATTENTION),
        steps=50,
    ),
    plain(
        name="ldm-super-resolution",
        configs=CONFIGS / "ldm-super-resolution",
        pipelines=("LDMSuperResolutionPipeline",),
        slots={"unet": PLAIN_UNET, "vae": FIRST_STAGE},
        folders={"vae": "vqvae"},
        absent=(CONDITION, *CROSS_ATTENTION),
        extra=((LOW_RESOLUTION,),),
        steps=100,
        eta=1.0,
    ),
    plain(
        name="ldm-inpainting",
        configs=CONFIGS / "ldm-inpainting",
        pipelines=("ldm-inpainting",),
        slots={"unet": PLAIN_UNET, "vae": FIRST_STAGE},
        absent=CROSS_ATTENTION,
        extra=(MASKED,),
        steps=50,
        overlay=True,
    ),
    plain(
        name="ldm-semantic",
        configs=CONFIGS / "ldm-semantic",
        pipelines=("ldm-semantic",),
        slots={"unet": PLAIN_UNET, "vae": FIRST_STAGE, "segmentation": MAPPER},
        absent=CROSS_ATTENTION,
        extra=((SEGMENTATION,),),
        steps=200,
    ),
    ldm(
        name="ldm-class",
        configs=CONFIGS / "ldm-class",
        pipelines=("ldm-class",),
        configs_by_width={256: CONFIGS / "ldm-class-f8"},
        slots={"unet": CROSS_UNET, "vae": FIRST_STAGE, "class_embedding": CLASSES},
        mark=f"{CLASSES.prefix}weight",
        values={"vae": {"_class_name": AUTOENCODERS}},
        steps=20,
        guidance=3.0,
    ),
    ldm(
        name="rdm",
        configs=CONFIGS / "rdm",
        pipelines=("rdm",),
        slots={"unet": CROSS_UNET, "vae": FIRST_STAGE},
        mark=f"{CROSS_ATTENTION[0]}0.attn2.to_k.weight",
        absent=(CONDITION,),
        context_vectors=True,
        steps=50,
        guidance=5.0,
    ),
    ldm(
        name="ldm-layout",
        configs=CONFIGS / "ldm-layout",
        pipelines=("ldm-layout",),
        slots={"unet": CROSS_UNET, "vae": FIRST_STAGE, "layout_encoder": BERT_SLOT},
        mark=TOKENS,
        values={"vae": {"_class_name": AUTOENCODERS}},
        steps=200,
        guidance=1.0,
    ),
)
