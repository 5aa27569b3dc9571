"""Small input files like those of users' reports: checkpoints, LoRA files, pictures and prompts."""

from __future__ import annotations

import json
import shutil
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, PngImagePlugin
from safetensors.torch import load_file, save_file

from tests.export import tiny
from tests.export import tiny_families as families

# Stable Diffusion 1 with two layers per block, by the numbering of single files.
DEEP = {**families.SD1, "unet": {**tiny.UNET, "layers_per_block": 2}}
SD1 = replace(families.TINY["sd1"], configs=DEEP, file=families.sd1_file)
LAYER = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
WIDTH = 64


def checkpoints(folder: Path) -> None:
    """Writes `sd1` and `sdxl`, each as one file with its configs and tokenizer, and as a folder of diffusers."""
    for name, family in {"sd1": SD1, "sdxl": families.FILES["sdxl"]}.items():
        (folder / name).mkdir()
        families.save_file(family, folder / name / "m.safetensors")
        families.save_tokenizer(folder / name / "tok", families.EOS)
        families.reference(family, folder / f"{name}-tokenizers").save_pretrained(folder / f"{name}-folder")


def variant(
    folder: Path, base: str, name: str, extra: dict[str, torch.Tensor] | None = None, change: Any = None
) -> Path:
    """Writes the single file of a family with tensors added, or with all of its tensors changed; returns its path."""
    tensors = {key: change(key, t) if change else t for key, t in load_file(folder / base / "m.safetensors").items()}
    save_file({key: t.contiguous() for key, t in {**tensors, **(extra or {})}.items()}, folder / name)
    return folder / name


def folder_variant(folder: Path, base: str, name: str) -> Path:
    """Copies the folder of a family, for changes; returns its path."""
    shutil.copytree(folder / f"{base}-folder", folder / name)
    return folder / name


def edit_json(file: Path, **changes: Any) -> None:
    """Changes entries of a JSON file."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def lora(file: Path, tensors: dict[str, torch.Tensor], notes: dict[str, str] | None = None) -> Path:
    """Writes the tensors of one layer, by name, as a LoRA file; returns its path."""
    file.parent.mkdir(exist_ok=True)
    save_file({f"{LAYER}.{name}": tensor.clone() for name, tensor in tensors.items()}, file, notes)
    return file


def pair(rank: int = 4) -> dict[str, torch.Tensor]:
    """Random down and up tensors of a LoRA of the layer."""
    random = torch.Generator().manual_seed(rank)
    down, up = torch.randn(rank, WIDTH, generator=random), torch.randn(WIDTH, rank, generator=random)
    return {"lora_down.weight": down, "lora_up.weight": up}


def peft_folder(folder: Path) -> Path:
    """Writes a folder as peft saves it, with an adapter of rank 4 and alpha 16; returns its path."""
    folder.mkdir()
    path = "base_model.model.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    names = {"lora_down.weight": "lora_A.weight", "lora_up.weight": "lora_B.weight"}
    save_file({f"{path}.{names[name]}": t for name, t in pair().items()}, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 16, "target_modules": ["to_q"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def palette_picture(file: Path) -> Path:
    """Writes a palette PNG with a transparency value per colour; returns its path."""
    image = Image.fromarray(np.arange(64 * 64, dtype=np.uint8).reshape(64, 64) % 200, "L").convert("P")
    image.save(file, transparency=bytes(range(256)))
    return file


def empty_picture(file: Path) -> Path:
    """Writes a PNG with latentrt's text chunk but without data; returns its path."""
    notes = PngImagePlugin.PngInfo()
    notes.add_text("latentrt", "{}")
    Image.new("RGB", (8, 8)).save(file, pnginfo=notes)
    return file


def picture_of(file: Path, **notes: str) -> Path:
    """Writes a PNG with another tool's texts; returns its path."""
    known = PngImagePlugin.PngInfo()
    for name, text in notes.items():
        known.add_text(name, text)
    Image.new("RGB", (16, 16)).save(file, pnginfo=known)
    return file


def deep_picture(file: Path) -> Path:
    """Writes a 16-bit depth map; returns its path."""
    rows = np.linspace(0, 65535, 64).astype(">u2")
    lines = b"".join(b"\0" + np.repeat(value, 64).astype(">u2").tobytes() for value in rows)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 64, 64, 16, 0, 0, 0, 0)
    file.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    )
    return file
