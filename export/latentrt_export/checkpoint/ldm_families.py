"""The systems of the latent diffusion paper, Rombach et al. (2022), each a family."""

from collections.abc import Mapping

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
CLASS_PREFIX = "cond_stage_model.embedding."
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
# The last layer of the first cross-attention, which UNets without any lack.
CROSS_ATTENTION = tuple(f"{UNET_PREFIX}input_blocks.{block}.1.transformer_blocks." for block in (1, 4, 7))


# In the order of the UNet's channels. Holes are black, and the mask is -1 or 1, where Stable Diffusion's is 0 or 1.
MASKED = (ExtraChannels("masked_image", 0, fill=-1.0), ExtraChannels("mask", 1, (-1.0, 1.0)))
MAPPER_PREFIX = "cond_stage_model.channel_mapper."


def class_keys(tensors: Tensors, config: Config) -> Tensors:
    """The table of class embeddings under the name of its module."""
    return {key.removeprefix(CLASS_PREFIX): tensor for key, tensor in tensors.items()}


def mapper_keys(tensors: Tensors, config: Config) -> Tensors:
    """The map of labels to channels under the name of its module."""
    return {key.removeprefix(MAPPER_PREFIX): tensor for key, tensor in tensors.items()}


LDM_FAMILIES = (
    Family(
        name="ldm-text",
        configs=CONFIGS / "ldm-text-large",
        pipelines=("LDMTextToImagePipeline", "LatentDiffusionPipeline"),
        slots={"unet": CROSS_UNET, "vae": FIRST_STAGE, "text_encoder": Slot(BERT_PREFIX, bert_keys, UNREAD)},
        folders={"vae": "vqvae", "text_encoder": "bert"},
        mark=TOKENS,
        encoders={"text_encoder": Encoder(vocabulary=BERT)},
        values={"text_encoder": {"model_type": "ldmbert"}, "vae": {"_class_name": AUTOENCODERS}},
        extra=((),),
        averaged=True,
        steps=50,
        guidance=5.0,
        configs_by_channels={3: CONFIGS / "ldm-text-256"},
    ),
    Family(
        name="ldm-unconditional",
        configs=CONFIGS / "ldm-celebahq",
        configs_by_width={192: CONFIGS / "ldm-churches"},
        pipelines=("LDMPipeline",),
        slots={"unet": PLAIN_UNET, "vae": FIRST_STAGE},
        folders={"vae": "vqvae"},
        mark=TIME_MARK,
        mark_width="block_out_channels",
        absent=(CONDITION, *CROSS_ATTENTION),
        averaged=True,
        encoders={},
        values=PLAIN_VALUES,
        extra=((),),
        steps=50,
        guidance=1.0,
    ),
    Family(
        name="ldm-super-resolution",
        configs=CONFIGS / "ldm-super-resolution",
        pipelines=("LDMSuperResolutionPipeline",),
        slots={"unet": PLAIN_UNET, "vae": FIRST_STAGE},
        folders={"vae": "vqvae"},
        mark=TIME_MARK,
        mark_width="block_out_channels",
        absent=(CONDITION, *CROSS_ATTENTION),
        averaged=True,
        encoders={},
        values=PLAIN_VALUES,
        extra=((LOW_RESOLUTION,),),
        steps=100,
        guidance=1.0,
        eta=1.0,
    ),
    Family(
        name="ldm-inpainting",
        configs=CONFIGS / "ldm-inpainting",
        pipelines=(),
        slots={"unet": PLAIN_UNET, "vae": FIRST_STAGE},
        mark=TIME_MARK,
        mark_width="block_out_channels",
        absent=CROSS_ATTENTION,
        averaged=True,
        encoders={},
        values=PLAIN_VALUES,
        extra=(MASKED,),
        steps=50,
        guidance=1.0,
        overlay=True,
    ),
    Family(
        name="ldm-semantic",
        configs=CONFIGS / "ldm-semantic",
        pipelines=(),
        slots={"unet": PLAIN_UNET, "vae": FIRST_STAGE, "segmentation": Slot(MAPPER_PREFIX, mapper_keys)},
        mark=TIME_MARK,
        mark_width="block_out_channels",
        absent=CROSS_ATTENTION,
        averaged=True,
        encoders={},
        values=PLAIN_VALUES,
        extra=((SEGMENTATION,),),
        steps=200,
        guidance=1.0,
    ),
    Family(
        name="ldm-class",
        configs=CONFIGS / "ldm-class",
        configs_by_width={256: CONFIGS / "ldm-class-f8"},
        pipelines=(),
        slots={"unet": CROSS_UNET, "vae": FIRST_STAGE, "class_embedding": Slot(CLASS_PREFIX, class_keys)},
        mark=f"{CLASS_PREFIX}weight",
        averaged=True,
        encoders={},
        values={"vae": {"_class_name": AUTOENCODERS}},
        extra=((),),
        steps=20,
        guidance=3.0,
    ),
    Family(
        name="rdm",
        configs=CONFIGS / "rdm",
        pipelines=(),
        slots={"unet": CROSS_UNET, "vae": FIRST_STAGE},
        mark=f"{CROSS_ATTENTION[0]}0.attn2.to_k.weight",
        absent=(CONDITION,),
        averaged=True,
        encoders={},
        extra=((),),
        context_vectors=True,
        steps=50,
        guidance=5.0,
    ),
    Family(
        name="ldm-layout",
        configs=CONFIGS / "ldm-layout",
        pipelines=(),
        slots={"unet": CROSS_UNET, "vae": FIRST_STAGE, "layout_encoder": Slot(BERT_PREFIX, bert_keys, UNREAD)},
        mark=TOKENS,
        averaged=True,
        encoders={},
        values={"vae": {"_class_name": AUTOENCODERS}},
        extra=((),),
        steps=200,
        guidance=1.0,
    ),
)
