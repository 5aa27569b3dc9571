"""Standard normals equal, bit for bit, to those of ``torch.randn`` on an x86-64 CPU, made with NumPy alone.

A seed thus names the same image here as in PyTorch code. The reference is PyTorch 2.13.0 with AVX2:
``MT19937RNGEngine.h`` (the stream of words), ``DistributionTemplates.h`` (16 elements and more, in blocks),
``avx_mathfun.h`` (the logarithm, sine and cosine of those blocks: Cephes polynomials) and ``DistributionsHelper.h``
(fewer than 16 elements, one at a time).

PyTorch's compiler fuses multiplications with the additions that use them: one rounding where the C++ shows two. Here
each operation runs in float64, where the product of two float32 is exact, and is then rounded to float32. The sum is
rounded twice that way, which could differ from a fused operation but never does: the uniforms take only 2**24 values,
and all of them were tried, against ``fmaf`` and against PyTorch itself.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentrt.sampling.noise.torch_cuda import unsigned_seed

Words = NDArray[np.uint32]
Floats = NDArray[np.float32]
Wide = NDArray[np.float64]  # holds float32 values, except between an operation and its rounding

_BLOCK = 16  # eight uniforms for the radii, eight for the angles; a shorter draw takes the scalar path
_HALF = _BLOCK // 2
_CHUNK = 2048 * _BLOCK  # words transformed at once, which bounds the float64 temporaries to a few times 128 KiB


def _as_float32(*values: float) -> tuple[float, ...]:
    return tuple(float(np.float32(value)) for value in values)


_LOG = _as_float32(
    7.0376836292e-2,
    -1.1514610310e-1,
    1.1676998740e-1,
    -1.2420140846e-1,
    1.4249322787e-1,
    -1.6668057665e-1,
    2.0000714765e-1,
    -2.4999993993e-1,
    3.3333331174e-1,
)
_SIN = _as_float32(-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1)
_COS = _as_float32(2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2)
_SQRT_HALF, _FOUR_OVER_PI, _TWO_PI = _as_float32(0.707106781186547524, 1.27323954473516, 2 * math.pi)
_LN2 = _as_float32(0.693359375, -2.12194440e-4)  # high part, then the rest
_HALF_PI = tuple(2 * part for part in _as_float32(0.78515625, 2.4187564849853515625e-4, 3.77489497744594108e-8))
_COS_OF_QUARTERS = np.array([1, 0, -1, 0, 1], np.float32)  # of 0 to 4 quarter turns
_SIN_OF_QUARTERS = np.array([0, 1, 0, -1, 0], np.float32)


class _Unseeded(np.random.SeedSequence):
    """Zeros for a Mersenne Twister that is seeded afterwards: NumPy would mix 624 words of entropy for it first."""

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> NDArray[Any]:
        """Return zeros."""
        return np.zeros(n_words, dtype)


_UNSEEDED = _Unseeded(0)


class TorchGenerator:
    """The stream of normals of ``torch.Generator("cpu").manual_seed(seed)``."""

    def __init__(self, seed: int) -> None:
        """Start the stream of `seed`: -2**63 to 2**64 - 1, of which PyTorch uses the low 32 bits.

        Raises RequestError (a ValueError) for a seed outside that range.
        """
        low = unsigned_seed(seed) & 0xFFFFFFFF
        # RandomState and not Generator: NumPy promises never to change its seeding nor its stream (NEP 19).
        self._words = np.random.RandomState(np.random.MT19937(_UNSEEDED))
        self._words.seed(low)
        self._spare: float | None = None

    def randn(self, shape: tuple[int, ...]) -> Floats:
        """Return the next standard normals of the stream: float32 of `shape`, as the next ``torch.randn`` would.

        >>> TorchGenerator(0).randn((2,))
        array([ 1.5409961, -0.2934289], dtype=float32)
        """
        normals = np.empty(shape, np.float32)
        flat = normals.reshape(-1)
        if flat.size < _BLOCK:
            flat[:] = [self._draw_scalar() for _ in range(flat.size)]
        else:  # neither uses nor clears the spare normal of an earlier scalar draw, as in PyTorch
            self._fill_blocks(flat)
        return normals

    def rand(self, shape: tuple[int, ...]) -> Floats:
        """Return the next uniforms in [0, 1): float32 of `shape`, as the next ``torch.rand`` would."""
        words = self._draw_words(math.prod(shape)) & 0xFFFFFF
        return words.astype(np.float32).reshape(shape) * np.float32(2.0**-24)

    def _fill_blocks(self, flat: Floats) -> None:
        words = self._draw_words(flat.size)
        whole = flat.size - flat.size % _BLOCK
        for start in range(0, whole, _CHUNK):
            stop = min(start + _CHUNK, whole)
            flat[start:stop] = _normals_from_words(words[start:stop])
        if whole < flat.size:  # the last 16 are drawn afresh, over some that were already made
            flat[-_BLOCK:] = _normals_from_words(self._draw_words(_BLOCK))

    def _draw_scalar(self) -> float:
        if self._spare is not None:
            normal, self._spare = self._spare, None
            return normal
        high_1, low_1, high_2, low_2 = self._draw_words(4).tolist()
        angle = 2 * math.pi * _uniform_from_words(high_1, low_1)
        # math and not numpy: PyTorch calls the C library here, while NumPy brings its own vector sine.
        radius = math.sqrt(-2 * math.log1p(-_uniform_from_words(high_2, low_2)))
        self._spare = radius * math.sin(angle) + 0.0
        return radius * math.cos(angle) + 0.0

    def _draw_words(self, count: int) -> Words:
        return self._words.randint(0, 2**32, size=count, dtype=np.uint32)


def randn(shape: tuple[int, ...], seed: int) -> Floats:
    """Return ``torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed))``: float32 of `shape`.

    Raises RequestError (a ValueError) for a seed outside -2**63 to 2**64 - 1.
    """
    return TorchGenerator(seed).randn(shape)


def _uniform_from_words(high: int, low: int) -> float:
    """Return a float64 in [0, 1) made of the low 53 bits of two words."""
    return ((high << 32 | low) & (2**53 - 1)) * 2.0**-53


def _normals_from_words(words: Words) -> Floats:
    """Return as many normals as `words`, a multiple of 16, by Box and Muller's transform (``NormalFill16``)."""
    pairs = (words & 0xFFFFFF).reshape(-1, 2, _HALF)
    for_radius, for_angle = pairs.swapaxes(0, 1).astype(np.float64, order="C")
    radius = np.sqrt(-2 * _log(1 - for_radius * 2.0**-24).astype(np.float32))
    cosine, sine = _cos_sin(_rounded(for_angle * (2.0**-24 * _TWO_PI)))
    normals = np.empty((len(radius), 2, _HALF), np.float32)
    np.multiply(radius, cosine, out=normals[:, 0])
    np.multiply(radius, sine, out=normals[:, 1])
    normals += 0  # PyTorch adds the mean, which makes -0.0 into 0.0
    return normals.reshape(-1)


