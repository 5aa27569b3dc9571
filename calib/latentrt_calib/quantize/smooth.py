"""SmoothQuant: input channels with outliers are divided by factors, and their weights multiplied by the same factors.

Xiao et al. 2023, arXiv:2211.10438. Exact in float; it balances the magnitudes that share a scale. The LayerNorm before
the layer absorbs the division if all readers of its output need the same factors; otherwise one Mul is added.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from latentrt.tensors import Array
from latentrt_calib.quantize.ranges import S8, Range, Scheme, scale_and_zero
from latentrt_export.graph.constants import (
    add_constant,
    array_of,
    insert_after,
    name_of,
    new_node,
    nodes_reading,
    replace_input,
)
from latentrt_export.graph.eight_bit_weights import LARGEST, dequantized, quantized
from latentrt_export.graph.layers import float_type

ALPHAS = tuple(round(0.05 * step, 2) for step in range(4, 20))


@dataclass(frozen=True)
class Smoothing:
    """The best factors found for the layers that read one activation.

    alpha: None if no smoothing was best. scales: (in,), divisors of the input and factors of the weights' rows. error,
    plain_error: power of the quantized output's error over the output's power, with and without smoothing.
    """

    alpha: float | None
    scales: NDArray[np.float32]
    error: float
    plain_error: float


def scales(input_absmax: Array, weight_absmax: Array, alpha: float) -> NDArray[np.float32]:
    """Returns s = max|X|^alpha / max|W|^(1 - alpha) for each input channel (equation 4); 1 where either is all zero.

    input_absmax, weight_absmax: (in,), the largest magnitudes by input channel.
    """
    largest_input, largest_weight = np.float64(input_absmax), np.float64(weight_absmax)
    used = (largest_input > 0) & (largest_weight > 0)
    ratio = np.where(used, largest_input, 1) ** alpha / np.where(used, largest_weight, 1) ** (1 - alpha)
    return np.where(used, ratio, 1).astype(np.float32)


def search(
    rows: Array,
    weights: Sequence[Array],
    *,
    input_absmax: Array | None = None,
    scheme: Scheme = S8,
    largest_weight: int = LARGEST,
    alphas: Sequence[float] = ALPHAS,
) -> Smoothing:
    """Returns the smoothing of least squared output error when input and weights are both quantized to 8 bits.

    rows: (n, in) sampled inputs. weights: (in, out) of every layer that reads them; they get the same factors.
    input_absmax: (in,), for the factors; default: that of the rows. scheme: of the input, over the range of the rows.
    largest_weight: as in `quantized`. No smoothing is among the candidates.
    """
    inputs, weight = np.asarray(rows, np.float32), np.concatenate(weights, 1).astype(np.float32)
    exact = inputs @ weight
    power = float(np.mean(exact**2)) or 1.0
    input_reach = np.abs(inputs).max(0) if input_absmax is None else input_absmax
    weight_reach = np.abs(weight).max(1)

    def error(factors: NDArray[np.float32]) -> float:
        values, scale = quantized(weight * factors[:, None], 1, largest=largest_weight)
        output = fake_quantized(inputs / factors, scheme) @ dequantized(values, scale, 1)
        return float(np.mean((output - exact) ** 2)) / power

    plain = np.ones(len(weight), np.float32)
    plain_error = error(plain)
    best = Smoothing(None, plain, plain_error, plain_error)
    for alpha in alphas:
        factors = scales(input_reach, weight_reach, alpha)
        if (found := error(factors)) < best.error:
            best = Smoothing(alpha, factors, found, plain_error)
    return best


def fake_quantized(rows: NDArray[np.float32], scheme: Scheme) -> NDArray[np.float32]:
    """The rows rounded to 8 bits and back, with one scale over their whole range."""
    scale, zero = scale_and_zero(Range(float(rows.min()), float(rows.max())), scheme)
    steps = np.clip(np.rint(rows / scale), scheme.lowest - zero, scheme.highest - zero)
    product: NDArray[np.float32] = steps * scale
    return product


def divide(graph: ir.Graph, value: ir.Value, readers: Iterable[ir.Node], factors: NDArray[np.float32]) -> bool:
    """Divides `value` by `factors` for the nodes in `readers`; returns True if a LayerNorm absorbed the division.

    factors: one per channel: axis 1 for a convolution's input, else the last axis. The caller has to multiply the
    readers' weights by the same factors.
    """
    nodes = list(readers)
    norm = absorber(value, nodes)
    if norm is not None:
        for index in range(1, len(norm.inputs)):
            scale_parameter(graph, norm, index, factors)
        return True
    name = f"{name_of(nodes[0].outputs[0])}.smoothed"
    shape = (-1, 1, 1) if nodes[0].op_type == "Conv" else (-1,)
    inverse = add_constant(graph, f"{name}.factors", (1 / factors).astype(float_type(nodes[0])).reshape(shape))
    product = new_node("Mul", [value, inverse], name, value)
    insert_after(graph, value, product)
    for reader in nodes:
        reader.replace_input_with(0, product.outputs[0])
    return False


def absorber(value: ir.Value, readers: Collection[ir.Node]) -> ir.Node | None:
    """Returns the LayerNorm that can absorb a division of `value`: it computes it, and only `readers` read it."""
    producer = value.producer()
    only_reader = set(nodes_reading(value)) <= set(readers) and not value.is_graph_output()
    return producer if only_reader and producer is not None and producer.op_type == "LayerNormalization" else None


def scale_parameter(graph: ir.Graph, norm: ir.Node, index: int, factors: NDArray[np.float32]) -> None:
    """Divides a LayerNorm's weight (input 1) or bias (input 2) by `factors`, in its own type."""
    before = norm.inputs[index]
    if before is None:
        return
    array = array_of(before)
    name = f"{name_of(norm.outputs[0])}.{('input', 'weight', 'bias')[index]}"
    replace_input(graph, norm, index, add_constant(graph, name, (array / factors).astype(array.dtype)))
