"""Exports transformers of published shapes in 4 bits, and draws with them; seconds and peak memory of each command.

    python -m benchmarks.transformers [klein] [pixart] [--work DIR] [--precision w4] [--engines onnxruntime,openvino]
                                      [--memory-budget 4]

FLUX.2 klein 4B draws 512x512 in 4 steps, PixArt-Sigma with T5-XXL in 20; klein-fifth is klein with a fifth of its
transformer's blocks. The checkpoints have random weights in half precision (16 and 11 GB) and are written once. Peak
memory is the operating system's figure for the process of each line, mapped weights included.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderKLFlux2, Flux2Transformer2DModel, PixArtTransformer2DModel
from diffusers.configuration_utils import ConfigMixin
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import Qwen3Config, Qwen3ForCausalLM, T5Config, T5EncoderModel

from benchmarks.calibrate_sd15 import line
from benchmarks.checkpoint import config
from benchmarks.export_sd15 import ROOT, run_measured
from benchmarks.machine import machine, one_line
from benchmarks.transformer_shapes import KLEIN, PIXART, QWEN3, T5_XXL
from latentrt.bundle.folder import open_bundle
from tests.export import klein, pixart

PROMPT = "a photograph of two cats on a wooden table"
FIFTH = {"num_layers": 1, "num_single_layers": 4}  # of the blocks of each kind


@dataclass(frozen=True)
class Model:
    """A published model's shape.

    small: a small pipeline of its kind, whose tokenizer and scheduler are taken. parts: makes each component.
    """

    steps: int
    small: Callable[[], Any]
    parts: Mapping[str, Callable[[], nn.Module]]


MODELS = {
    "klein": Model(
        4,
        klein.reference,
        {
            "text_encoder": lambda: Qwen3ForCausalLM(Qwen3Config(**QWEN3)),
            "transformer": lambda: Flux2Transformer2DModel(**KLEIN),
            "vae": AutoencoderKLFlux2,
        },
    ),
    "klein-fifth": Model(
        4,
        klein.reference,
        {
            "text_encoder": lambda: Qwen3ForCausalLM(Qwen3Config(**QWEN3)),
            "transformer": lambda: Flux2Transformer2DModel(**KLEIN | FIFTH),
            "vae": AutoencoderKLFlux2,
        },
    ),
    "pixart": Model(
        20,
        pixart.reference,
        {
            "text_encoder": lambda: T5EncoderModel(T5Config(**T5_XXL)),
            "transformer": lambda: PixArtTransformer2DModel(**PIXART),
            "vae": lambda: AutoencoderKL.from_config(config("vae", "sdxl")),
        },
    ),
}
FULL = ("klein", "pixart")


def save(model: Model, folder: Path) -> None:
    """Writes the checkpoint as a folder of diffusers."""
    model.small().save_pretrained(folder)
    random = torch.Generator().manual_seed(0)
    for name, make in model.parts.items():
        with torch.device("meta"):
            module = make()
        stem = "diffusion_pytorch_model"
        if isinstance(module, ConfigMixin):
            module.save_config(folder / name)
        else:
            module.config.save_pretrained(folder / name)
            stem = "model"
        tensors = {key: drawn(key, one, random) for key, one in module.named_parameters()}
        tensors |= {key: torch.ones(one.shape) for key, one in module.named_buffers() if key.startswith("bn.running")}
        save_file(tensors, folder / name / f"{stem}.safetensors", {"format": "pt"})


def write_checkpoint(name: str, folder: Path) -> None:
    """Writes the model's checkpoint; an unfinished one has another name."""
    save(MODELS[name], temporary := folder.with_name(f"{folder.name}.tmp"))
    temporary.rename(folder)


def drawn(name: str, like: Tensor, random: torch.Generator) -> Tensor:
    """A random weight in half precision that keeps the size of what it is applied to; norms' scales are 1, biases 0."""
    if like.ndim == 1:
        return torch.full(like.shape, float(name.endswith("weight")), dtype=torch.float16)
    fan = like[0].numel()
    if name.endswith("SelfAttention.q.weight"):  # T5 does not divide its scores by the root of their 64 channels
        fan *= T5_XXL["d_kv"]
    return torch.empty(like.shape, dtype=torch.float16).normal_(0, fan**-0.5, generator=random)


def main() -> None:
    """Makes each checkpoint, exports it, draws with every engine, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "models",
        nargs="*",
        metavar="MODEL",
        choices=[*MODELS, []],
        help=f"of {', '.join(MODELS)}; {' and '.join(FULL)} by default",
    )
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "transformers")
    parser.add_argument("--precision", default="w4")
    parser.add_argument("--engines", default="onnxruntime,openvino")
    parser.add_argument("--memory-budget", default="4")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    print(f"{one_line(machine())}\n\n| | s | peak GB | |\n|---|---|---|---|", flush=True)
    for name in given.models or FULL:
        bundle = given.work / f"{name}-{given.precision}"
        if not bundle.exists():
            export(name, given.work / name, bundle, given.precision)
        for engine in given.engines.split(","):
            picture = given.work / f"{name}-{engine}.png"
            command = ["generate", PROMPT, "--bundle", bundle, "--size", "512x512", "--steps", MODELS[name].steps]
            command += ["--engine", engine, "--memory-budget", given.memory_budget, "--out", picture]
            print(line(f"{name}: {MODELS[name].steps} steps, {engine}", run(command), ""), flush=True)


def export(name: str, checkpoint: Path, bundle: Path, precision: str) -> None:
    """Makes the checkpoint if it is missing, exports it and prints a row."""
    if not checkpoint.exists():
        # In a process of its own: the peak of one that held the weights would hide those of the commands.
        writer = get_context("spawn").Process(target=write_checkpoint, args=(name, checkpoint))
        writer.start()
        writer.join()
    found = run(["export", checkpoint, bundle, "--precision", precision])
    print(line(f"{name}: export", found, sizes(bundle)), flush=True)


def run(command: list[object]) -> tuple[float, int]:
    """Seconds and peak bytes of a command of latentrt."""
    return run_measured([sys.executable, "-m", "latentrt", *map(str, command)], sys.stderr)


def sizes(bundle: Path) -> str:
    """The gigabytes of the bundle's largest components."""
    manifest = open_bundle(bundle, verify=False).manifest
    found = {
        name: sum(manifest.files[file].bytes for file in (one.file, *one.data)) / 1e9
        for name, one in manifest.components.items()
    }
    return ", ".join(f"{name} {size:.2f} GB" for name, size in found.items() if size > 0.05)


if __name__ == "__main__":
    main()
