"""Stable Diffusion 3 and 3.5, Esser et al. (2024): a transformer that attends to CLIP's and T5's states."""

from functools import partial

from latentrt_export.checkpoint.family import Encoder, Family, Slot
from latentrt_export.checkpoint.layouts import folder_keys
from latentrt_export.checkpoint.paths import CONFIGS
from latentrt_export.checkpoint.unigram import PADDED_T5
from latentrt_export.networks.component import Config

# The tokens of T5's rows in the pipelines of diffusers 0.42.1, of which none is masked.
TOKENS = 256
SLOTS = dict.fromkeys(("transformer", "vae", "text_encoder", "text_encoder_2"), Slot("", folder_keys))
VALUES: dict[str, Config] = {
    "transformer": {"_class_name": "SD3Transformer2DModel", "qk_norm": (None, "rms_norm")},
}
CLIPS = {
    "text_encoder": Encoder(skipped=1, normed=False, pooled=True),
    "text_encoder_2": Encoder(skipped=1, normed=False, pooled=True, tokenizer="tokenizer_2"),
}
T5 = Encoder(tokenizer="tokenizer_3", vocabulary=PADDED_T5, tokens=TOKENS, filled=True)
sd3 = partial(
    Family,
    configs=CONFIGS,
    pipelines=tuple(f"StableDiffusion3{kind}Pipeline" for kind in ("", "Img2Img", "Inpaint", "PAG", "PAGImg2Img")),
    mark="",
    values=VALUES,
    extra=((),),
    steps=28,
    guidance=7.0,
    float32_vae=True,
)

SD3_FAMILIES = (
    sd3(
        name="sd3",
        slots={**SLOTS, "text_encoder_3": Slot("", folder_keys)},
        encoders={**CLIPS, "text_encoder_3": T5},
    ),
    sd3(name="sd3-without-t5", slots=SLOTS, encoders=CLIPS, missing=TOKENS),
)
