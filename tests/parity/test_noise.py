"""Noise against PyTorch itself; a module of its own, since the run-time environment has no PyTorch."""

import random

import pytest
import torch

from latentrt.sampling.noise.torch_cpu import TorchGenerator, randn
from tests.parity.torch_bits import assert_same

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


def _generators(seed: int) -> tuple[torch.Generator, TorchGenerator]:
    return torch.Generator("cpu").manual_seed(seed), TorchGenerator(seed)


@pytest.mark.parametrize("shape", _SHAPES, ids=str)
def test_every_seed_gives_the_bits_of_torch(shape):
    draw = random.Random(str(shape))
    seeds = [draw.randrange(-(2**63), 2**64) for _ in range(_SEEDS_PER_SHAPE)]
    for seed in _EDGE_SEEDS + seeds:
        generator = torch.Generator("cpu").manual_seed(seed)
        assert_same(randn(shape, seed), torch.randn(shape, generator=generator).numpy(), seed)


def test_mixed_sizes_continue_one_stream():
    draw = random.Random(0)
    for seed in range(100):
        theirs, ours = _generators(seed)
        sizes = [draw.choice((0, 1, 2, 3, 14, 15, 16, 17, 31, 33, 64, 624, 1000)) for _ in range(20)]
        for size in sizes:
            assert_same(ours.randn((size,)), torch.randn(size, generator=theirs).numpy(), (seed, sizes))


def test_two_million_at_once():
    theirs, ours = _generators(3)
    assert_same(ours.randn((2_000_000,)), torch.randn(2_000_000, generator=theirs).numpy(), "one draw")
    assert_same(ours.randn((2_000_003,)), torch.randn(2_000_003, generator=theirs).numpy(), "one with a tail")
