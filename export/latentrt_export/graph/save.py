"""A graph in a file, its weights beside it when they are many. Needs onnx-ir alone."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

# A larger graph keeps its weights in a file beside it: protobuf ends at 2 GB, and a separate file can be mapped.
LARGEST_SINGLE_FILE_BYTES = 1_000_000_000


def save_graph(model: ir.Model, folder: Path, name: str) -> tuple[str, ...]:
    """Writes `name`.onnx, and its weights beside it when they are many; returns the names of such files.

    Weights that were left in a file are in the model's memory afterwards where they are few.
    """
    weights = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    data = f"{name}.onnx.data" if weights > LARGEST_SINGLE_FILE_BYTES else None
    if data is None:
        ir.external_data.load_to_model(model)  # else weights that are in another graph's file would be looked for here
    ir.save(model, folder / f"{name}.onnx", external_data=data)
    return (data,) if data else ()
