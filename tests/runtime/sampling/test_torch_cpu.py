"""Noise where there is no PyTorch: values it gave once, and a proof that rounding twice replaces fused operations.

Every value below came from PyTorch 2.13.0 on x86-64 with AVX2, as float.hex of
``torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed))``; a digest is the sha256 of its bytes.
"""

import hashlib

import numpy as np
import pytest

from latentrt.errors import RequestError
from latentrt.sampling.noise import torch_cpu
from latentrt.sampling.noise.torch_cpu import TorchGenerator, randn

_MINUS_ONE = ["0x1.384264p+0", "-0x1.926936p-2"]
_GOLDEN = [
    (0, (3,), ["0x1.8a7eb8p+0", "-0x1.2c78a0p-2", "-0x1.16e292p+1"]),
    (42, (3, 1), ["0x1.58c55cp-2", "0x1.07cd3ap-3", "0x1.e02dcep-3"]),
    (-1, (2,), _MINUS_ONE),
    (2**32 - 1, (1, 2), _MINUS_ONE),
    (2**64 - 1, (2,), _MINUS_ONE),
    (0, (2, 8), ["-0x1.20370ap+0", "-0x1.270114p+0", "-0x1.0097acp-2", "-0x1.bc4abap-2"]),
    (1234, (17,), ["-0x1.c99968p-4", "-0x1.7a027ep-4", "-0x1.68eb3cp-1", "-0x1.9a3468p+0"]),
]
_DIGESTS = [
    (0, (1, 4, 64, 64), "24efac55b39e95b2d74d8fb5b3a8e8a8e808bd04129f260c4cdbb225bb952a4d"),
    (2**63, (3, 4, 8, 24), "34ce0f8fed5afeadcba604adfd54dea52156eeb2756ead01205a52da1e57ba55"),
    (-1, (4, 15, 15), "378bee6d434de3f9ba11f32f236b5778aff163517982714744ff1b5e8340b2af"),
]
# Successive draws of seed 7, by size: the first values of each. The spare normal of the first outlives the draw of 16.
_SUCCESSIVE = [
    (1, ["-0x1.2ca2e8p-3"]),
    (16, ["-0x1.560202p-3", "0x1.23fe5ap-2"]),
    (2, ["0x1.92811cp-1", "0x1.454d76p-2"]),
    (33, ["-0x1.b2a426p-1", "-0x1.3788b0p+0"]),
    (3, ["0x1.0ffd1ap-3", "0x1.36ede6p-1"]),
]


def _floats(hexes: list[str]) -> list[float]:
    return [float.fromhex(text) for text in hexes]


@pytest.mark.parametrize(("seed", "shape", "first"), _GOLDEN)
def test_values_are_those_of_torch(seed, shape, first):
    normals = randn(shape, seed)
    assert (normals.shape, normals.dtype) == (shape, np.float32)
    assert normals.reshape(-1)[: len(first)].tolist() == _floats(first)


@pytest.mark.parametrize(("seed", "shape", "digest"), _DIGESTS)
def test_every_bit_is_that_of_torch(seed, shape, digest):
    normals = randn(shape, seed)
    assert normals.shape == shape
    assert hashlib.sha256(normals.astype("<f4").tobytes()).hexdigest() == digest


def test_successive_draws_continue_the_stream():
    generator = TorchGenerator(7)
    for size, first in _SUCCESSIVE:
        assert generator.randn((size,))[:2].tolist() == _floats(first)


def test_an_empty_draw_takes_nothing_from_the_stream():
    generator = TorchGenerator(0)
    empty = generator.randn((3, 0, 4))
    assert (empty.shape, empty.dtype) == ((3, 0, 4), np.float32)
    scalar = generator.randn(())
    assert (scalar.shape, float(scalar)) == ((), float.fromhex("0x1.8a7eb8p+0"))


def test_draws_longer_than_a_chunk_are_those_of_the_chunks_in_turn():
    whole = randn((2 * torch_cpu._CHUNK + 32,), 5)
    generator = TorchGenerator(5)
    parts = [generator.randn((size,)) for size in (torch_cpu._CHUNK, torch_cpu._CHUNK, 32)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))


def test_a_radius_of_zero_gives_no_negative_zero():
    normals = torch_cpu._normals_from_words(np.zeros(16, np.uint32))
    assert normals.tobytes() == bytes(64)


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1])
def test_a_seed_beyond_64_bits_is_refused(seed):
    with pytest.raises(
        RequestError, match=rf"^seed does not fit 64 bits: got {seed}, expected -2\*\*63 to 2\*\*64 - 1$"
    ):
        TorchGenerator(seed)


@pytest.mark.sweep
def test_rounding_twice_equals_a_fused_operation_for_every_uniform(monkeypatch):
    """The two differ only where float64 rounds a sum onto the midpoint of two float32; no uniform leads to one."""
    fused = torch_cpu._fused

    def checked(a, b, c, out=None):
        product = a * b
        total = product + c
        midpoint = (total.view(np.int64) & 0x1FFFFFFF) == 0x10000000
        if midpoint.any():
            addend = total - product
            lost = (product - (total - addend)) + (c - addend)  # Knuth's two-sum: what float64 dropped
            assert not lost[midpoint].any()
        return fused(a, b, c, out)

    monkeypatch.setattr(torch_cpu, "_fused", checked)
    uniforms = np.arange(2**24, dtype=np.uint32).reshape(-1, 8)
    for chunk in np.split(uniforms, 2048):
        torch_cpu._normals_from_words(np.stack([chunk, chunk], axis=1).reshape(-1))
