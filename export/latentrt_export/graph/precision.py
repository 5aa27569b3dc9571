"""The precisions of a bundle, and the conversion of a module and its graph to each."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import onnx_ir as ir
import torch
from onnx_ir.tensor_adapters import TorchTensor
from torch import nn

from latentrt.bundle.manifest import Fidelity
from latentrt.bundle.sources import Role
from latentrt.errors import FidelityError
from latentrt.tensors import TensorSpec
from latentrt_export.graph.canonical import name_of
from latentrt_export.graph.constants import cast_to_single
from latentrt_export.graph.four_bits import to_four_bits

# Timesteps, sizes and guidance times 1000 need more than fp16's 11 bits: these inputs are float32 in every graph.
FLOAT32_INPUTS = ("timestep", "size_ids", "guidance")

ExportPrecision = Literal["fp32", "fp16", "w16", "w4"]
# The roles of components that have 4 bits in a bundle of w4, by far its largest; others are w16.
FOUR_BIT_ROLES: tuple[Role, ...] = ("denoiser", "text_encoder")


def float32_module(module: nn.Module) -> nn.Module:
    """The module, unchanged."""
    return module


def half_module(module: nn.Module) -> nn.Module:
    """The module, in place, computing in fp16; values below fp16's range become zero, those above it infinite."""
    return module.half()


def unchanged(model: ir.Model) -> ir.Model:
    """The graph, unchanged."""
    return model


def store_half(model: ir.Model) -> ir.Model:
    """The graph, in place, with float32 weights stored as fp16 behind a Cast: half the bytes.

    Of a table, rows are taken before the Cast, so that an engine does not turn the whole table to float32. Raises
    FidelityError for a weight that fp16 cannot hold.
    """
    graph = model.graph
    for value in list(graph.initializers.values()):
        if not isinstance(value.const_value, TorchTensor) or value.dtype != ir.DataType.FLOAT:
            continue
        check_half(name_of(value), value.const_value.raw)
        stored = ir.Value(name=f"{value.name}.fp16", shape=value.shape, type=ir.TensorType(ir.DataType.FLOAT16))
        stored.const_value = halved(value.const_value.raw, name_of(stored))
        for node in [use.node for use in value.uses() if use.node.op_type == "Gather" and use.idx == 0]:
            cast_rows(graph, node, stored)
        if value.uses():
            cast = cast_to_single(stored, f"{value.name}.fp32", value.shape)
            value.replace_all_uses_with(cast.outputs[0])
            graph.insert_before(graph[0], cast)
        del graph.initializers[name_of(value)]
        graph.register_initializer(stored)
    return model


def cast_rows(graph: ir.Graph, node: ir.Node, table: ir.Value) -> None:
    """Makes a Gather read the table in fp16, and casts the rows that it takes to float32."""
    rows = node.outputs[0]
    name, rows.name = name_of(rows), f"{name_of(rows)}.fp16"
    cast = cast_to_single(rows, name, rows.shape)
    rows.replace_all_uses_with(cast.outputs[0])
    cast.replace_input_with(0, rows)
    node.replace_input_with(0, table)
    rows.type = ir.TensorType(ir.DataType.FLOAT16)
    graph.insert_after(node, cast)


def store_four_bits(model: ir.Model) -> ir.Model:
    """The graph, in place, with the weights of linear layers in 4 bits, of others in 8, and all else in fp16.

    Raises FidelityError for a weight that fp16 cannot hold.
    """
    return to_four_bits(store_half(model))


def row_bytes(model: ir.Model) -> int:
    """The bytes of tables that nothing but a Gather reads: engines that map a file read rows of them alone."""
    return sum(
        value.const_value.nbytes
        for value in model.graph.initializers.values()
        if value.const_value is not None
        and value.uses()
        and all(use.node.op_type == "Gather" and use.idx == 0 for use in value.uses())
    )


def check_half(name: str, weight: torch.Tensor) -> None:
    """Raises FidelityError for a weight that fp16 cannot hold, as it is or in fp16 already. name: for the message."""
    largest = float(weight.abs().max())
    if not largest <= torch.finfo(torch.float16).max:
        got = f"of {largest:g}" if math.isfinite(largest) else "beyond its range"
        raise FidelityError(
            f"{name}: got a weight {got}, expected at most 65504, which is all that fp16 holds; export with "
            "--precision fp32"
        )


def halved(weight: torch.Tensor, name: str) -> ir.LazyTensor:
    """A weight in fp16, turned to it when it is written, so that a graph is not in memory in both types."""
    return ir.LazyTensor(
        lambda: TorchTensor(weight.half(), name=name), ir.DataType.FLOAT16, ir.Shape(weight.shape), name=name
    )


@dataclass(frozen=True)
class Recipe:
    """Conversion to a precision, and the gate of its graphs.

    dtype: of float inputs and outputs. relative_error, psnr_db: the gate; one of them is None. remedy: what to do where
    a graph misses it, for the message.
    """

    module: Callable[[nn.Module], nn.Module]
    graph: Callable[[ir.Model], ir.Model]
    dtype: str
    relative_error: float | None = None
    psnr_db: float | None = None
    remedy: str = "Export with --precision fp32"

    @property
    def gate(self) -> str:
        """The gate as text."""
        if self.relative_error is not None:
            return f"relative error at most {self.relative_error:g}"
        return f"PSNR at least {self.psnr_db:g} dB"

    def passes(self, fidelity: Fidelity) -> bool:
        """True if the loss is within the gate; NaN is not."""
        if self.relative_error is not None:
            return fidelity.relative_error <= self.relative_error
        return fidelity.psnr_db is None or fidelity.psnr_db >= (self.psnr_db or 0)

    def spec(self, spec: TensorSpec) -> TensorSpec:
        """A float32 spec in this precision."""
        fixed = spec.dtype != "float32" or spec.name in FLOAT32_INPUTS
        return spec if fixed else replace(spec, dtype=self.dtype)


BY_CALIBRATION = (
    "Export with --precision fp32; or with w16, and then `latentrt calibrate --precision {}`, which keeps {}"
)
FP16_REMEDY = BY_CALIBRATION.format("fp16", "in float32 what leaves the range of fp16")
W4_REMEDY = BY_CALIBRATION.format("w4", "in 8 bits the layers that lose most")
PRECISIONS: dict[ExportPrecision, Recipe] = {
    "fp32": Recipe(float32_module, unchanged, "float32", relative_error=1e-4, remedy="Report it, with the checkpoint"),
    "fp16": Recipe(half_module, unchanged, "float16", psnr_db=40.0, remedy=FP16_REMEDY),
    "w16": Recipe(float32_module, store_half, "float32", psnr_db=40.0),
    "w4": Recipe(float32_module, store_four_bits, "float32", psnr_db=20.0, remedy=W4_REMEDY),
}


def cast_like(tensor: torch.Tensor, spec: TensorSpec) -> torch.Tensor:
    """`tensor` in the type of `spec`."""
    dtype: torch.dtype = getattr(torch, spec.dtype)
    return tensor.to(dtype)
