"""Standard normals as ``torch.randn(..., device="cuda")`` gives them, made with NumPy and no GPU.

Pictures made with PyTorch on an NVIDIA GPU start from this noise, so their seeds name the same pictures here. The
reference is PyTorch 2.13.0 (``DistributionTemplates.h``, ``curand_normal4``) and cuRAND's Philox4x32-10: Salmon et
al., Parallel Random Numbers: As Easy as 1, 2, 3 (2011).

On an H100 the largest difference of 168 million values, of 50 seeds, was 3.0e-6, and some 17 % were equal
(``benchmarks/cuda_noise.py``). The words are exact by Random123's vectors, and so is the uniform for the radius; the
one for the angle supposes a fused multiply-add, nvcc's default. Logarithm, sine and cosine are computed in float64 and
rounded once, where a GPU has ``logf`` and the coarser ``__sincosf``: hence those differences, in values of up to 6.7.
"""

from __future__ import annotations

import math
import operator

import numpy as np
from numpy.typing import NDArray

from latentrt.errors import RequestError

Words = NDArray[np.uint64]  # of 32 bits each, in 64 so that products fit
Floats = NDArray[np.float32]
Wide = NDArray[np.float64]

_LOW = 2**32 - 1
_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_KEY_STEPS = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10
_TURN = float(np.float32(2**-32) * np.float32(2 * math.pi))  # from a word to an angle: cuRAND's float32 constant
_PER_CALL = 4  # the normals that a thread makes of one counter
_CHUNK = 16384  # threads worked on at once: the temporaries, 128 KiB each, stay in a core's cache


class PhiloxGenerator:
    """The stream of normals of ``torch.Generator("cuda").manual_seed(seed)``, drawn as float32."""

    def __init__(self, seed: int, *, threads: int | None = None) -> None:
        """Start the stream of `seed`: -2**63 to 2**64 - 1, of which all 64 bits count.

        threads: how many the GPU runs at once, which is multiprocessors x floor(threads of one / 256) x 256: 40960 on
        a T4, 12288 on an Orin Nano. A draw of more elements than that differs from GPU to GPU in PyTorch. None stands
        for a GPU on which each element has a thread, as in the emulations of AUTOMATIC1111 and stable-diffusion.cpp;
        it is right for every draw that fits, and latents of 64x64 do from 16384 threads up.
        Raises RequestError (a ValueError) for a seed outside that range or less than one thread.
        """
        self._key = unsigned_seed(seed)
        if threads is not None and threads < 1:
            raise RequestError(f"a GPU has threads: got {threads}, expected 1 or more, or None for enough of them")
        self._threads = threads
        self._counter = 0

    def randn(self, shape: tuple[int, ...]) -> Floats:
        """Return the next standard normals of the stream: float32 of `shape`, as the next ``torch.randn`` would.

        >>> PhiloxGenerator(0).randn((2,)).round(4)
        array([-0.9247, -0.4253], dtype=float32)
        """
        normals = np.empty(shape, np.float32)
        flat = normals.reshape(-1)
        threads = min(self._threads or flat.size, flat.size)
        for start in range(0, flat.size, max(1, threads * _PER_CALL)):
            self._fill(flat[start : start + threads * _PER_CALL], threads)
            self._counter += 1
        return normals

    def _fill(self, flat: Floats, threads: int) -> None:
        """Write what the threads make of one counter: each its first normal, then each its second, to the fourth."""
        for first in range(0, threads, _CHUNK):
            last = min(first + _CHUNK, threads)
            words = philox(self._counter, np.arange(first, last, dtype=np.uint64), self._key)
            for turn, wave in enumerate((np.sin, np.cos, np.sin, np.cos)):
                target = flat[turn * threads + first : turn * threads + last]
                if not target.size:
                    break
                pair = 2 * (turn // 2)
                radius, angle = _polar(words[pair][: target.size], words[pair + 1][: target.size])
                np.multiply(radius, wave(angle), out=target, casting="same_kind")
                target += 0  # PyTorch adds the mean, which makes -0.0 into 0.0


def unsigned_seed(seed: int) -> int:
    """Return `seed` as PyTorch holds it, 0 to 2**64 - 1: a negative one by its two's complement.

    Raises RequestError (a ValueError) for a seed outside -2**63 to 2**64 - 1.
    """
    seed = operator.index(seed)
    if not -(2**63) <= seed < 2**64:
        raise RequestError(f"seed does not fit 64 bits: got {seed}, expected -2**63 to 2**64 - 1")
    return seed & (2**64 - 1)


def philox(counter: int, sequence: Words, key: int) -> tuple[Words, Words, Words, Words]:
    """Return the four words of Philox4x32-10 for each of `sequence`: four of its shape, 0 to 2**32 - 1.

    counter: the low 64 bits of the counter, cuRAND's offset / 4. sequence: its high 64 bits, cuRAND's subsequence.
    """
    a: Words = np.full_like(sequence, counter & _LOW)
    b: Words = np.full_like(sequence, counter >> 32)
    c: Words = sequence & np.uint64(_LOW)
    d: Words = sequence >> np.uint64(32)
    product_a, product_c = np.empty_like(a), np.empty_like(a)
    key_a, key_b = key & _LOW, key >> 32
    for _ in range(_ROUNDS):  # in place: fresh memory would cost as much as the arithmetic
        np.multiply(a, _MULTIPLIERS[0], out=product_a)
        np.multiply(c, _MULTIPLIERS[1], out=product_c)
        for word, old, product, part in ((a, b, product_c, key_a), (c, d, product_a, key_b)):
            np.right_shift(product, 32, out=word)
            word ^= old
            word ^= part
            np.bitwise_and(product, _LOW, out=old)
        key_a, key_b = (key_a + _KEY_STEPS[0]) & _LOW, (key_b + _KEY_STEPS[1]) & _LOW
    return a, b, c, d


def _polar(for_radius: Words, for_angle: Words) -> tuple[Wide, Wide]:
    """Return the radii and angles of Box and Muller's transform, made of float32 uniforms as cuRAND makes them."""
    # A word is rounded to float32 first, and what follows rounds once: float64 holds the products, and no sum of all
    # the 84 million falls between two float32, where rounding twice could err.
    u = for_radius.astype(np.float32) * np.float32(2**-32) + np.float32(2**-33)
    angle = for_angle.astype(np.float32).astype(np.float64)
    angle *= _TURN
    angle += _TURN / 2
    return np.sqrt(-2 * np.log(u.astype(np.float64))), angle.astype(np.float32).astype(np.float64)
