"""Calibrates a bundle of Stable Diffusion 1.5's shape and prints time, peak memory and where the result loads.

    python -m benchmarks.calibrate_sd15 [--work DIR] [--images 1] [--steps 2] [--precision fp32] [cpu] [tensorrt]

The weights are random, so that fidelity says nothing and one picture of few steps is enough: what counts is that the
UNet of 3.4 GB goes through all stages. `benchmarks.export_sd15` makes the bundle where it is not there. Peak memory is
the operating system's figure for the whole `latentrt calibrate` process.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.export_sd15 import ROOT, run_measured
from latentrt.bundle import open_bundle
from latentrt.manifest import Manifest

PROMPT = "a red bicycle leaning against a white wall\n"


def bundle_of(work: Path, precision: str) -> Path:
    """The float bundle, exported if it is not there."""
    if not (work / precision).exists():
        subprocess.run(
            [sys.executable, "-m", "benchmarks.export_sd15", precision, "--work", work], cwd=ROOT, check=True
        )
    return work / precision


def calibrated(bundle: Path, target: str, images: int, steps: int) -> str:
    """Calibrates for one target; a row of the table."""
    out, prompts = bundle.parent / f"int8-{target}", bundle.parent / "prompts.txt"
    shutil.rmtree(out, ignore_errors=True)
    prompts.write_text(PROMPT)
    counts = ["--images", str(images), "--evaluations", "1", "--steps", str(steps)]
    # Random weights keep no picture: with no budget to hold, every layer is quantized.
    options = ["--target", target, "--prompts", str(prompts), *counts, "--budget", "0"]
    command = [sys.executable, "-m", "latentrt", "calibrate", str(bundle), str(out), *options]
    seconds, peak = run_measured(command)
    manifest = open_bundle(out).manifest
    quantization = manifest.components["unet"].quantization
    assert quantization is not None
    sizes = f"{quantization.bytes_before / 1e9:.2f} | {unet_bytes(manifest) / 1e9:.2f}"
    return f"| {target} | {seconds:.0f} | {peak / 1e9:.1f} | {sizes} | {quantization.share_of_layers:.1%} |"


def unet_bytes(manifest: Manifest) -> int:
    """The bytes of the UNet's graph and weights."""
    component = manifest.components["unet"]
    return sum(manifest.files[file].bytes for file in (component.file, *component.data))


def main() -> None:
    """Makes the bundle, calibrates it for each target, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", default=["cpu", "tensorrt"])
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "sd15")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--images", type=int, default=1)
    parser.add_argument("--steps", type=int, default=2)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    bundle = bundle_of(given.work, given.precision)
    print(
        f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    )
    print(
        "| target | s | peak GB | UNet GB before | UNet GB after | MACs of layers in INT8 |\n|---|---|---|---|---|---|"
    )
    for target in given.targets:
        print(calibrated(bundle, target, given.images, given.steps), flush=True)


if __name__ == "__main__":
    main()
