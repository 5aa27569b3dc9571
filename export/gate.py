"""Runs an exported graph in ONNX Runtime and measures it against what the original module computed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latentrt.errors import FidelityError
from latentrt.export.frugal import frugal_session
from latentrt.export.parts import Part
from latentrt.export.precision import Recipe, cast_like
from latentrt.manifest import Component, Fidelity
from latentrt.tensors import Array


def measure(part: Part, component: Component, folder: Path) -> list[Fidelity]:
    """Returns what the component in `folder` lost on each of the part's probes, output by output."""
    session = frugal_session(folder / component.file)
    names = [spec.name for spec in component.outputs]
    losses = []
    for probe in part.probes:
        feeds = {spec.name: cast_like(probe.feeds[spec.name], spec).numpy() for spec in component.inputs}
        for output, reference in zip(session.run(names, feeds), probe.references, strict=True):
            losses.append(loss(output, reference.numpy(), component.fidelity.gate))
    return losses


def loss(got: Array, reference: Array, gate: str) -> Fidelity:
    """What `got` lost: the largest error over the largest reference, and PSNR over the reference's range."""
    expected: NDArray[np.float64] = reference.astype(np.float64)
    error = got.astype(np.float64) - expected
    if not np.isfinite(error).all():
        return Fidelity(float("inf"), float("-inf"), gate)
    rms, span = float(np.sqrt(np.mean(error**2))), float(np.ptp(expected))
    if not rms:
        return Fidelity(0.0, None, gate)
    # An output that should be constant and is not has lost everything that it said.
    psnr = 20 * math.log10(span / rms) if span else float("-inf")
    return Fidelity(float(np.abs(error).max() / np.abs(expected).max()), psnr, gate)


def worst(losses: Sequence[Fidelity]) -> Fidelity:
    """The largest error and the lowest PSNR among `losses`, to the digits that repeat whatever the threads do."""
    psnrs = [round(loss.psnr_db, 1) for loss in losses if loss.psnr_db is not None]
    error = max(loss.relative_error for loss in losses)
    return Fidelity(float(f"{error:.1e}"), min(psnrs, default=None), losses[0].gate)


def gated(part: Part, component: Component, folder: Path, recipe: Recipe) -> Fidelity:
    """What the component lost at worst. Raises FidelityError when that is more than the precision's gate allows."""
    lost = worst(measure(part, component, folder))
    if not recipe.passes(lost):
        psnr = "no difference" if lost.psnr_db is None else f"PSNR {lost.psnr_db:.1f} dB"
        raise FidelityError(
            f"{part.name}: got relative error {lost.relative_error:.2e} and {psnr} against the original, expected "
            f"{recipe.gate}; nothing was written. Export with --precision fp32, or look for weights out of range"
        )
    return lost
