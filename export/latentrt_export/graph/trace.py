"""Tracing of torch modules to canonical ONNX graphs with symbolic axes.

The TorchScript tracer is used on purpose. On the built-in UNet with symbolic batch, height, width and tokens, the newer
exporter takes 30 times as long (110 s against 4 s, for its shape algebra) and refuses latents under 3x5; the traced
graph computes the same numbers. Weights are bound after tracing, so that they are not copied. Torch's own inference of
shapes after tracing is left out: it copies all weights, which took most of the time, and `canonical` infers shapes too.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import onnx
import onnx_ir as ir
import torch
from torch import Tensor, nn

from latentrt.tensors import TensorSpec, shape_of
from latentrt_export.graph.canonical import OPSET, canonical

# Torch's name of its inference of shapes, which is no option of the tracer.
INFERENCE = "_jit_pass_onnx_graph_shape_type_inference"
# Sizes of the traced inputs; small, because some operators are very slow in fp16 on a CPU.
SIZES = {"batch": 2, "height": 2, "width": 3, "tokens": 5, "n": 2, "images": 2, "vectors": 2}


def trace(
    module: nn.Module, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], multiple: int = 1
) -> ir.Model:
    """Returns the canonical graph of `module`, with inputs and outputs as in the specs.

    The graph shares the weights of `module`. multiple: of which its height and width must be multiples.
    """
    module.eval()
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad(), without_inference():
        warnings.simplefilter("ignore")  # the tracer warns of its deprecation, and of every shape that it reads
        torch.onnx.export(
            module,
            tuple(example(spec, multiple) for spec in inputs),
            buffer,  # type: ignore[arg-type]  # the tracer writes to any binary file
            dynamo=False,
            opset_version=OPSET,
            input_names=[spec.name for spec in inputs],
            output_names=[spec.name for spec in outputs],
            dynamic_axes={spec.name: symbols(spec) for spec in [*inputs, *outputs]},
            export_params=False,
            do_constant_folding=False,
        )
    model = ir.from_proto(onnx.load_from_string(buffer.getvalue()))
    model = canonical(model, dict(module.named_parameters()) | dict(module.named_buffers()), multiple)
    for spec, value in zip([*inputs, *outputs], [*model.graph.inputs, *model.graph.outputs], strict=True):
        value.shape = ir.Shape(spec.shape)
    return model


@contextmanager
def without_inference() -> Iterator[None]:
    """Leaves out torch's inference of shapes while the block runs."""
    kept = getattr(torch._C, INFERENCE)
    setattr(torch._C, INFERENCE, lambda *_: None)
    try:
        yield
    finally:
        setattr(torch._C, INFERENCE, kept)


def example(spec: TensorSpec, multiple: int = 1) -> Tensor:
    """A tensor of ones for `spec`: zeros would not be a valid `clip_skip`."""
    sizes = SIZES | {side: SIZES[side] * multiple for side in ("height", "width")}
    return torch.ones(shape_of(spec, sizes), dtype=getattr(torch, spec.dtype))


def symbols(spec: TensorSpec) -> dict[int, str]:
    """The symbolic axes by index."""
    return {place: axis for place, axis in enumerate(spec.shape) if isinstance(axis, str)}
