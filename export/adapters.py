"""What a low-rank adapter adds to one weight: LoRA, LoHa and LoKr, each a closed form of a few small tensors.

Every form is scaled by alpha / rank. Tensors go by short names: `down` and `up` of a LoRA, `w1_a` and so on of the two
others, as LyCORIS names them without `hada_` and `lokr_`. Held against peft 0.21 and diffusers 0.42.1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Form:
    """One kind of adapter: the tensors that it may have, its rank, and the change that it adds to a weight.

    rank: None where no tensor is factored, and alpha says nothing.
    """

    name: str
    tensors: frozenset[str]
    rank: Callable[[Tensors], int | None]
    change: Callable[[Tensors], Tensor]


def lora(t: Tensors) -> Tensor:
    """up @ down, (out, in) or (out, in, height, width): Hu et al. 2021, equation 3; `mid` is LoCon's core."""
    if "mid" in t:
        return cored(t["mid"], t["up"].flatten(1).T, t["down"].flatten(1))
    return (t["up"].flatten(1) @ t["down"].flatten(1)).reshape(-1, *t["down"].shape[1:])


def loha(t: Tensors) -> Tensor:
    """The Hadamard product of two factored matrices: Hyeon-Woo et al. 2021 (FedPara), propositions 2 and 3."""
    return factored(t, "1") * factored(t, "2")


def lokr(t: Tensors) -> Tensor:
    """The Kronecker product of two matrices, either factored or whole: LyCORIS, Yeh et al. 2023, section 3.3."""
    small, large = factored(t, "1"), factored(t, "2")
    # contiguous, because torch.kron takes a view of the product, which keeps the strides of a core's
    return torch.kron(small.reshape(*small.shape, *[1] * (large.ndim - 2)), large.contiguous())


def factored(t: Tensors, which: str) -> Tensor:
    """The matrix `which` of a LoHa or LoKr: as it is stored, or the product of its factors."""
    if f"w{which}" in t:
        return t[f"w{which}"]
    a, b = t[f"w{which}_a"], t[f"w{which}_b"]
    return cored(t[f"t{which}"], a, b) if f"t{which}" in t else a @ b


def cored(core: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The kernel (out, in, height, width) of a core (rank, rank, height, width), a (rank, out) and b (rank, in)."""
    return torch.einsum("ijkl,io,jc->ockl", core, a, b)


def lokr_rank(t: Tensors) -> int | None:
    """Rows of the second factor, of the larger matrix if that is factored."""
    return next((t[name].shape[0] for name in ("w2_b", "w1_b") if name in t), None)


FORMS = (
    Form("LoRA", frozenset({"down", "up", "mid"}), lambda t: t["down"].shape[0], lora),
    Form(
        "LoHa",
        frozenset({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"}),
        lambda t: t["w1_b"].shape[0],
        loha,
    ),
    Form(
        "LoKr",
        frozenset({"lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"}),
        lokr_rank,
        lokr,
    ),
)


def change(form: Form, tensors: Tensors) -> Tensor:
    """Returns what the adapter adds at a scale of 1, (out, in, ...) or (out, in * height * width), in float32.

    tensors: by their names in the file's layer, and `alpha`, a number, without which it is the rank. Raises KeyError
    for a tensor that is missing and RuntimeError for shapes that do not go together.
    """
    t = {name.removeprefix("hada_").removeprefix("lokr_"): tensor for name, tensor in tensors.items()}
    rank = form.rank(t)
    whole = form.change(t)
    return whole * (t["alpha"].reshape(()) / rank) if "alpha" in t and rank else whole
