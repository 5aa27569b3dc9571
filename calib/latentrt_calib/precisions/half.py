"""A component in fp16, but for the operators whose values leave its range: these compute in float32.

fp16 holds magnitudes up to 65504; beyond, it has infinity, and the picture is lost. The calibration pictures show which
values come near. What computes such a value and what reads it stays float32, with casts around, so the set is the
smallest one that keeps each of these values out of fp16.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from latentrt_calib.evaluate.candidate import Evaluator
from latentrt_calib.observing.magnitudes import largest_magnitudes
from latentrt_calib.precisions.context import ANY, Candidate, Context, recorded
from latentrt_calib.recording.record import SHALLOW
from latentrt_calib.report.layer_reports import HALF, in_single
from latentrt_calib.report.report import LayerReport
from latentrt_export.graph.layers import Layer, layers_of
from latentrt_export.lower.half import LARGEST_HALF, half

# Other prompts than the recorded ones may reach higher: a value stays in fp16 up to two thirds of its range. Masks of
# text encoders, -32768, are below that.
HEADROOM = 1.5


def in_fp16(context: Context, _evaluator: Evaluator, component: str) -> Candidate:
    """The component in fp16, with what leaves its range in float32."""
    graph = context.graph(component, split=False)
    model = graph.model()
    recording, scratch = recorded(context).of(component), context.folder / "magnitudes"
    magnitudes = largest_magnitudes(model, recording, scratch, context.progress)
    if (shallow := context.shallow(graph)) is not None:
        of_shallow = largest_magnitudes(shallow, recording.of(SHALLOW), scratch, context.progress)
        magnitudes |= {name: max(one, magnitudes.get(name, 0.0)) for name, one in of_shallow.items()}
    wide = out_of_range(model.graph, magnitudes)
    context.progress(f"{component}: float32 in {len(wide)} of {len(model.graph)} operators")
    for name, magnitude in wide.items():
        context.progress(f"float32: {name}, up to {magnitude:.3g}")
    reports = reports_of(model, layers_of(model, graph.shapes), wide)
    return Candidate(graph, half(model, wide), "fp16", ANY, lambda: reports)


def out_of_range(graph: ir.Graph, magnitudes: Mapping[str, float]) -> dict[str, float]:
    """The nodes that compute or read a value that fp16 may not hold, in the graph's order, and its magnitude.

    magnitudes: of the values that nodes compute. Constants are looked at here; they need no headroom.
    """
    limits = {name: one for name, one in magnitudes.items() if not one <= LARGEST_HALF / HEADROOM}
    for value in graph.initializers.values():
        if value.name is not None and value.dtype == ir.DataType.FLOAT and value.const_value is not None:
            largest = float(np.abs(value.const_value.numpy()).max(initial=0))
            if np.isfinite(largest) and largest > LARGEST_HALF:
                limits[value.name] = largest
    found = {}
    for node in graph:
        if not any(one.dtype == ir.DataType.FLOAT for one in node.outputs):
            continue  # a Shape reads no values
        near = [limits[one.name] for one in (*node.inputs, *node.outputs) if one is not None and one.name in limits]
        if near and node.name is not None:
            found[node.name] = max(near)
    return found


def reports_of(model: ir.Model, layers: tuple[Layer, ...], wide: Mapping[str, float]) -> tuple[LayerReport, ...]:
    """Reports of all layers, and after them of the other operators in float32. wide: these, with magnitudes."""
    names = {layer.name for layer in layers}
    operators = {node.name: node.op_type for node in model.graph}
    others = [LayerReport(name, operators[name], 0, in_single(wide[name])) for name in wide if name not in names]
    known = [
        LayerReport(one.name, one.op, one.macs, in_single(wide[one.name]) if one.name in wide else HALF)
        for one in layers
    ]
    return (*known, *others)
