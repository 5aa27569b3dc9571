"""What is to become of each layer, and what each kind of engine asks of a quantized graph.

TensorRT takes symmetric inputs and a float bias, and adds a residual in 8 bits if that is quantized on its own (NVIDIA
TensorRT developer guide, "Working with Quantized Types", Q/DQ placement). ONNX Runtime computes a convolution in 8 bits
only between quantized tensors on both sides, with a bias counted in steps of the product of the scales; a matrix
product needs its input alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latentrt_calib.quantize.ranges import S8, U8, Scheme


@dataclass(frozen=True)
class Scale:
    """How one activation is stored: q = round(x / scale) + zero."""

    scale: float
    zero: int = 0


@dataclass(frozen=True)
class LayerPlan:
    """What one layer is to become.

    input, output, residual: the scales of what it reads, what it makes, and what that is added to (`Layer.residual`);
    the last two may be None, and each target uses what it needs. weight: int8, laid out as the node reads it.
    weight_scale: (out,). bias_delta: (out,), added to the bias, or None. smooth: (in,), what the input is to be divided
    by, or None; `weight` is already multiplied by it, and `input` is the scale of the quotient.
    """

    input: Scale
    weight: NDArray[np.int8]
    weight_scale: NDArray[np.float32]
    output: Scale | None = None
    residual: Scale | None = None
    bias_delta: NDArray[np.float32] | None = None
    smooth: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Target:
    """Where Q/DQ nodes go for one kind of engine.

    activations: how inputs, outputs and residuals are stored. outputs: the operators whose output is quantized too.
    integer_bias: those whose bias is. residuals: whether what a layer's output is added to is quantized.
    largest_weight: the largest magnitude of a weight's integers. On x86 without VNNI, ONNX Runtime adds pairs of u8 x
    s8 products in 16 bits, which overflow beyond 64; the bit costs 0.2 dB where the overflow costs 7 (built-in UNet).
    """

    activations: Scheme
    outputs: tuple[str, ...]
    integer_bias: tuple[str, ...]
    residuals: bool
    largest_weight: int


TARGETS = {
    "cpu": Target(U8, outputs=("Conv",), integer_bias=("Conv",), residuals=False, largest_weight=64),
    "tensorrt": Target(S8, outputs=(), integer_bias=(), residuals=True, largest_weight=127),
}
