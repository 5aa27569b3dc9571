"""Files that are recognised by their keys but not supported: other adapters, other models, files that are no LoRA."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

# Kinds of adapter, by the ends of their keys.
KINDS = (
    (r"\.oft_R(\.[^.]+)*", "peft's OFT"),
    (r"\.boft_[Rs](\.[^.]+)*", "peft's BOFT"),
    (r"\.ia3_l(\.[^.]+)*", "peft's IA3"),
    (r"\.p?vera_lambda_\w+(\.[^.]+)*", "VeRA"),
    (r"\.lora_embedding_[AB](\.[^.]+)*", "peft's LoRA of an embedding"),
    (r"\.lora_E(\.[^.]+)*|\.ranknum(\.[^.]+)*", "AdaLoRA"),
    (r"\.glora_\w+(\.[^.]+)*", "peft's GLoRA"),
    (r"\.hra_u(\.[^.]+)*", "HRA"),
    (r"\.fourierft_\w+(\.[^.]+)*", "FourierFT"),
    (
        r"\.(vblora|randlora|road|shira|c3a|miss|bone|hira|delora|gralora|waveft|psoft|ln_tuning)_\w+(\.[^.]+)*",
        "another kind of peft's",
    ),
    (r"\.(q_layer|p_layer)\.weight|\.lambda_layer|\.base_(q|p|lambda)", "T-LoRA"),
    (r"\.glokr_\w+", "GLoKr"),
    (r"\.lokr_t1", "LoKr with a core in its smaller matrix"),
    (r"\.bm\.weight", "GLoRA with a core"),
    (r"\.(set_weight|reshape_weight)", "ComfyUI's whole weights"),
    (r"\.bias_(indices|values|size)", "LyCORIS's sparse biases"),
    (r"\.scalar", "LyCORIS in training"),
    (r"\.scale", "AUTOMATIC1111's scales of layers"),
    (r"\.modules_to_save\..+", "peft's modules_to_save"),
)
# Unsupported models, by parts of their layers' names.
FAMILIES = (
    (r"(double|single)_blocks|single_transformer_blocks|^transformer_", "Flux or another transformer"),
    (r"joint_blocks", "Stable Diffusion 3"),
    (r"^lora_te3_|t5xxl|^text_encoder_3_|^text_encoders_(t5|umt5|llama|qwen|gemma)", "a model with another encoder"),
    (r"^lora_prior_|^prior_", "Stable Cascade"),
    (r"motion_modules", "AnimateDiff"),
    (
        r"^(lora_unet_|lycoris_|(model_)?diffusion_model_)(blocks|layers|noise_refiner|context_refiner)_",
        "a transformer",
    ),
)
# Files of other kinds, by the beginnings of their keys, and what to do with one.
FILES = (
    (r"emb_params$|string_to_param|^clip_[lg]$|<.+>$", "an embedding", "give it with --embedding"),
    (r"model\.diffusion_model\.|first_stage_model\.|cond_stage_model\.|conditioner\.", "a checkpoint", "export it"),
    (r"control_model\.|controlnet_|input_hint_block\.", "a ControlNet", "give it with --control"),
    (r"image_proj\.|ip_adapter\.", "an IP-Adapter", "give it with --image-prompt"),
    (r"(down_blocks|encoder\.|text_model\.)", "a whole component of a diffusers folder", "give the folder to export"),
)


def kind_of(keys: Iterable[str]) -> tuple[str, str] | None:
    """The first key of an unsupported kind of adapter, and the kind's name; None if there is none."""
    for key in keys:
        for ending, kind in KINDS:
            if re.search(f"({ending})$", key):
                return key, kind
    return None


def family_of(layers: Sequence[str]) -> str | None:
    """The unsupported model that the layers' names belong to; None if it is unknown."""
    return next((family for mark, family in FAMILIES if any(re.search(mark, layer) for layer in layers)), None)


def file_of(keys: Sequence[str]) -> tuple[str, str] | None:
    """The kind of file with these keys, and what to do with it; None if it is unknown."""
    return next(((kind, what) for start, kind, what in FILES if any(re.match(start, key) for key in keys)), None)