def _rounded(exact: Wide) -> Wide:
    """Return `exact` itself, rounded in place to float32: fresh memory would cost more than the arithmetic."""
    exact[...] = exact.astype(np.float32)
    return exact


def _fused(a: Wide | float, b: Wide, c: Wide | float, out: Wide | None = None) -> Wide:
    """Return the float32 nearest to a * b + c, in `out` if given: `a` or `b`, but not `c`."""
    total: Wide = np.multiply(a, b, out=out)
    total += c
    return _rounded(total)


def _polynomial(x: Wide, coefficients: tuple[float, ...]) -> Wide:
    """Return the polynomial at `x`, highest power first, by Horner's rule."""
    y = _fused(coefficients[0], x, coefficients[1])
    for coefficient in coefficients[2:]:
        _fused(y, x, coefficient, out=y)
    return y


def _log(u: Wide) -> Wide:
    """Return the natural logarithm of `u` in (0, 1], as ``log256_ps`` gives it."""
    x, exponent = np.frexp(u)
    small = x < _SQRT_HALF
    x *= small + 1.0
    x -= 1
    e = np.subtract(exponent, small, dtype=np.float64)
    square = _rounded(x * x)
    y = _polynomial(x, _LOG)
    y *= x
    # Where a sum has two products, the first is fused and the second is rounded before.
    _fused(_rounded(y), square, _rounded(e * _LN2[1]), out=y)
    y = _fused(-0.5, square, y, out=square)
    y += x
    return _fused(_LN2[0], e, _rounded(y), out=e)


def _cos_sin(theta: Wide) -> tuple[Floats, Floats]:
    """Return the cosine and sine of `theta` in [0, 2 pi], as ``sincos256_ps`` gives them."""
    octants = (theta * _FOUR_OVER_PI).astype(np.float32).astype(np.int32)
    quarters = (octants + 1) >> 1
    turns = quarters.astype(np.float64)
    x = theta
    for part in _HALF_PI:
        x = _fused(-part, turns, x)
    square = _rounded(x * x)
    tail = _polynomial(square, _COS)
    tail *= square
    cosine = _fused(_rounded(tail), square, -0.5 * square, out=tail).astype(np.float32) + np.float32(1)
    tail = _polynomial(square, _SIN)
    tail *= square
    sine = _fused(_rounded(tail), x, x, out=tail).astype(np.float32)
    # Turned by whole quarters: of the two terms of each sum one is zero, so nothing is rounded.
    turned_cos, turned_sin = _COS_OF_QUARTERS[quarters], _SIN_OF_QUARTERS[quarters]
    return cosine * turned_cos - sine * turned_sin, sine * turned_cos + cosine * turned_sin
