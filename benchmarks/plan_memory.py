"""Compares estimates of activation memory with what TensorRT-RTX plans for the same graph and shapes.

    python -m benchmarks.plan_memory [--sd15]

Needs the packages of TensorRT-RTX (docs/tensorrt.md), but no GPU: the builder compiles for SM86 and logs the activation
memory of the plan. --sd15 adds Stable Diffusion 1.5's UNet, which takes 8 GB of memory and, temporarily, 2 GB of disk.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir

from latentrt.bundle.catalog import folder_of
from latentrt.bundle.folder import open_bundle
from latentrt.tensors import TensorSpec, shape_of
from latentrt_export.graph.costs import cost_of
from latentrt_export.lower.half import half

Shapes = Mapping[str, tuple[int, ...]]
ACTIVATIONS = re.compile(r"Total Activation Memory: (\d+) bytes")


def built_in() -> Iterator[tuple[str, ir.Model, Shapes]]:
    """The built-in model's graphs with the most activations, at the training size and larger."""
    bundle = open_bundle(folder_of("emoji"), verify=False)
    manifest = bundle.manifest
    for side in (manifest.defaults.width, 256, 512):
        latents, tokens = side // manifest.latents.factor, manifest.tokenizer.length
        for name, batch in (("unet", 2), ("vae_decoder", 1)):
            component = manifest.components[name]
            shapes = shapes_of(component.inputs, batch, latents, tokens)
            yield f"emoji {name}, {side}x{side}", ir.load(bundle.path(component.file)), shapes


def sd15() -> Iterator[tuple[str, ir.Model, Shapes]]:
    """Stable Diffusion 1.5's UNet, with each weight one repeated number."""
    from benchmarks.count_costs import TOKENS, config, square, unet
    from benchmarks.counted import traced

    *_, counted = unet("sd15", config("unet"), square(64, 2))
    yield "SD 1.5 unet, 512x512", traced(counted), shapes_of(counted.inputs, 2, 64, TOKENS)


def shapes_of(specs: tuple[TensorSpec, ...], batch: int, side: int, tokens: int) -> Shapes:
    """The shapes of a graph's inputs for square latents."""
    sizes = {"batch": batch, "height": side, "width": side, "tokens": tokens}
    return {spec.name: shape_of(spec, sizes) for spec in specs}


def planned_bytes(model: ir.Model, shapes: Shapes) -> int:
    """The activation memory of the plan that TensorRT-RTX builds for SM86."""
    import tensorrt_rtx_bindings as trt

    class Log(trt.ILogger):  # type: ignore[misc]
        lines: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            self.lines.append(message)

    log = Log()
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        ir.save(model, path, external_data="graph.data")
        if not parser.parse_from_file(str(path)):
            raise RuntimeError(str(parser.get_error(0)))
        settings, profile = builder.create_builder_config(), builder.create_optimization_profile()
        settings.num_compute_capabilities = 1
        settings.set_compute_capability(trt.ComputeCapability.SM86, 0)
        for name, shape in shapes.items():
            profile.set_shape(name, shape, shape, shape)
        settings.add_optimization_profile(profile)
        if builder.build_serialized_network(network, settings) is None:
            raise RuntimeError("\n".join(log.lines[-5:]))
    return max(int(match[1]) for line in log.lines if (match := ACTIVATIONS.search(line)))


def main() -> None:
    """Prints a row per graph."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sd15", action="store_true")
    asked = parser.parse_args()
    print("| graph | estimate MB | planned MB | estimate / planned |\n|---|---:|---:|---:|")
    for source in (built_in, *([sd15] if asked.sd15 else [])):
        for name, model, shapes in source():
            estimate = 2 * cost_of(model, shapes).activation_elements
            planned = planned_bytes(half(model), shapes)
            print(f"| {name} | {estimate / 1e6:.1f} | {planned / 1e6:.1f} | {estimate / planned:.2f} |", flush=True)


if __name__ == "__main__":
    main()
