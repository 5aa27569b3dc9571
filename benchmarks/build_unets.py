"""Builds TensorRT-RTX plans of Stable Diffusion 1.5's and SDXL's UNets and prints time and peak memory as Markdown.

    python -m benchmarks.build_unets [--work DIR] [--gpu sm86] [sd15] [sd15-int8] [sdxl]

No GPU is needed. The weights are random, in fp16; INT8 has one activation scale for all layers, which takes a builder
as long as calibrated ones. Graphs are traced and lowered once and kept in --work. Peak memory is the operating system's
figure for the process that parses and builds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.checkpoint import config
from benchmarks.export_sd15 import ROOT, run_measured
from benchmarks.machine import machine, one_line
from benchmarks.step_cases import SDXL
from latentrt.engines.nvidia.plans import Shapes
from latentrt_export.build.builders import open_builder
from latentrt_export.build.plan import BuilderSettings, BuildTask, write_plan

TARGET, ACTIVATION_SCALE = "tensorrt-rtx", 0.05


@dataclass(frozen=True)
class Case:
    """A UNet to build. changes: differences from Stable Diffusion 1.5's config. side: of the square latents."""

    changes: Mapping[str, Any]
    side: int
    int8: bool = False


CASES = {"sd15": Case({}, 64), "sd15-int8": Case({}, 64, int8=True), "sdxl": Case(SDXL, 128)}


def make_graph(case: Case, folder: Path) -> None:
    """Writes the lowered graph of a UNet with random weights, as `latentrt export` and `latentrt build` would."""
    import torch
    from diffusers import UNet2DConditionModel

    from latentrt.tensors import TensorSpec
    from latentrt_export.graph.save import save_graph
    from latentrt_export.graph.trace import trace
    from latentrt_export.lower.tensorrt import lowered_model
    from latentrt_export.networks.hoist import CrossKV, HoistedUNet
    from latentrt_export.networks.time_bias import TimeBias

    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config({**config("unet"), **case.changes})
        kv, bias = CrossKV(unet).project.out_features, TimeBias(unet).project.out_features
        module = HoistedUNet(unet).half()
    module.to_empty(device="cpu")
    random = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data.normal_(0, 0.02, generator=random)
    inputs = (
        TensorSpec("sample", "float16", ("batch", 4, "height", "width")),
        TensorSpec("time_bias", "float16", ("batch", bias)),
        TensorSpec("cross_kv", "float16", ("batch", "tokens", kv)),
    )
    model = trace(module, inputs, (TensorSpec("prediction", "float16", ("batch", 4, "height", "width")),))
    if case.int8:
        quantize(model, {spec.name: shape for spec, shape in zip(inputs, shapes(case, kv, bias).values(), strict=True)})
    folder.mkdir(parents=True)
    save_graph(model, folder, "canonical")
    save_graph(lowered_model(folder / "canonical.onnx", "decomposed", turned=True), folder, "unet")
    (folder / "widths").write_text(f"{kv} {bias}")


def quantize(model: Any, sizes: Mapping[str, tuple[int, ...]]) -> None:
    """Writes TensorRT's Q/DQ nodes into every layer, in place."""
    from latentrt_calib.quantize.plan import LayerPlan, Scale
    from latentrt_calib.quantize.qdq import write_qdq
    from latentrt_export.graph.eight_bit_weights import quantized
    from latentrt_export.graph.layers import default_float, layer_nodes, layers_of, output_axis, weight_of

    layers = layers_of(model, sizes)
    nodes, scale = layer_nodes(model.graph), Scale(ACTIVATION_SCALE)
    kept = default_float(layers)
    plans = {
        layer.name: LayerPlan(
            scale, *quantized(weight_of(nodes[layer.name]), output_axis(nodes[layer.name])), residual=scale
        )
        for layer in layers
        if layer.name not in kept
    }
    write_qdq(model, plans, "tensorrt")


def shapes(case: Case, kv: int, bias: int) -> dict[str, tuple[int, ...]]:
    """The inputs of one call for a picture with guidance."""
    return {"sample": (2, 4, case.side, case.side), "time_bias": (2, bias), "cross_kv": (2, 77, kv)}


def build(case: Case, folder: Path, gpu: str) -> None:
    """Builds the plan; runs in a separate process, so that its memory can be measured."""
    kv, bias = map(int, (folder / "widths").read_text().split())
    profile = tuple(Shapes(name, shape, shape, shape) for name, shape in shapes(case, kv, bias).items())
    task = BuildTask("unet", folder / "unet.onnx", (profile,), (gpu,), BuilderSettings(), folder / "timing.cache")
    write_plan(open_builder(TARGET), task, folder / f"{gpu}.plan")


def row(name: str, folder: Path, gpu: str) -> str:
    """Builds one case in a separate process. Returns a row of the table."""
    seconds, peak = run_measured([*child(folder, gpu, "build"), name])
    weights = sum(path.stat().st_size for path in folder.glob("unet.onnx*"))
    plan = (folder / f"{gpu}.plan").stat().st_size
    return f"| {name} | {gpu} | {seconds:.1f} | {peak / 1e9:.1f} | {weights / 1e9:.2f} | {plan / 1e9:.2f} |"


def child(folder: Path, gpu: str, what: str) -> list[str]:
    """The command of a process that makes a graph or builds a plan; its memory is freed when it ends."""
    own = [sys.executable, "-m", "benchmarks.build_unets"]
    return [*own, "--child", what, "--work", str(folder.parent), "--gpu", gpu]


def main() -> None:
    """Makes the graphs that are missing, builds each, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", choices=[*CASES, []], help=", ".join(CASES))
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "unets")
    parser.add_argument("--gpu", default="sm86")
    parser.add_argument("--child", choices=["make", "build"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        case, folder = CASES[given.cases[0]], given.work / given.cases[0]
        make_graph(case, folder) if given.child == "make" else build(case, folder, given.gpu)
        return
    print(f"{one_line(machine())}, {open_builder(TARGET).label}")
    print("| UNet | GPU | s | peak GB | graph GB | plan GB |\n|---|---|---|---|---|---|")
    for name in given.cases or CASES:
        folder = given.work / name
        if not (folder / "widths").exists():
            run_measured([*child(folder, given.gpu, "make"), name])
        print(row(name, folder, given.gpu), flush=True)


if __name__ == "__main__":
    main()
