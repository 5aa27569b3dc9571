"""Runs an exported graph in ONNX Runtime and measures it against what the original module computed.

A graph in fp16 is run in fp16, as a GPU would, though ONNX Runtime on a CPU would compute it in float32: what overflows
on the device is found here.
"""

from __future__ import annotations

from pathlib import Path

from latentrt.bundle.manifest import Component, Fidelity
from latentrt.errors import FidelityError
from latentrt_export.fidelity import loss, worst
from latentrt_export.graph.emulation import emulated_session
from latentrt_export.graph.precision import Recipe, cast_like
from latentrt_export.networks.component import Part


def measure(part: Part, component: Component, folder: Path) -> list[Fidelity]:
    """Returns what the component in `folder` lost on each of the part's probes, output by output."""
    session = emulated_session(folder / component.file)
    names = [spec.name for spec in component.outputs]
    losses = []
    for probe in part.probes:
        feeds = {spec.name: cast_like(probe.feeds[spec.name], spec).numpy() for spec in component.inputs}
        for output, reference in zip(session.run(names, feeds), probe.references, strict=True):
            losses.append(loss(output, reference.numpy(), component.fidelity.gate))
    return losses


def check_gate(part: Part, component: Component, folder: Path, recipe: Recipe) -> Fidelity:
    """What the component lost at worst. Raises FidelityError when that is more than the precision's gate allows."""
    lost = worst(measure(part, component, folder))
    if not recipe.passes(lost):
        psnr = "no difference" if lost.psnr_db is None else f"PSNR {lost.psnr_db:.1f} dB"
        raise FidelityError(
            f"{part.name}: got relative error {lost.relative_error:.2e} and {psnr} against the original, expected "
            f"{recipe.gate}; nothing was written. Export with --precision fp32, or look for weights out of range"
        )
    return lost
