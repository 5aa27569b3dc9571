"""Saving of graphs, large weights in a second file. Needs onnx-ir only."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

# A larger graph keeps its weights in a second file: protobuf is limited to 2 GB, and a separate file can be mapped.
LARGEST_SINGLE_FILE_BYTES = 1_000_000_000


def save_graph(model: ir.Model, folder: Path, name: str) -> tuple[str, ...]:
    """Writes `name`.onnx, and large weights to a second file; returns the names of weight files.

    Small weights that lay in another file are in the model's memory afterwards.
    """
    weights = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    data = f"{name}.onnx.data" if weights > LARGEST_SINGLE_FILE_BYTES else None
    if data is None:
        ir.external_data.load_to_model(model)  # else the graph would refer to another graph's weight file
    ir.save(model, folder / f"{name}.onnx", external_data=data)
    return (data,) if data else ()
