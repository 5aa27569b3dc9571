"""Calibrates a bundle of Stable Diffusion 1.5's shape, loads and builds the result; time and peak memory of each.

    python -m benchmarks.calibrate_sd15 [--work DIR] [--size 64] [--images 1] [--steps 2] [--precision fp32]
                                        [--openvino PYTHON] [cpu] [tensorrt]

Weights are random, so fidelity means nothing, and one small picture of few steps is enough to take the UNet of 3.4 GB
through all stages. `benchmarks.export_sd15` makes the bundle if it is missing. The UNet of the cpu form is then called
once at 512x512 with guidance in ONNX Runtime, and also in OpenVINO if --openvino names an interpreter that has it. The
tensorrt form is built for SM86 and SM89, for pictures of 512x512. Peak memory is the operating system's figure for the
process of each line.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.export_sd15 import ROOT, run_measured
from benchmarks.machine import machine, one_line
from latentrt.bundle.folder import open_bundle, save_manifest
from latentrt.bundle.manifest import Manifest
from latentrt_calib.evaluate.metrics import snr_db

PROMPT = "a red bicycle leaning against a white wall\n"
GPUS, SIDE = "sm86,sm89", 512
SIZES = {"batch": 2, "height": SIDE // 8, "width": SIDE // 8, "tokens": 77}


def bundle_of(work: Path, precision: str, side: int) -> Path:
    """The float bundle, exported if it is missing, with the calibration size as its default size."""
    bundle = work / precision
    if not bundle.exists():
        subprocess.run(
            [sys.executable, "-m", "benchmarks.export_sd15", precision, "--work", work], cwd=ROOT, check=True
        )
    return sized(bundle, side)


def sized(bundle: Path, side: int) -> Path:
    """The bundle, with its default width and height set to `side`."""
    manifest = open_bundle(bundle, verify=False).manifest
    save_manifest(bundle, replace(manifest, defaults=replace(manifest.defaults, width=side, height=side)))
    return bundle


def line(phase: str, measured: tuple[float, int], result: str) -> str:
    """Returns a row of the table. measured: seconds and peak bytes."""
    seconds, peak = measured
    return f"| {phase} | {seconds:.0f} | {peak / 1e9:.1f} | {result} |"


def calibrated(bundle: Path, out: Path, target: str, images: int, steps: int) -> str:
    """Calibrates for one target."""
    prompts = out.with_name("prompts.txt")
    shutil.rmtree(out, ignore_errors=True)
    prompts.write_text(PROMPT)
    counts = ["--images", str(images), "--evaluations", "1", "--steps", str(steps)]
    # With random weights PSNR means nothing: without a budget, every layer is quantized.
    options = ["--target", target, "--prompts", str(prompts), *counts, "--budget", "0"]
    command = [sys.executable, "-m", "latentrt", "calibrate", str(bundle), str(out), *options]
    measured = run_measured(command, stdout=sys.stderr)
    manifest = open_bundle(out).manifest
    quantization = manifest.components["unet"].quantization
    assert quantization is not None
    sizes = f"UNet {quantization.bytes_before / 1e9:.2f} -> {unet_bytes(manifest) / 1e9:.2f} GB"
    return line(f"calibrate for {target}", measured, f"{sizes}, {quantization.share_of_layers:.1%} of MACs in INT8")


def unet_bytes(manifest: Manifest) -> int:
    """Bytes of the UNet's graph and weights."""
    component = manifest.components["unet"]
    return sum(manifest.files[file].bytes for file in (component.file, *component.data))


def called(out: Path, openvino: str | None) -> Iterator[str]:
    """Calls the UNet once in each engine, on the same random inputs."""
    component = open_bundle(out, verify=False).manifest.components["unet"]
    random, feeds = np.random.default_rng(0), out.with_name("feeds.npz")
    shapes = {spec.name: [SIZES.get(str(axis), axis) for axis in spec.shape] for spec in component.inputs}
    np.savez(feeds, **{name: random.standard_normal(shape, np.float32) for name, shape in shapes.items()})
    reference = None
    for engine, python in {"onnxruntime": sys.executable, "openvino": openvino}.items():
        if python is None:
            continue
        output = out.with_name(f"{engine}.npy")
        files = [str(path.resolve()) for path in (out / component.file, feeds, output)]
        measured = run_measured([python, str(ROOT / "benchmarks" / "call_graph.py"), engine, *files])
        got = np.load(output)
        assert np.isfinite(got).all(), f"{engine}: got values that are not finite"
        reference = got if reference is None else reference
        apart = "finite" if got is reference else f"{snr_db(got, reference):.1f} dB of signal to what differs"
        yield line(f"load and call in {engine}", measured, apart)


def built(out: Path, _openvino: str | None) -> Iterator[str]:
    """Lowers and builds every component for the GPUs."""
    options = ["--target", "tensorrt-rtx", "--gpu", GPUS, "--size", f"{SIDE}x{SIDE}", "--json"]
    plans = out.with_name("plans.json")
    with plans.open("w") as stdout:
        measured = run_measured([sys.executable, "-m", "latentrt", "build", str(out), *options], stdout)
    unet = [plan for plan in json.loads(plans.read_text()) if plan["component"] == "unet"]
    sizes = ", ".join(f"{plan['gpu']} {plan['bytes'] / 1e9:.2f} GB" for plan in unet)
    how = f"UNet's plan in INT8 and {unet[0]['floats']}, {unet[0]['seconds']:.0f} s of it"
    yield line("lower and build all components", measured, f"{how}: {sizes}")


AFTER: Mapping[str, Callable[[Path, str | None], Iterator[str]]] = {"cpu": called, "tensorrt": built}


def main() -> None:
    """Makes the bundle, calibrates it for each target, loads or builds the result, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", choices=[*AFTER, []], help=", ".join(AFTER))
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "sd15")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--size", type=int, default=64, help="side of the pictures to calibrate on, in pixels")
    parser.add_argument("--images", type=int, default=1)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--openvino", metavar="PYTHON", help="an interpreter that has openvino")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    bundle = bundle_of(given.work, given.precision, given.size)
    print(f"{one_line(machine())}, calibrated on {given.images} of {given.size}x{given.size}, {given.steps} steps\n")
    print("| | s | peak GB | |\n|---|---|---|---|", flush=True)
    for target in given.targets or AFTER:
        out = given.work / f"int8-{target}"
        print(calibrated(bundle, out, target, given.images, given.steps), flush=True)
        for row in AFTER[target](out, given.openvino):
            print(row, flush=True)


if __name__ == "__main__":
    main()
