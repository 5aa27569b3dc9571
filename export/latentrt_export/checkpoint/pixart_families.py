"""The systems of the PixArt papers, Chen et al. (2023 and 2024): a transformer that attends to T5's states."""

from functools import partial

from latentrt_export.checkpoint.family import Encoder, Family, Slot
from latentrt_export.checkpoint.layouts import folder_keys
from latentrt_export.checkpoint.paths import CONFIGS
from latentrt_export.checkpoint.unigram import T5
from latentrt_export.networks.component import Config

FOLDER_SLOT = Slot("", folder_keys)
# The first folders were written before diffusers had a class of its own for the transformer.
TRANSFORMERS = ("PixArtTransformer2DModel", "Transformer2DModel")
VALUES: dict[str, Config] = {
    "text_encoder": {"model_type": "t5"},
    "transformer": {
        "_class_name": TRANSFORMERS,
        "norm_type": "ada_norm_single",
        "norm_elementwise_affine": False,
        "attention_type": "default",
    },
}
pixart = partial(
    Family,
    configs=CONFIGS,
    slots=dict.fromkeys(("transformer", "vae", "text_encoder"), FOLDER_SLOT),
    mark="",
    values=VALUES,
    extra=((),),
    guidance=4.5,
    loras=False,
)

PIXART_FAMILIES = (
    pixart(
        name="pixart-sigma",
        pipelines=("PixArtSigmaPipeline", "PixArtSigmaPAGPipeline"),
        encoders={"text_encoder": Encoder(vocabulary=T5, tokens=300)},
        values={**VALUES, "transformer": {**VALUES["transformer"], "use_additional_conditions": False}},
        float32_vae=True,
    ),
    pixart(
        name="pixart-alpha",
        pipelines=("PixArtAlphaPipeline",),
        encoders={"text_encoder": Encoder(vocabulary=T5, tokens=120)},
    ),
)
