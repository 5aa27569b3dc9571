"""Noise of a Brownian motion over noise levels: an image keeps its noise when the number of steps changes.

The motion W is fixed by a seed alone, as a virtual Brownian tree: Li et al., Scalable Gradients for Stochastic
Differential Equations (2020), section 4; Kidger et al., Efficient and Accurate Gradients for Neural SDEs (2021),
section 4. Each interval of levels is halved, its increment split by a normal that has a seed of its own, until both
levels asked for are ends. The reference is torchsde 0.2.6's BrownianInterval as k-diffusion and diffusers 0.42.1 set
it up (``BrownianTreeNoiseSampler``). On a CPU the motion is the same to the last bit, and so is the noise but for one
height in 150, whose square root PyTorch does not round to the nearest float32: there it differs by 2 units in the last
place at most. With ``PhiloxGenerator`` it is that of a GPU, up to that generator's error.

Halving goes down to 1e-6, so a step draws some 20 normals of the whole shape, which is nearly all of its time. What the
last query went through is kept, since the next step starts where it ended: some 50 pairs of arrays, and no more.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from latentrt.errors import RequestError
from latentrt.sampling.noise.torch_cpu import TorchGenerator
from latentrt.sampling.noise.torch_cuda import unsigned_seed

Floats = NDArray[np.float32]

_DIGITS = 6  # of a level: two that round alike are one
_POOL = 24  # words in which NumPy's SeedSequence mixes a seed


class Generator(Protocol):
    """A source of normals, as TorchGenerator and PhiloxGenerator are."""

    def randn(self, shape: tuple[int, ...]) -> Floats:
        """Return float32 standard normals of `shape`."""
        ...


class _Interval(NamedTuple):
    start: float
    end: float
    key: int  # its place among the intervals of its depth, from 0 on the left
    depth: int
    increment: Floats  # W(end) - W(start)


_Halves = tuple[_Interval, _Interval]


class BrownianTree:
    """The noise of one image between two noise levels: one tree an image, whatever the batch it is made in."""

    def __init__(
        self,
        seed: int,
        shape: tuple[int, ...],
        low: float,
        high: float,
        generator: Callable[[int], Generator] = TorchGenerator,
    ) -> None:
        """Draw the increment of the motion of `seed` from `low` to `high`, the least and greatest level to be asked.

        A negative seed, which torchsde refuses, stands for its two's complement. generator: called with a seed of 32
        bits for each normal. Raises RequestError (a ValueError) for a seed outside -2**63 to 2**64 - 1 or levels that
        do not rise by 1e-6 or more.
        """
        self._seed, self._shape, self._generator = unsigned_seed(seed), shape, generator
        self._low, self._high = _as_float32(low), _as_float32(high)
        start, end = round(self._low, _DIGITS), round(self._high, _DIGITS)
        if not start < end < math.inf:
            raise RequestError(f"a Brownian motion needs a lower and a higher noise level: got {low} to {high}")
        increment = self._draw() * np.float32(math.sqrt(self._high - self._low))
        self._whole = _Interval(start, end, 0, 0, increment)
        self._kept: dict[tuple[int, int], _Halves] = {}

    def __call__(self, sigma: float, sigma_next: float) -> Floats:
        """Return unit-variance noise for the step from `sigma` down to `sigma_next`: float32 of the shape.

        It is (W(lower) - W(sigma)) / sqrt(|sigma - lower|), with k-diffusion's sign. Levels equal to six decimals give
        zeros, where k-diffusion divides by zero: a step of no height adds no noise. Any order of queries gives the
        same. Raises RequestError (a ValueError) for a level outside the tree's.
        """
        sigma, sigma_next = _as_float32(sigma), _as_float32(sigma_next)
        for level in (sigma, sigma_next):
            if not self._low <= level <= self._high:
                raise RequestError(f"noise level outside the tree's: got {level}, expected {self._low} to {self._high}")
        start, end = (self._on_grid(level) for level in sorted((sigma, sigma_next)))
        if start == end:
            return np.zeros(self._shape, np.float32)
        height = np.sqrt(np.float32(abs(sigma_next - sigma)))
        noise: Floats = self._increment(start, end) / (height if sigma < sigma_next else -height)
        return noise

    def _on_grid(self, level: float) -> float:
        """Return the level that the intervals know, since rounding may have moved the ends inwards."""
        return min(max(round(level, _DIGITS), self._whole.start), self._whole.end)

    def _increment(self, start: float, end: float) -> Floats:
        """Return W(end) - W(start), summed from left to right over the fewest intervals that fill the gap."""
        parts = []
        kept, self._kept = self._kept, {}
        waiting = [self._whole]
        while waiting:
            interval = waiting.pop()
            if start <= interval.start and interval.end <= end:
                parts.append(interval.increment)
                continue
            place = interval.depth, interval.key
            left, right = self._kept[place] = kept.get(place) or self._halve(interval)
            if end > right.start:
                waiting.append(right)
            if start < left.end:
                waiting.append(left)
        total: Floats = functools.reduce(np.add, parts)
        return total

    def _halve(self, interval: _Interval) -> _Halves:
        """Return both halves, the left increment drawn given the whole's: a Brownian bridge at its middle."""
        middle = round(0.5 * (interval.end + interval.start), _DIGITS)
        before, after = middle - interval.start, interval.end - middle
        share = 1 / (interval.end - interval.start)
        # PyTorch rounds each scalar to float32 and multiplies from left to right: the order decides the last bits.
        left = np.float32(before) * interval.increment * np.float32(share)
        left += np.float32(math.sqrt(before * after * share)) * self._draw(interval.key, interval.depth)
        key, depth = 2 * interval.key, interval.depth + 1
        return (
            _Interval(interval.start, middle, key, depth, left),
            _Interval(middle, interval.end, key + 1, depth, interval.increment - left),
        )

    def _draw(self, *place: int) -> Floats:
        """Return the normals of the interval that is split at `place`, or of the whole motion."""
        (seed,) = np.random.SeedSequence(self._seed, spawn_key=place, pool_size=_POOL).generate_state(1)
        return self._generator(int(seed)).randn(self._shape)


def _as_float32(level: float) -> float:
    """Return `level` as k-diffusion gives it to the tree: a float32."""
    return float(np.float32(level))
