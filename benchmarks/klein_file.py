"""The transformer of a folder of FLUX.2 klein as one file in its original layout, which stable-diffusion.cpp reads.

python -m benchmarks.klein_file FOLDER FILE.safetensors
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

# Names of diffusers, as patterns, and those of the original.
NAMES = {
    r"x_embedder\.": "img_in.",
    r"context_embedder\.": "txt_in.",
    r"time_guidance_embed\.timestep_embedder\.linear_1\.": "time_in.in_layer.",
    r"time_guidance_embed\.timestep_embedder\.linear_2\.": "time_in.out_layer.",
    r"((double|single)_stream_modulation\w*)\.linear\.": r"\1.lin.",
    r"norm_out\.linear\.": "final_layer.adaLN_modulation.1.",
    r"proj_out\.": "final_layer.linear.",
    r"single_transformer_blocks\.(\d+)\.attn\.to_qkv_mlp_proj\.": r"single_blocks.\1.linear1.",
    r"single_transformer_blocks\.(\d+)\.attn\.to_out\.": r"single_blocks.\1.linear2.",
    r"single_transformer_blocks\.(\d+)\.attn\.norm_q\.weight": r"single_blocks.\1.norm.query_norm.scale",
    r"single_transformer_blocks\.(\d+)\.attn\.norm_k\.weight": r"single_blocks.\1.norm.key_norm.scale",
    r"transformer_blocks\.(\d+)\.attn\.to_out\.0\.": r"double_blocks.\1.img_attn.proj.",
    r"transformer_blocks\.(\d+)\.attn\.to_add_out\.": r"double_blocks.\1.txt_attn.proj.",
    r"transformer_blocks\.(\d+)\.attn\.norm_q\.weight": r"double_blocks.\1.img_attn.norm.query_norm.scale",
    r"transformer_blocks\.(\d+)\.attn\.norm_k\.weight": r"double_blocks.\1.img_attn.norm.key_norm.scale",
    r"transformer_blocks\.(\d+)\.attn\.norm_added_q\.weight": r"double_blocks.\1.txt_attn.norm.query_norm.scale",
    r"transformer_blocks\.(\d+)\.attn\.norm_added_k\.weight": r"double_blocks.\1.txt_attn.norm.key_norm.scale",
    r"transformer_blocks\.(\d+)\.ff\.linear_in\.": r"double_blocks.\1.img_mlp.0.",
    r"transformer_blocks\.(\d+)\.ff\.linear_out\.": r"double_blocks.\1.img_mlp.2.",
    r"transformer_blocks\.(\d+)\.ff_context\.linear_in\.": r"double_blocks.\1.txt_mlp.0.",
    r"transformer_blocks\.(\d+)\.ff_context\.linear_out\.": r"double_blocks.\1.txt_mlp.2.",
}
# Queries, keys and values, which are one matrix in the original: names in a block, and the name there.
STACKED = {
    "img_attn": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
}


def original(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yields the transformer's weights under the names of the original. Raises KeyError for an unknown name."""
    stacked = dict(stacks(tensors))
    parts = {name for names in stacked.values() for name in names}
    for name, tensor in tensors.items():
        if name not in parts:
            yield renamed(name), halves_exchanged(tensor) if name.startswith("norm_out") else tensor
    for name, names in stacked.items():
        yield name, torch.cat([tensors[one] for one in names])


def stacks(names: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """The stacked matrices of the original, with the names of their parts."""
    for block in sorted({one[1] for name in names if (one := re.match(r"transformer_blocks\.(\d+)", name))}, key=int):
        for stream, parts in STACKED.items():
            found = [f"transformer_blocks.{block}.{part}.weight" for part in parts]
            yield f"double_blocks.{block}.{stream}.qkv.weight", found


def renamed(name: str) -> str:
    """The name in the original. Raises KeyError if there is none."""
    for pattern, there in NAMES.items():
        if re.match(pattern, name):
            return re.sub(f"^{pattern}", there, name)
    raise KeyError(name)


def halves_exchanged(tensor: Tensor) -> Tensor:
    """The last norm's matrix: scales come first in diffusers, shifts in the original."""
    scales, shifts = tensor.chunk(2)
    return torch.cat([shifts, scales])


def write(folder: Path, file: Path) -> None:
    """Writes the file from a folder of diffusers."""
    with safe_open(folder / "transformer" / "diffusion_pytorch_model.safetensors", "pt") as stored:
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118: it is no dictionary
    save_file(dict(original(tensors)), file)


def main() -> None:
    """Writes the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("file", type=Path)
    given = parser.parse_args()
    write(given.folder, given.file)


if __name__ == "__main__":
    main()
