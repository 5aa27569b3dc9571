"""Quantized weights in checkpoints: fp8 with a scale is read, every other kind is refused by its name.

Keys are those that bitsandbytes, ComfyUI, optimum-quanto and AutoGPTQ write beside a weight.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

from latentrt.errors import CheckpointError
from latentrt_export.checkpoint.layouts import Shape

# Keys beside a weight, by kind of quantization.
KINDS = {
    "bitsandbytes, 4 bits (NF4 or FP4)": re.compile(r"\.(absmax|quant_map|nested_absmax|quant_state\..*)$"),
    "bitsandbytes, INT8": re.compile(r"\.(SCB|weight_format)$"),
    "optimum-quanto": re.compile(r"\.weight\._(data|scale|shift)$"),
    "GPTQ or AWQ": re.compile(r"\.(qweight|qzeros)$"),
    "NVFP4": re.compile(r"\.weight_scale_2$"),
}
INTEGERS = ("I8", "U8", "I4", "U4", "F4", "F8_E8M0")
# ComfyUI's two names of an fp8 weight's scale; its other keys change nothing in float32.
SCALES = (".scale_weight", ".weight_scale")
IDLE = re.compile(r"(^|\.)(scaled_fp8|scale_input|input_scale|comfy_quant)$")


def refuse_quantized(file: Path, types: Mapping[str, str]) -> None:
    """Raises CheckpointError for a file whose weights are not floats. types: dtype of each key."""
    for kind, pattern in KINDS.items():
        if found := next(filter(pattern.search, types), None):
            raise CheckpointError(refusal(file, kind, found))
    for key, dtype in types.items():
        if key.endswith(".weight") and dtype in INTEGERS:
            raise CheckpointError(refusal(file, dtype, key))


def refusal(file: Path, kind: str, key: str) -> str:
    """The message about a quantized file."""
    return f"{file} is quantized ({kind}: {key}), expected floats: fetch the model in fp16, bf16, fp32 or fp8"


def without_scales(file: Path, shapes: Mapping[str, Shape]) -> dict[str, str | None]:
    """Returns the model's keys in a file, each with the key of its scale or None.

    Raises CheckpointError for a scale that is neither one number nor one number per row.
    """
    scales = {}
    for key, shape in shapes.items():
        suffix = next((suffix for suffix in SCALES if key.endswith(suffix)), None)
        weight = f"{key.removesuffix(suffix)}.weight" if suffix else ""
        if weight not in shapes:
            continue
        if math.prod(shape) not in (1, shapes[weight][0] if shapes[weight] else 1):
            raise CheckpointError(refusal(file, f"in blocks, {weight} of {shapes[weight]} by {shape}", key))
        scales[weight] = key
    used = set(scales.values())
    return {key: scales.get(key) for key in shapes if key not in used and not IDLE.search(key)}
