"""Measures time and peak memory of super-resolution with the latent diffusion paper's model, full size, random weights.

    python -m benchmarks.upscale [--work DIR] [--sides 128,512] [--steps 2] [--tile 64]

Writes a diffusers folder (LDMSuperResolutionPipeline) and a bundle in fp32, each once, and optimises a copy of the
bundle for this processor. Then `latentrt upscale` runs on a picture of noise, as it is and optimised. Peak memory is
the operating system's figure for the whole process. Time per step is the denoiser's, from --json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, LDMSuperResolutionPipeline, UNet2DModel, VQModel
from PIL import Image

from benchmarks.checkpoint import config
from benchmarks.export_sd15 import ROOT, run_measured
from benchmarks.machine import machine, one_line

MODEL = "ldm-super-resolution"


def save_checkpoint(folder: Path) -> None:
    """Writes the model's public config with torch's initial weights, and a codebook as spread as latents."""
    torch.manual_seed(0)
    unet = UNet2DModel.from_config(config("unet", MODEL))
    stage = VQModel.from_config(config("vae", MODEL))
    with torch.no_grad():
        stage.quantize.embedding.weight.normal_()
    scheduler = DDIMScheduler.from_config(config("scheduler", MODEL))
    temporary = folder.with_name(f"{folder.name}.tmp")
    LDMSuperResolutionPipeline(vqvae=stage, unet=unet, scheduler=scheduler).save_pretrained(temporary)
    temporary.rename(folder)


def bundles(work: Path) -> dict[str, Path]:
    """The bundle, and the one optimised for this processor, both made where they are missing."""
    latentrt = [sys.executable, "-m", "latentrt"]
    checkpoint, plain, optimised = work / "checkpoint", work / "bundle", work / "optimised"
    if not checkpoint.exists():
        save_checkpoint(checkpoint)
    if not plain.exists():
        subprocess.run([*latentrt, "export", str(checkpoint), str(plain)], cwd=ROOT, check=True)
    if not optimised.exists():
        shutil.copytree(plain, optimised)
        subprocess.run([*latentrt, "build", str(optimised), "--target", "cpu"], cwd=ROOT, check=True)
    return {"as exported": plain, "optimised": optimised}


def row(name: str, bundle: Path, side: int, work: Path, options: list[str]) -> str:
    """Enlarges a square picture of that side. Returns a row of the table."""
    source, out, report = work / f"{side}.png", work / "out.png", work / "report.json"
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(noise).save(source)
    command = [sys.executable, "-m", "latentrt", "upscale", str(source), "--out", str(out), "--bundle", str(bundle)]
    with report.open("w") as stdout:
        seconds, peak = run_measured([*command, "--engine", "cpu", "--json", *options], stdout)
    found = json.loads(report.read_text())
    phases = found["seconds"]
    per_step = phases["unet"] / found["settings"]["steps"]
    return (
        f"| {side} -> {found['settings']['width']} | {name} | {peak / 1e9:.2f} | {seconds:.0f} | {per_step:.1f} "
        f"| {phases['vae_decoder']:.1f} |"
    )


def main() -> None:
    """Makes the bundles, enlarges a picture of each side, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "upscale")
    parser.add_argument("--sides", default="128,512")
    parser.add_argument("--names", default="as exported,optimised")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--tile", type=int)
    parser.add_argument("--memory-budget", type=float)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    options = ["--steps", str(given.steps)]
    for name in ("tile", "memory_budget"):
        value = getattr(given, name)
        options += [] if value is None else [f"--{name.replace('_', '-')}", str(value)]
    made = bundles(given.work)
    print(f"{one_line(machine())}\noptions: {' '.join(options)}\n")
    print("| picture | bundle | peak GB | s | denoiser, s per step | decoder, s |\n|---|---|---|---|---|---|")
    for side in map(int, given.sides.split(",")):
        for name in given.names.split(","):
            print(row(name, made[name], side, given.work, options), flush=True)


if __name__ == "__main__":
    main()
