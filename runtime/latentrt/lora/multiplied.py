"""Adapters whose change depends on the weight that they change: GLoRA, OFT, BOFT and IA3, as LyCORIS defines them.

Held against LyCORIS 4.1 and closed forms. Tensors go by the names that they have in a file's layer.
"""

from __future__ import annotations

import math

import numpy as np

from latentrt.lora.adapters import Form, Shape, Shapes, Tensors, flat, matrix, unscaled
from latentrt.tensors import Array

# Whether the first tensor of each pair, a and b, stands on the left: today's LyCORIS, its older versions, and mixtures.
ORDERS = ((True, True), (False, False), (False, True), (True, False))


def glora(t: Tensors, weight: Array) -> Array:
    """weight @ a + b, both factored: Chavan et al. 2023 (GLoRA), with LyCORIS's choice of terms.

    Of a kernel, a mixes the channels that come in.
    """
    first_a, first_b = glora_order({name: tensor.shape for name, tensor in t.items()}, weight.shape)
    left, right = (flat(t[name]) for name in (("a1", "a2") if first_a else ("a2", "a1")))
    turned: Array = np.einsum("oi...,ir,rj->oj...", weight, left, right, optimize=True)
    left, right = (flat(t[name]) for name in (("b1", "b2") if first_b else ("b2", "b1")))
    whole: Array = turned + (left @ right).reshape(weight.shape)
    return whole


def glora_order(s: Shapes, wanted: Shape) -> tuple[bool, bool]:
    """Which of a1, a2 and of b1, b2 stands on the left. Raises ValueError where neither way has a product."""
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
    """The columns of the left factor of b."""
    _, first_b = glora_order(s, wanted)
    return matrix(s["b1" if first_b else "b2"])[1]


def glora_shape(s: Shapes, wanted: Shape) -> Shape:
    """The weight's own."""
    glora_order(s, wanted)
    return wanted


def oft(t: Tensors, weight: Array) -> Array:
    """The rows of a weight turned block by block, less the weight: Qiu et al. 2023 (OFT), section 3.

    `oft_blocks` are turned by Cayley's transform, (blocks, size, size), or in stages (BOFT); `oft_diag` are the
    rotations themselves. `rescale`: a factor a row.
    """
    if "oft_diag" in t:
        turned = rotated(t["oft_diag"], weight)
    else:
        rotations = cayley(t["oft_blocks"], float(t["alpha"].item()) * len(weight) if "alpha" in t else 0.0)
        turned = butterfly(rotations, weight) if rotations.ndim == 4 else rotated(rotations, weight)
    if "rescale" in t:
        turned = turned * t["rescale"].reshape(-1, *[1] * (weight.ndim - 1))
    return turned - weight


def oft_shape(s: Shapes, wanted: Shape) -> Shape:
    """The weight's own."""
    *stages, blocks, rows, columns = s["oft_diag" if "oft_diag" in s else "oft_blocks"]
    if {"oft_diag", "oft_blocks"} <= s.keys() or len(stages) > (0 if "oft_diag" in s else 1):
        raise ValueError("they are of no one kind")
    if rows != columns or blocks * rows != wanted[0] or math.prod(s.get("rescale", (wanted[0],))) != wanted[0]:
        raise ValueError(f"they turn no {wanted[0]} rows")
    if stages and (rows % 2 or wanted[0] % (rows << (stages[0] - 1))):
        raise ValueError(f"{stages[0]} stages of {rows} do not divide {wanted[0]} rows")
    return wanted


def cayley(blocks: Array, longest: float) -> Array:
    """The rotations (I + Q)(I - Q)^-1 of Q, the blocks less their transposes, float32 of the same shape.

    longest: the Frobenius norm that Q may have in all, 0 for any (COFT). Computed in float64.
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
    """Each block of rows times the transpose of its rotation, as kohya's trainer and LyCORIS do."""
    blocks, size, _ = rotations.shape
    parts = weight.reshape(blocks, size, -1)
    return (rotations.swapaxes(-1, -2) @ parts).reshape(weight.shape)


def butterfly(rotations: Array, weight: Array) -> Array:
    """The rows of a weight turned in stages, each among rows twice as far apart: Liu et al. 2023 (BOFT), section 4."""
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
    """The weight times a factor a row, or a channel that comes in: Liu et al. 2022 (IA3), as LyCORIS has it."""
    axis = int(bool(t["on_input"].item()))
    return weight * t["weight"].reshape([-1 if place == axis else 1 for place in range(weight.ndim)])


def ia3_shape(s: Shapes, wanted: Shape) -> Shape:
    """The weight's own, where the factors are as many as its rows or channels; which is meant is known when read."""
    factors = math.prod(s["weight"])
    if factors not in wanted[:2] or math.prod(s["on_input"]) != 1:
        raise ValueError(f"{factors} factors are for no axis of {wanted}")
    return wanted


MULTIPLIED = (
    Form("GLoRA", frozenset({"a1.weight", "a2.weight", "b1.weight", "b2.weight"}), glora_rank, glora, glora_shape),
    Form("OFT", frozenset({"oft_blocks", "oft_diag", "rescale"}), unscaled, oft, oft_shape),
    Form("IA3", frozenset({"weight", "on_input"}), unscaled, ia3, ia3_shape),
)
