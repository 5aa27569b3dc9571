"""Counting a module without memory for its weights: from the graph that an export would trace, and by torch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.costs import write
from latentrt.tensors import TensorSpec, shape_of
from latentrt_export.graph.costs import cost_of
from latentrt_export.graph.trace import trace


@dataclass(frozen=True)
class Counted:
    """A module on the meta device to count.

    sizes: values of its symbolic axes, one count for each. multiple: of which its height and width must be multiples.
    """

    name: str
    module: nn.Module
    inputs: tuple[TensorSpec, ...]
    output: TensorSpec
    sizes: tuple[Mapping[str, int], ...]
    multiple: int = 1


def entries_of(counted: Counted) -> Iterator[tuple[str, dict[str, Any]]]:
    """The entries of a module at all of its sizes."""
    references = [torch_macs(counted, sizes) for sizes in counted.sizes]
    model = traced(counted)
    for sizes, reference in zip(counted.sizes, references, strict=True):
        place = "{height}x{width}/batch{batch}".format(**sizes)
        shapes = {spec.name: shape_of(spec, sizes) for spec in counted.inputs}
        yield f"{counted.name}/{place}", {"torch_macs": reference, **write(cost_of(model, shapes))}


def traced(counted: Counted) -> ir.Model:
    """The graph of a module, which gets weights of one number each."""
    without_weights(counted.module)
    return trace(counted.module, counted.inputs, [counted.output], counted.multiple)


def torch_macs(counted: Counted, sizes: Mapping[str, int]) -> int:
    """Multiply-adds by torch's count, for a module on the meta device."""
    with FlopCounterMode(display=False) as counter, torch.no_grad(), torch.device("meta"):
        inputs = [torch.ones(shape_of(spec, sizes), dtype=getattr(torch, spec.dtype)) for spec in counted.inputs]
        counted.module.eval()(*inputs)
    return int(counter.get_total_flops()) // 2


def without_weights(module: nn.Module) -> None:
    """Gives a module on the meta device weights for computing: each is one number, repeated.

    Numbers differ between weights; otherwise the tracer would merge those of the same shape.
    """
    numbers = itertools.count(1)
    for part in module.modules():
        for name, tensor in [*part._parameters.items(), *part._buffers.items()]:
            if tensor is None or tensor.device.type != "meta":
                continue
            repeated = torch.tensor(next(numbers) * 1e-6, dtype=tensor.dtype).expand(tensor.shape)
            if name in part._parameters:
                part._parameters[name] = nn.Parameter(repeated, requires_grad=False)
            else:
                part._buffers[name] = repeated
