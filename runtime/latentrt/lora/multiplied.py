"""Adapters whose change depends on the weight that they change: GLoRA, OFT, BOFT and IA3, as LyCORIS defines them.

Compared with LyCORIS 4.1 and closed forms. Tensors have their names in the file's layer.
"""

from __future__ import annotations

import math

import numpy as np

from latentrt.lora.adapters import Adapter, Shape, Shapes, Tensors, flat, matrix, unscaled
from latentrt.tensors import Array

# For the pairs a and b: True if the first tensor is the left factor. Today's LyCORIS, its older versions, mixtures.
ORDERS = ((True, True), (False, False), (False, True), (True, False))


def glora(t: Tensors, weight: Array) -> Array:
    """weight @ a + b, both factored: Chavan et al. 2023 (GLoRA), with LyCORIS's choice of terms.

    For a convolution's kernel, a mixes the input channels.
    """
    first_a, first_b = glora_order({name: tensor.shape for name, tensor in t.items()}, weight.shape)
    left, right = (flat(t[name]) for name in (("a1", "a2") if first_a else ("a2", "a1")))
    product: Array = np.einsum("oi...,ir,rj->oj...", weight, left, right, optimize=True)
    left, right = (flat(t[name]) for name in (("b1", "b2") if first_b else ("b2", "b1")))
    whole: Array = product + (left @ right).reshape(weight.shape)
    return whole


def glora_order(s: Shapes, wanted: Shape) -> tuple[bool, bool]:
    """True for each of (a, b) whose first tensor is the left factor. Raises ValueError if no order fits the weight."""
    out, width = matrix(wanted)
    channels = wanted[1]
    for first_a, first_b in ORDERS:
        a = joined(s["a1"], s["a2"]) if first_a else joined(s["a2"], s["a1"])
        b = joined(s["b1"], s["b2"]) if first_b else joined(s["b2"], s["b1"])
        if a == (channels, channels) and b == (out, width):
            return first_a, first_b
    raise ValueError(f"they change no weight of {wanted}")


def joined(left: Shape, right: Shape) -> Shape | None:
    """The shape of the product of two kernels as matrices; None where they have none."""
    (rows, inner), (other, columns) = matrix(left), matrix(right)
    return (rows, columns) if inner == other else None


def glora_rank(s: Shapes, wanted: Shape) -> int:
    """The rank: the columns of b's left factor."""
    _, first_b = glora_order(s, wanted)
    return matrix(s["b1" if first_b else "b2"])[1]


def glora_shape(s: Shapes, wanted: Shape) -> Shape:
    """The weight's shape. Raises ValueError if the factors do not fit it."""
    glora_order(s, wanted)
    return wanted


def oft(t: Tensors, weight: Array) -> Array:
    """The rows of a weight rotated block by block, minus the weight: Qiu et al. 2023 (OFT), section 3.

    `oft_blocks`, (blocks, size, size), become rotations by Cayley's transform; (stages, blocks, size, size) are BOFT.
    `oft_diag` holds the rotations themselves. `rescale`: one factor per row.
    """
    if "oft_diag" in t:
        new = rotated(t["oft_diag"], weight)
    else:
        rotations = cayley(t["oft_blocks"], float(t["alpha"].item()) * len(weight) if "alpha" in t else 0.0)
        new = butterfly(rotations, weight) if rotations.ndim == 4 else rotated(rotations, weight)
    if "rescale" in t:
        new = new * t["rescale"].reshape(-1, *[1] * (weight.ndim - 1))
    return new - weight


def oft_shape(s: Shapes, wanted: Shape) -> Shape:
    """The weight's shape. Raises ValueError if the blocks do not fit its rows."""
    *stages, blocks, rows, columns = s["oft_diag" if "oft_diag" in s else "oft_blocks"]
    if {"oft_diag", "oft_blocks"} <= s.keys() or len(stages) > (0 if "oft_diag" in s else 1):
        raise ValueError("oft_blocks and oft_diag of two kinds")
    if rows != columns or blocks * rows != wanted[0] or math.prod(s.get("rescale", (wanted[0],))) != wanted[0]:
        raise ValueError(f"the blocks do not add up to {wanted[0]} rows")
    if stages and (rows % 2 or wanted[0] % (rows << (stages[0] - 1))):
        raise ValueError(f"{stages[0]} stages of {rows} do not divide {wanted[0]} rows")
    return wanted


def cayley(blocks: Array, longest: float) -> Array:
    """The rotations (I + Q)(I - Q)^-1, where Q is the blocks minus their transposes; float32 of the same shape.

    longest: the largest Frobenius norm of all of Q (COFT); 0 for no limit. Computed in float64.
    """
    q = blocks.astype(np.float64)
    q = q - q.swapaxes(-1, -2)
    norm = float(np.linalg.norm(q))
    if 0 < longest < norm:
        q *= longest / norm
    eye = np.eye(q.shape[-1])
    rotations: Array = ((eye + q) @ np.linalg.inv(eye - q)).astype(np.float32)
    return rotations


def rotated(rotations: Array, weight: Array) -> Array:
    """Each block of rows multiplied by its rotation transposed, as in kohya's trainer and LyCORIS."""
    blocks, size, _ = rotations.shape
    parts = weight.reshape(blocks, size, -1)
    return (rotations.swapaxes(-1, -2) @ parts).reshape(weight.shape)


def butterfly(rotations: Array, weight: Array) -> Array:
    """The rows of a weight rotated in stages, each among rows twice as far apart: Liu et al. 2023 (BOFT), section 4."""
    _, blocks, size, _ = rotations.shape
    rows = weight.reshape(len(weight), -1)
    for stage, turns in enumerate(rotations):
        apart = (size // 2) << stage
        order = np.arange(len(rows)).reshape(-1, 2, apart).swapaxes(1, 2).reshape(-1)
        mixed = (turns @ rows[order].reshape(blocks, size, -1)).reshape(rows.shape)
        rows = np.empty_like(mixed)
        rows[order] = mixed
    return rows.reshape(weight.shape)


def ia3(t: Tensors, weight: Array) -> Array:
    """The weight times one factor per row or per input channel: Liu et al. 2022 (IA3), as in LyCORIS."""
    axis = int(bool(t["on_input"].item()))
    return weight * t["weight"].reshape([-1 if other == axis else 1 for other in range(weight.ndim)])


def ia3_shape(s: Shapes, wanted: Shape) -> Shape:
    """The weight's shape. Raises ValueError unless there is one factor per row or per input channel."""
    factors = math.prod(s["weight"])
    if factors not in wanted[:2] or math.prod(s["on_input"]) != 1:
        raise ValueError(f"{factors} factors fit no axis of {wanted}")
    return wanted


MULTIPLIED = (
    Adapter("GLoRA", frozenset({"a1.weight", "a2.weight", "b1.weight", "b2.weight"}), glora_rank, glora, glora_shape),
    Adapter("OFT", frozenset({"oft_blocks", "oft_diag", "rescale"}), unscaled, oft, oft_shape),
    Adapter("IA3", frozenset({"weight", "on_input"}), unscaled, ia3, ia3_shape),
)
