"""The systems of the latent diffusion paper, Rombach et al. (2022), each a family."""

from collections.abc import Mapping

from latentrt.bundle.sources import LOW_RESOLUTION
from latentrt_export.checkpoint.bert_layout import PREFIX, TOKENS, UNREAD, bert_keys
from latentrt_export.checkpoint.family import Encoder, Family, Slot
from latentrt_export.checkpoint.layouts import unet_keys, vae_keys
from latentrt_export.checkpoint.paths import CONFIGS
from latentrt_export.checkpoint.word_pieces import BERT
from latentrt_export.networks.component import Config

TIME_MARK = "model.diffusion_model.time_embed.0.weight"
UNET = Slot("model.diffusion_model.", unet_keys)
FIRST_STAGE = Slot("first_stage_model.", vae_keys)
AUTOENCODERS = ("VQModel", "AutoencoderKL")
TIME_SHIFTS = ("default", "scale_shift")
PLAIN_UNET: Mapping[str, Config] = {
    "unet": {"_class_name": "UNet2DModel", "resnet_time_scale_shift": TIME_SHIFTS},
    "vae": {"_class_name": AUTOENCODERS},
}

LDM_FAMILIES = (
    Family(
        name="ldm-text",
        configs=CONFIGS / "ldm-text-large",
        pipelines=("LDMTextToImagePipeline", "LatentDiffusionPipeline"),
        slots={"unet": UNET, "vae": FIRST_STAGE, "text_encoder": Slot(PREFIX, bert_keys, UNREAD)},
        folders={"vae": "vqvae", "text_encoder": "bert"},
        mark=TOKENS,
        encoders={"text_encoder": Encoder(vocabulary=BERT)},
        values={"text_encoder": {"model_type": "ldmbert"}, "vae": {"_class_name": AUTOENCODERS}},
        extra=((),),
        steps=50,
        guidance=5.0,
        configs_by_channels={3: CONFIGS / "ldm-text-256"},
    ),
    Family(
        name="ldm-unconditional",
        configs=CONFIGS / "ldm-celebahq",
        pipelines=("LDMPipeline",),
        slots={"unet": UNET, "vae": FIRST_STAGE},
        folders={"vae": "vqvae"},
        mark=TIME_MARK,
        mark_width="model_channels",
        encoders={},
        values=PLAIN_UNET,
        extra=((),),
        steps=50,
        guidance=1.0,
    ),
    Family(
        name="ldm-super-resolution",
        configs=CONFIGS / "ldm-super-resolution",
        pipelines=("LDMSuperResolutionPipeline",),
        slots={"unet": UNET, "vae": FIRST_STAGE},
        folders={"vae": "vqvae"},
        mark=TIME_MARK,
        mark_width="model_channels",
        encoders={},
        values=PLAIN_UNET,
        extra=((LOW_RESOLUTION,),),
        steps=100,
        guidance=1.0,
    ),
)
