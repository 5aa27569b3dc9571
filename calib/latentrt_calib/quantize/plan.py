"""Plans of quantized layers, and the form of quantized graphs that each kind of engine needs.

TensorRT needs symmetric inputs and a float bias, and adds a residual in 8 bits if the residual has its own Q/DQ pair
(NVIDIA TensorRT developer guide, "Working with Quantized Types", Q/DQ placement). ONNX Runtime computes a convolution
in 8 bits only if both its input and output are quantized, with an int32 bias in steps of the product of the scales; a
matrix product needs a quantized input only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latentrt_calib.quantize.ranges import S8, U8, Scheme


@dataclass(frozen=True)
class Scale:
    """Scale and zero point of an activation: q = round(x / scale) + zero."""

    scale: float
    zero: int = 0


@dataclass(frozen=True)
class LayerPlan:
    """Quantization plan of one layer.

    input, output, residual: scales of its input, its output and the activation added to it (`Layer.residual`); the last
    two may be None, and each target uses those it needs. weight: int8, in the node's layout. weight_scale: (out,).
    bias_delta: (out,), correction of the bias, or None. smooth: (in,), SmoothQuant's divisors of the input, or None;
    `weight` is already multiplied by them, and `input` is the scale of the quotient.
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
    """Q/DQ placement for one kind of engine.

    activations: storage of inputs, outputs and residuals. outputs: operators whose output is quantized too.
    integer_bias: operators whose bias is int32. residuals: quantize the activation that a layer's output is added to.
    largest_weight: largest magnitude of a weight's integers. On x86 without VNNI, ONNX Runtime adds pairs of u8 x s8
    products in 16 bits, which overflow beyond 64; the lost bit costs 0.2 dB, the overflow 7 dB (built-in UNet).
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
