"""Adapters that add to a weight whatever its value: LoRA, LoHa, LoKr and whole differences, each in closed form.

Low-rank adapters are scaled by alpha / rank. Tensors have short names here: `down` and `up` of a LoRA, `w1_a` and so on
of LoHa and LoKr: LyCORIS's names without `hada_` and `lokr_`. Compared with peft 0.21 and diffusers 0.42.1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from latentrt.tensors import Array

Tensors = Mapping[str, Array]
Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]


@dataclass(frozen=True)
class Adapter:
    """One kind of adapter.

    tensors: the names that its tensors may have. rank: the rank, from the tensors' shapes and the weight's shape; None
    if no tensor is factored, so that alpha does not scale. change: the array to add, from the tensors and the weight.
    shape: the shape of that array, from the tensors' shapes and the weight's shape; raises KeyError, IndexError or
    ValueError if the tensors do not fit each other. shared: names that another kind has too.
    """

    name: str
    tensors: frozenset[str]
    rank: Callable[[Shapes, Shape], int | None]
    change: Callable[[Tensors, Array], Array]
    shape: Callable[[Shapes, Shape], Shape]
    shared: frozenset[str] = frozenset()

    @property
    def distinctive(self) -> frozenset[str]:
        """The tensor names that only this kind has."""
        return self.tensors - self.shared


def lora(t: Tensors, _weight: Array) -> Array:
    """up @ down, (out, in) or (out, in, height, width): Hu et al. 2021, equation 3; `mid` is LoCon's core."""
    up, down = flat(t["up"]), flat(t["down"])
    return cored(t["mid"], up.T, down) if "mid" in t else (up @ down).reshape(-1, *t["down"].shape[1:])


def lora_shape(s: Shapes, _wanted: Shape) -> Shape:
    """The shape of what `lora` returns."""
    (out, inner), (rank, width) = matrix(s["up"]), matrix(s["down"])
    if "mid" in s:
        return cored_shape(s["mid"], (inner, out), (rank, width))
    return product_shape((out, inner), (rank, width))[:1] + s["down"][1:]


def loha(t: Tensors, _weight: Array) -> Array:
    """The Hadamard product of two factored matrices: Hyeon-Woo et al. 2021 (FedPara), propositions 2 and 3."""
    return factored(t, "1") * factored(t, "2")


def loha_shape(s: Shapes, _wanted: Shape) -> Shape:
    """The shape of what `loha` returns."""
    first, second = factored_shape(s, "1"), factored_shape(s, "2")
    if first != second:
        raise ValueError(f"{first} and {second} differ")
    return first


def lokr(t: Tensors, _weight: Array) -> Array:
    """The Kronecker product of two matrices, either factored or whole: LyCORIS, Yeh et al. 2023, section 3.3."""
    small, large = factored(t, "1"), factored(t, "2")
    return np.kron(small.reshape(*small.shape, *[1] * (large.ndim - 2)), large)


def lokr_shape(s: Shapes, _wanted: Shape) -> Shape:
    """The shape of what `lokr` returns."""
    (rows, columns), large = factored_shape(s, "1"), factored_shape(s, "2")
    return (rows * large[0], columns * large[1], *large[2:])


def lokr_rank(s: Shapes, _wanted: Shape) -> int | None:
    """Rows of the second factor: that of the larger matrix if it is factored, else that of the smaller."""
    return next((s[name][0] for name in ("w2_b", "w1_b") if name in s), None)


def factored(t: Tensors, which: str) -> Array:
    """Matrix "1" or "2" of a LoHa or LoKr: as stored, or the product of its factors."""
    if f"w{which}" in t:
        return t[f"w{which}"]
    a, b = t[f"w{which}_a"], t[f"w{which}_b"]
    return cored(t[f"t{which}"], a, b) if f"t{which}" in t else a @ b


def factored_shape(s: Shapes, which: str) -> Shape:
    """The shape of what `factored` returns."""
    if f"w{which}" in s:
        return s[f"w{which}"]
    a, b = s[f"w{which}_a"], s[f"w{which}_b"]
    return cored_shape(s[f"t{which}"], a, b) if f"t{which}" in s else product_shape(a, b)


