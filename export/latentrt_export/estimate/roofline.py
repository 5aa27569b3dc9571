"""Roofline: the least time of a graph on a device, each layer at the peak rate or at the peak bandwidth.

Williams, Waterman and Patterson (2009), layer by layer. It is a lower bound for engines that run layers one after
another, multiply densely and convolve directly: norms, additions and launches take no time, a tensor that fits the
cache is never written to memory, and the part of the weights that fits stays there between calls.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from latentrt_export.estimate.devices import Device
from latentrt_export.graph.costs import Cost, LayerWork

PrecisionName = Literal["fp32", "fp16", "int8", "w4"]


@dataclass(frozen=True)
class Rate:
    """Arithmetic of layers: the device's field with the rate, and the bytes per weight and per activation."""

    field: str
    weight_bytes: float
    activation_bytes: int


@dataclass(frozen=True)
class Precision:
    """Arithmetic and storage of a graph.

    convolutions, linear: layers with fixed weights. products: attention. other_bytes: per element of biases, norms and
    tables. activation_bytes: per element of an activation that stays in memory.
    """

    convolutions: Rate
    linear: Rate
    products: Rate
    other_bytes: int
    activation_bytes: int

    def rate(self, kind: str) -> Rate:
        """The rate of a layer of that kind: "conv", "linear" or "attention"."""
        return {"conv": self.convolutions, "linear": self.linear, "attention": self.products}[kind]


FP32, FP16, INT8 = Rate("tf32", 4, 4), Rate("fp16", 2, 2), Rate("int8", 1, 1)
# Weights in 8 and in 4 bits, the latter with a scale in fp16 for 32 of them; arithmetic in fp16.
W8, W4 = Rate("fp16", 1, 2), Rate("fp16", 0.5 + 2 / 32, 2)

# Attention and residual additions stay in float in INT8 graphs: activations that stay in memory take two bytes.
PRECISIONS: Mapping[PrecisionName, Precision] = {
    "fp32": Precision(FP32, FP32, FP32, 4, 4),
    "fp16": Precision(FP16, FP16, FP16, 2, 2),
    "int8": Precision(INT8, INT8, FP16, 2, 2),
    "w4": Precision(W8, W4, FP16, 2, 2),
}


@dataclass(frozen=True)
class Roofline:
    """Lower bound of one call, in seconds. compute, memory: time of the layers limited by arithmetic, or by bandwidth.

    multiplying, moving: time of all arithmetic, or of all transfers, alone.
    """

    seconds: float
    compute: float
    memory: float
    multiplying: float
    moving: float

    @property
    def binds(self) -> str:
        """The resource that limits most of the time: compute or memory."""
        return "compute" if self.compute >= self.memory else "memory"


def roofline(cost: Cost, precision: Precision, device: Device) -> Roofline:
    """Returns the bound for one call of a graph on a device."""
    cache = device.cache_mb * 1e6
    uncached = max(0.0, 1 - cache / max(1, layer_bytes(cost, precision)))
    compute = memory = multiplying = moving = 0.0
    for work, count in cost.work.items():
        rate = precision.rate(work.kind)
        multiply = count * 2 * work.macs / (getattr(device, rate.field) * 1e12)
        move = count * moved_bytes(work, rate, uncached, cache) / (device.bandwidth_gb * 1e9)
        compute += multiply if multiply >= move else 0
        memory += move if move > multiply else 0
        multiplying, moving = multiplying + multiply, moving + move
    return Roofline(compute + memory, compute, memory, multiplying, moving)


def moved_bytes(work: LayerWork, rate: Rate, uncached: float, cache: float) -> float:
    """The bytes that a layer moves between the chip and its memory.

    uncached: share of the weights that does not fit the cache. cache: bytes of a tensor that may stay in the cache.
    """
    tensors = (size * rate.activation_bytes for size in (*work.reads, work.writes))
    return uncached * work.weights * rate.weight_bytes + sum(max(0.0, size - cache) for size in tensors)


def weight_bytes(cost: Cost, precision: Precision) -> int:
    """The bytes of all constants at a precision."""
    layers = min(cost.layer_weights, cost.parameters)
    read_once = layer_bytes(cost, precision) * layers / max(1, cost.layer_weights)  # layers may share weights
    return round(read_once + (cost.parameters - layers) * precision.other_bytes)


def layer_bytes(cost: Cost, precision: Precision) -> float:
    """The bytes of all layers' weights, each time that a layer reads them."""
    return sum(count * work.weights * precision.rate(work.kind).weight_bytes for work, count in cost.work.items())
