"""LoRA files for the built-in model, written without the safetensors package."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np


def save_lora(path: Path, seed: int, notes: dict[str, str] | None = None) -> Path:
    """A file of random layers for the built-in model's UNet and text encoder, in kohya's layout."""
    shapes = {
        "lora_unet_conv_in": ((2, 4, 3, 3), (64, 2, 1, 1)),
        "lora_te_text_model_encoder_layers_0_self_attn_q_proj": ((2, 256), (256, 2)),
    }
    random, header, data = np.random.default_rng(seed), dict[str, Any](), b""
    for layer, (down, up) in shapes.items():
        for half, shape in (("down", down), ("up", up)):
            tensor = (0.3 * random.standard_normal(shape)).astype(np.float32).tobytes()
            offsets = [len(data), len(data) + len(tensor)]
            header[f"{layer}.lora_{half}.weight"] = {"dtype": "F32", "shape": shape, "data_offsets": offsets}
            data += tensor
    written = json.dumps(header | ({"__metadata__": notes} if notes else {})).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(written)) + written + data)
    return path