def cored(core: Array, a: Array, b: Array) -> Array:
    """A kernel (out, in, height, width) from a core (rank, rank, height, width), a (rank, out) and b (rank, in)."""
    kernel: Array = np.einsum("ijkl,io,jc->ockl", core, a, b, optimize=True)
    return kernel


def cored_shape(core: Shape, a: Shape, b: Shape) -> Shape:
    """The shape of what `cored` returns."""
    (first, second, *kernel), (rank_a, out), (rank_b, width) = core, a, b
    if (first, second) != (rank_a, rank_b):
        raise ValueError(f"the core {core} does not fit between {a} and {b}")
    return (out, width, *kernel)


def product_shape(a: Shape, b: Shape) -> Shape:
    """The shape of the product of two matrices."""
    (rows, inner), (other, columns) = a, b
    if inner != other:
        raise ValueError(f"{a} and {b} have no product")
    return rows, columns


def flat(tensor: Array) -> Array:
    """A kernel as a matrix, (out, everything else)."""
    return tensor.reshape(matrix(tensor.shape))


def matrix(shape: Shape) -> Shape:
    """The shape of a kernel as a matrix."""
    return shape[0], math.prod(shape[1:])


def unscaled(_s: Shapes, _wanted: Shape) -> None:
    """The rank of adapters without factors: None."""
    return None


ADDED = (
    Adapter("LoRA", frozenset({"down", "up", "mid"}), lambda s, _: s["down"][0], lora, lora_shape),
    Adapter(
        "LoHa",
        frozenset({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"}),
        lambda s, _: s["w1_b"][0],
        loha,
        loha_shape,
    ),
    Adapter(
        "LoKr",
        frozenset({"lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"}),
        lokr_rank,
        lokr,
        lokr_shape,
    ),
    Adapter("a difference", frozenset({"diff"}), unscaled, lambda t, _: t["diff"], lambda s, _: s["diff"]),
    Adapter("a norm's difference", frozenset({"w_norm"}), unscaled, lambda t, _: t["w_norm"], lambda s, _: s["w_norm"]),
)
# Adapters of a layer's bias; a layer may have one beside its weight's adapter.
BIASES = (
    Adapter("a bias's difference", frozenset({"diff_b"}), unscaled, lambda t, _: t["diff_b"], lambda s, _: s["diff_b"]),
    Adapter("a norm's bias", frozenset({"b_norm"}), unscaled, lambda t, _: t["b_norm"], lambda s, _: s["b_norm"]),
    Adapter(
        "a LoRA's bias",
        frozenset({"up_bias", "down"}),
        lambda s, _: s["down"][0],
        lambda t, _: t["up_bias"],
        lambda s, _: (s["up_bias"], s["down"])[0],
        frozenset({"down"}),
    ),
)


def change(adapter: Adapter, tensors: Tensors, weight: Array) -> Array:
    """Returns the array that the adapter adds at a scale of 1: (out, in, ...) or (out, in * height * width) float32.

    tensors: by their names in the file's layer; `alpha`, one number, defaults to the rank. weight: the unchanged
    weight, (out, in, ...) float32.
    """
    t = {short(name): tensor for name, tensor in tensors.items()}
    rank = adapter.rank({name: tensor.shape for name, tensor in t.items()}, weight.shape)
    whole = adapter.change(t, weight)
    return whole * np.float32(t["alpha"].item() / rank) if "alpha" in t and rank else whole


def low_rank(tensors: Tensors) -> tuple[Array, Array]:
    """The factors of a LoRA without a core, (out, rank) and (rank, in), whose product `change` adds to a matrix."""
    up, down = flat(tensors["up"]), flat(tensors["down"])
    return (up * np.float32(tensors["alpha"].item() / len(down)) if "alpha" in tensors and len(down) else up), down


def shape_of_change(adapter: Adapter, shapes: Shapes, wanted: Shape) -> Shape:
    """Returns the shape of the array from `change` for a weight of shape `wanted`; raises as `Adapter.shape` does."""
    return adapter.shape({short(name): shape for name, shape in shapes.items()}, wanted)


def short(name: str) -> str:
    """A tensor's name without its kind's prefix."""
    return name.removeprefix("hada_").removeprefix("lokr_").removesuffix(".weight")
