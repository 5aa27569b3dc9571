"""Gate of exported graphs: each is run in ONNX Runtime and compared with the original module's outputs.

A graph in fp16 is run with fp16 rounding, as on a GPU, although ONNX Runtime on a CPU would compute it in float32:
values that would overflow on the device are found here.
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
    """Returns the loss of the component in `folder` on each reference input, output by output."""
    session = emulated_session(folder / component.file)
    names = [spec.name for spec in component.outputs]
    losses = []
    for probe in part.probes:
        feeds = {spec.name: cast_like(probe.feeds[spec.name], spec).numpy() for spec in component.inputs}
        for output, reference in zip(session.run(names, feeds), probe.references, strict=True):
            losses.append(loss(output, reference.numpy(), component.fidelity.gate))
    return losses


def check_gate(part: Part, component: Component, folder: Path, recipe: Recipe) -> Fidelity:
    """The worst loss of the component. Raises FidelityError if the precision's gate does not allow it."""
    lost = worst(measure(part, component, folder))
    if not recipe.passes(lost):
        psnr = "no difference" if lost.psnr_db is None else f"PSNR {lost.psnr_db:.1f} dB"
        raise FidelityError(
            f"{part.name}: got relative error {lost.relative_error:.2e} and {psnr} against the original, expected "
            f"{recipe.gate}; nothing was written. {recipe.remedy}"
        )
    return lost
