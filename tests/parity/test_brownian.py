"""Brownian noise against torchsde's tree as diffusers sets it up, bit for bit."""

import itertools
import random
import warnings

import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_dpmsolver_sde import BrownianTreeNoiseSampler

from latentrt.sampling.noise.brownian import BrownianTree
from tests.parity.torch_bits import assert_same

# A step of the path is a difference of sums: what rounds of them is large beside a short one.
NEAR = 2e-4
_RANGES = [(0.0292, 14.6146), (0.002, 80.0), (0.0, 1.0), (0.0291675, 4096.0), (3.25, 3.2501)]
_WALKS = [  # seed, shape, range, steps
    (0, (1,), _RANGES[0], 1),
    (1, (3,), _RANGES[1], 2),
    (2**32 - 1, (2, 4, 3, 5), _RANGES[0], 7),
    (2**32, (1, 4, 16, 24), _RANGES[3], 3),
    (2**63, (4, 5, 13), _RANGES[2], 5),
    (2**64 - 1, (16,), _RANGES[4], 3),
]


def _both(seed: int, shape: tuple[int, ...], low: float, high: float):
    return BrownianTreeNoiseSampler(torch.zeros(shape), low, high, seed=seed), BrownianTree(seed, shape, low, high)


def _query(theirs, sigma: float, sigma_next: float) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchsde rounds its ends, and then finds queries beyond them
        return theirs(sigma, sigma_next).numpy()


def _assert_same(theirs: BrownianTreeNoiseSampler, ours: BrownianTree, sigma: float, sigma_next: float) -> None:
    sigma, sigma_next = float(np.float32(sigma)), float(np.float32(sigma_next))
    noise = ours(sigma, sigma_next)
    # PyTorch's square root is not always the nearest float32, so its noise is only near; its motion is the same.
    motion = _query(theirs.tree, sigma, sigma_next)
    assert_same(noise, motion / np.sqrt(np.float32(abs(sigma - sigma_next))), near=NEAR)
    assert_same(noise, _query(theirs, sigma, sigma_next), ulp=2, near=NEAR)


@pytest.mark.parametrize(("seed", "shape", "ends", "steps"), _WALKS)
def test_every_step_of_a_walk_is_theirs(seed, shape, ends, steps):
    low, high = ends
    theirs, ours = _both(seed, shape, low, high)
    for sigma, sigma_next in itertools.pairwise(np.linspace(high, low, steps + 1).tolist()):
        _assert_same(theirs, ours, sigma, sigma_next)


def test_any_order_of_queries_gives_theirs():
    draw = random.Random(1)
    for low, high in _RANGES:
        theirs, ours = _both(draw.randrange(2**64), (4, 3, 3), low, high)
        levels = [low, high] + [draw.uniform(low, high) for _ in range(5)]
        for _ in range(5):
            _assert_same(theirs, ours, *draw.sample(levels, 2))


def test_the_usual_latents_over_eight_steps_are_theirs():
    theirs, ours = _both(7, (1, 4, 64, 64), 0.029167, 14.614642)
    ramp = np.linspace(14.614642 ** (1 / 7), 0.029167 ** (1 / 7), 9) ** 7
    for sigma, sigma_next in itertools.pairwise(np.clip(ramp, 0.029167, 14.614642).tolist()):
        _assert_same(theirs, ours, sigma, sigma_next)


def test_a_batch_of_theirs_is_one_tree_an_image():
    seeds = [3, 2**40, 9]
    theirs = BrownianTreeNoiseSampler(torch.zeros(3, 4, 5, 6), 0.03, 14.6, seed=seeds)
    noises = np.stack([BrownianTree(seed, (4, 5, 6), 0.03, 14.6)(3.0, 1.25) for seed in seeds])
    assert_same(noises, _query(theirs, 3.0, 1.25), ulp=2, near=NEAR)
