"""The largest magnitude of each inner value of a graph over a recording: what fp16 has to hold.

They are computed in the graph, one number a value and call, so that one pass reads all values.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx_ir as ir

from latentrt_calib.observing.session import LARGEST, instrumented, run_graph
from latentrt_calib.recording.record import Progress, Recording


def largest_magnitudes(
    model: ir.Model, recording: Recording, scratch: Path, progress: Progress = lambda line: None
) -> dict[str, float]:
    """Returns the largest magnitude, by name, of each float32 value that a node computes from the inputs.

    Infinity for a value that was once not finite. scratch: folder for weights that do not fit in memory, removed
    afterwards. Raises EngineError if the graph cannot be run.
    """
    names = computed_values(model.graph)
    found = dict.fromkeys(names, 0.0)
    try:
        session, outputs = instrumented(model, scratch).session_of_largest(names), [name + LARGEST for name in names]
        for image in range(recording.images):
            progress(f"observing {recording.component}: image {image + 1} of {recording.images}")
            for call in recording.calls(image):
                numbers = run_graph(session, outputs, call.feeds)
                for name in names:
                    one = float(numbers[name + LARGEST])
                    found[name] = max(found[name], one if one == one else float("inf"))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return found


def computed_values(graph: ir.Graph) -> list[str]:
    """The names of the float32 values that depend on an input: not of weights that are cast or turned."""
    constant, found = set(graph.initializers.values()), list[str]()
    for node in graph:
        if all(value is None or value in constant for value in node.inputs):
            constant.update(node.outputs)
        else:
            found += [one.name for one in node.outputs if one.dtype == ir.DataType.FLOAT and one.name is not None]
    return found
