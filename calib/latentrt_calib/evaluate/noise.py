"""Noise of each layer's output in the quantized graph: the noise of the layer and of all layers before it."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import onnx_ir as ir

from latentrt.tensors import Array
from latentrt_calib.evaluate.metrics import snr_db
from latentrt_calib.observing.session import InstrumentedGraph, instrumented, run_graph
from latentrt_calib.recording.record import Recording
from latentrt_export.graph.layers import Layer

CALLS = 4  # calls of the recording's first image, evenly spaced
AT_ONCE = 32  # outputs per batch, of both graphs


def noise_of(
    reference: ir.Model, quantized: ir.Model, layers: Sequence[Layer], recording: Recording, scratch: Path
) -> dict[str, float | None]:
    """Returns the mean signal-to-noise ratio in dB of each layer's output over a few calls; None without noise.

    layers: layers of both graphs. scratch: folder for weights, which need not exist and is removed.
    """
    calls = list(recording.calls(0))
    feeds = [call.feeds for call in calls[:: max(1, len(calls) // CALLS)][:CALLS]]
    try:
        sources = instrumented(reference, scratch / "reference"), instrumented(quantized, scratch / "quantized")
        found: dict[str, float | None] = {}
        for some in batches(layers):
            outputs = [layer.output for layer in some]
            ratios = noise_in(sources, outputs, feeds)
            found |= {layer.name: ratios[layer.output] for layer in some}
        return found
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def batches(layers: Sequence[Layer]) -> Iterator[Sequence[Layer]]:
    """The layers in batches."""
    return (layers[start : start + AT_ONCE] for start in range(0, len(layers), AT_ONCE))


def noise_in(
    sources: tuple[InstrumentedGraph, InstrumentedGraph], outputs: Sequence[str], feeds: Sequence[Mapping[str, Array]]
) -> dict[str, float | None]:
    """The mean ratio in dB of each output over the feeds; None if it never differs.

    sources: the reference and the quantized graph. Their sessions are freed before those of the next batch are made.
    """
    reference, quantized = (source.session(outputs) for source in sources)
    ratios: dict[str, list[float]] = {output: [] for output in outputs}
    for each in feeds:
        expected, got = run_graph(reference, outputs, each), run_graph(quantized, outputs, each)
        for output in outputs:
            ratios[output].append(snr_db(got[output], expected[output]))
    finite = {output: [one for one in some if math.isfinite(one)] for output, some in ratios.items()}
    return {output: sum(some) / len(some) if some else None for output, some in finite.items()}
