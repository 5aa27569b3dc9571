"""Brownian noise where there is no PyTorch: values that torchsde gave once, and the laws of a Brownian motion."""

import hashlib
import itertools
import json
import math
import random
from pathlib import Path

import numpy as np
import pytest

from latentrt.errors import RequestError
from latentrt.sampling.noise.brownian import BrownianTree
from latentrt.sampling.noise.torch_cpu import TorchGenerator
from latentrt.sampling.noise.torch_cuda import PhiloxGenerator

LOW, HIGH = 0.0292, 14.6146
GOLDENS = json.loads((Path(__file__).parent / "brownian_noise.json").read_text())  # see make_brownian_goldens.py


def levels(steps: int, high: float = HIGH) -> list[float]:
    """Levels as Karras et al. (2022) space them, eq. 5."""
    ramp = np.linspace(high ** (1 / 7), LOW ** (1 / 7), steps + 1)
    return np.clip(ramp**7, LOW, high).tolist()


def increment(tree: BrownianTree, sigma: float, sigma_next: float) -> np.ndarray:
    """W(lower) - W(sigma), from the noise of the step."""
    return tree(sigma, sigma_next).astype(np.float64) * math.sqrt(abs(sigma - sigma_next))


@pytest.mark.parametrize("case", GOLDENS["cases"], ids=lambda case: str(case["seed"]))
def test_every_bit_is_that_of_torchsde(case):
    grid = case["levels"]
    tree = BrownianTree(case["seed"], tuple(case["shape"]), grid[-1], grid[0])
    for sigma, sigma_next, first, digest in zip(grid, grid[1:], case["first"], case["sha256"], strict=False):
        noise = tree(sigma, sigma_next)
        assert (noise.shape, noise.dtype) == (tuple(case["shape"]), np.float32)
        assert noise.reshape(-1)[:3].tolist() == first
        assert hashlib.sha256(noise.astype("<f4").tobytes()).hexdigest() == digest


@pytest.mark.parametrize("steps", [1, 2, 7, 20])
def test_the_steps_add_up_to_the_same_motion_however_many_there_are(steps):
    tree = BrownianTree(3, (4, 6, 5), LOW, HIGH)
    whole = increment(tree, HIGH, LOW)
    parts = sum(increment(tree, *pair) for pair in itertools.pairwise(levels(steps)))
    np.testing.assert_allclose(parts, whole, rtol=0, atol=2e-5)
    assert np.abs(whole).max() > 1


def test_steps_have_unit_variance_and_do_not_know_of_each_other():
    tree = BrownianTree(11, (40_000,), LOW, HIGH)
    noises = np.stack([tree(*pair) for pair in itertools.pairwise(levels(6))])
    assert np.abs(np.cov(noises) - np.eye(6)).max() < 0.03  # some four standard errors
    assert np.abs(noises.mean(axis=1)).max() < 0.02


def test_neither_order_nor_history_changes_the_noise():
    pairs = list(itertools.combinations(levels(4), 2))
    tree = BrownianTree(5, (3, 4), LOW, HIGH)
    alone = [BrownianTree(5, (3, 4), LOW, HIGH)(*pair) for pair in pairs]
    for index in random.Random(0).sample(range(len(pairs)), len(pairs)):
        np.testing.assert_array_equal(tree(*pairs[index]), alone[index])
        np.testing.assert_array_equal(tree(*pairs[index]), alone[index])


def test_a_step_up_is_the_step_down_reversed():
    tree = BrownianTree(5, (3, 4), LOW, HIGH)
    np.testing.assert_array_equal(tree(1.0, 3.0), -tree(3.0, 1.0))


def test_what_is_returned_is_the_callers_to_change():
    tree = BrownianTree(5, (3, 4), LOW, HIGH)
    whole = tree(HIGH, LOW)
    expected = whole.copy()
    whole *= 7
    np.testing.assert_array_equal(tree(HIGH, LOW), expected)


def test_a_step_of_no_height_gives_zeros_and_disturbs_nothing():
    tree = BrownianTree(5, (3, 4), LOW, HIGH)
    for sigma, sigma_next in ((2.0, 2.0), (HIGH, HIGH), (LOW, LOW), (2.0000001, 2.0000003)):
        noise = tree(sigma, sigma_next)
        assert (noise.dtype, noise.tolist()) == (np.float32, np.zeros((3, 4)).tolist())
    np.testing.assert_array_equal(tree(3.0, 2.0), BrownianTree(5, (3, 4), LOW, HIGH)(3.0, 2.0))


def test_the_least_step_there_is_has_unit_variance():
    noise = BrownianTree(5, (10_000,), LOW, HIGH)(1.000001, 1.0)
    assert noise.std() == pytest.approx(1, abs=0.06)  # the height is rounded to float32, and so to one part in 20


@pytest.mark.parametrize("high", [0.5, 4096.0])
def test_memory_and_draws_do_not_grow_with_the_steps(high):
    seeds = []

    def make(seed):
        seeds.append(seed)
        return TorchGenerator(seed)

    tree = BrownianTree(1, (2,), LOW, high, make)
    depth = math.ceil(math.log2((high - LOW) / 1e-6)) + 1
    drawn = []
    for pair in itertools.pairwise(levels(20, high)):
        seeds.clear()
        tree(*pair)
        assert len(tree._kept) <= 2 * depth
        drawn.append(len(seeds))
    assert len(drawn) == 20
    assert max(drawn) <= depth  # each step but the first finds the splits above its upper level
    assert sum(drawn) > 10 * depth  # while those above its lower level are new


def test_each_image_has_a_tree_of_its_seed_alone():
    one, again, other = (BrownianTree(seed, (4, 8, 8), LOW, HIGH)(5.0, 2.0) for seed in (7, 7, 7 + 2**32))
    np.testing.assert_array_equal(one, again)
    assert (one != other).all()


def test_a_negative_seed_is_its_twos_complement():
    trees = [BrownianTree(seed, (5,), LOW, HIGH) for seed in (-3, 2**64 - 3)]
    np.testing.assert_array_equal(trees[0](5.0, 2.0), trees[1](5.0, 2.0))


def test_the_normals_may_be_those_of_a_gpu():
    seeds = []

    def make(seed):
        seeds.append(seed)
        return PhiloxGenerator(seed)

    tree = BrownianTree(7, (4, 8, 8), LOW, HIGH, make)
    (first,) = seeds
    np.testing.assert_allclose(tree(HIGH, LOW), -PhiloxGenerator(first).randn((4, 8, 8)), rtol=1e-6)
    assert tree(5.0, 2.0).std() == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize(
    ("low", "high"), [(1.0, 1.0), (2.0, 1.0), (1.0, 1.0000001), (0.0, math.inf), (math.nan, 1.0), (0.0, math.nan)]
)
def test_levels_that_do_not_rise_are_refused(low, high):
    with pytest.raises(RequestError, match=f"a lower and a higher noise level: got {low} to {high}"):
        BrownianTree(0, (3,), low, high)


@pytest.mark.parametrize(("sigma", "sigma_next"), [(15.0, 1.0), (1.0, 0.0), (math.nan, 1.0), (math.inf, 1.0)])
def test_a_level_outside_is_refused(sigma, sigma_next):
    with pytest.raises(RequestError, match="noise level outside the tree's: got .*, expected 0.0"):
        BrownianTree(0, (3,), LOW, HIGH)(sigma, sigma_next)


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1])
def test_a_seed_beyond_64_bits_is_refused(seed):
    with pytest.raises(RequestError, match=f"^seed does not fit 64 bits: got {seed}"):
        BrownianTree(seed, (3,), LOW, HIGH)
