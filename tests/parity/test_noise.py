"""Noise against PyTorch itself, bit for bit; a module of its own, since the run-time environment has no PyTorch."""

import random

import numpy as np
import pytest
import torch

from latentrt.noise import TorchGenerator, randn

_SHAPES = [
    (),
    (0,),
    (1,),
    (2,),
    (15,),
    (16,),
    (17,),
    (31,),
    (33,),
    (1, 4, 64, 64),
    (3, 4, 8, 24),
    (4, 15, 15),
]
_EDGE_SEEDS = [0, 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1, -1, -2, -(2**32), -(2**63)]
_SEEDS_PER_SHAPE = 100


@pytest.fixture(autouse=True)
def _need_avx2():
    """Without AVX2 PyTorch computes its blocks with another logarithm, so there is nothing to be equal to."""
    assert torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


def _generators(seed: int) -> tuple[torch.Generator, TorchGenerator]:
    return torch.Generator("cpu").manual_seed(seed), TorchGenerator(seed)


def _assert_same_bits(ours: np.ndarray, theirs: torch.Tensor, of: object) -> None:
    assert (ours.shape, ours.dtype) == (tuple(theirs.shape), np.float32), of
    assert ours.tobytes() == theirs.numpy().tobytes(), of


@pytest.mark.parametrize("shape", _SHAPES, ids=str)
def test_every_seed_gives_the_bits_of_torch(shape):
    draw = random.Random(str(shape))
    seeds = [draw.randrange(-(2**63), 2**64) for _ in range(_SEEDS_PER_SHAPE)]
    for seed in _EDGE_SEEDS + seeds:
        generator = torch.Generator("cpu").manual_seed(seed)
        _assert_same_bits(randn(shape, seed), torch.randn(shape, generator=generator), of=seed)


def test_mixed_sizes_continue_one_stream():
    draw = random.Random(0)
    for seed in range(100):
        theirs, ours = _generators(seed)
        sizes = [draw.choice((0, 1, 2, 3, 14, 15, 16, 17, 31, 33, 64, 624, 1000)) for _ in range(20)]
        for size in sizes:
            _assert_same_bits(ours.randn((size,)), torch.randn(size, generator=theirs), of=(seed, sizes))


def test_two_million_at_once():
    theirs, ours = _generators(3)
    _assert_same_bits(ours.randn((2_000_000,)), torch.randn(2_000_000, generator=theirs), of="one draw")
    _assert_same_bits(ours.randn((2_000_003,)), torch.randn(2_000_003, generator=theirs), of="one with a tail")
