"""FLUX.2 klein, Black Forest Labs (2026): a transformer that attends to inner states of Qwen3 beside the picture."""

from functools import partial

from latentrt_export.checkpoint.byte_pairs import QWEN
from latentrt_export.checkpoint.family import Encoder, Family, Slot
from latentrt_export.checkpoint.layouts import folder_keys
from latentrt_export.checkpoint.paths import CONFIGS
from latentrt_export.networks.component import Config

VALUES: dict[str, Config] = {
    "text_encoder": {"model_type": "qwen3", "use_sliding_window": False},
    "transformer": {"_class_name": "Flux2Transformer2DModel", "guidance_embeds": False, "patch_size": 1},
    "vae": {"_class_name": "AutoencoderKLFlux2"},
}
klein = partial(
    Family,
    configs=CONFIGS,
    pipelines=("Flux2KleinPipeline", "Flux2KleinInpaintPipeline"),
    slots=dict.fromkeys(("transformer", "vae", "text_encoder"), Slot("", folder_keys)),
    mark="",
    # The layers that the pipelines of diffusers 0.42.1 read.
    encoders={"text_encoder": Encoder(vocabulary=QWEN, tokens=512, states=(9, 18, 27))},
    values=VALUES,
    extra=((),),
    float32_vae=True,
    size_shift="flux2",
)

FLUX2_FAMILIES = (
    klein(name="flux2-klein", index={"is_distilled": True}, guided=False, steps=4, guidance=1.0),
    klein(name="flux2-klein-base", index={"is_distilled": False}, steps=50, guidance=4.0),
)
