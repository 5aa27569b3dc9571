"""CUDA's noise without CUDA: Random123's vectors, values that GPUs printed, and a scalar count of torch's threads.

The printed values come from issues of pytorch/pytorch and from the documentation of flashinfer; those of seed 0 are in
AUTOMATIC1111's as well.
"""

import math

import numpy as np
import pytest

from latentrt.errors import RequestError
from latentrt.sampling.noise import torch_cuda
from latentrt.sampling.noise.torch_cuda import PhiloxGenerator

_PRINTED = 5.1e-5  # half the last of four decimals, and the error of __sincosf
_LOW = 2**32 - 1

# Random123 1.14, tests/kat_vectors, "philox4x32 10": counter, key, words.
_KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((_LOW,) * 4, (_LOW,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
_SMALL = [  # seed, shape, the first values
    (0, (3, 4), [-0.9247, -0.4253, -2.6438, 0.1452, -0.1209, -0.5797, -0.6229, -0.3284, -1.0745, -0.3631, -1.6711]),
    (42, (2, 5), [0.1940, 2.1614, -0.1721, 0.8491, -1.9244, 0.6530, -0.6494, -0.8175, 0.5280, -1.2753]),
    (1, (7,), [-0.2963, 2.6764, -0.1408]),
    (14, (3,), [(x - 5) / 5**0.5 for x in (2.8731, 5.2727, 2.9889)]),
]
_SUCCESSIVE = [  # draws of 4 from seed 42
    [0.1940, 2.1614, -0.1721, 0.8491],
    [0.1391, -0.1082, -0.7174, 0.7566],
    [-0.5187, 1.2268, 0.6255, -0.9117],
    [-0.6974, -1.8688, -0.8832, -1.6627],
    [-1.2682, -0.0383, -0.1029, 1.4400],
    [1.4640, -0.3238, 0.7740, 1.5892],
]
_THREADS = {"T4": 40 * 4 * 256, "RTX A4000": 48 * 6 * 256, "A100": 108 * 8 * 256, "H100": 132 * 8 * 256}


def _word(high: int, low: int) -> int:
    return high << 32 | low


def _reference(seed: int, counter: int, index: int, size: int, threads: int) -> tuple[float, int]:
    """One element of a draw by Python's integers, from torch's kernel, and the counter after that draw."""
    per_turn, within = divmod(index, threads * 4)
    component, thread = divmod(within, threads)
    c = [(counter + per_turn) & _LOW, (counter + per_turn) >> 32, thread & _LOW, thread >> 32]
    k = [seed & _LOW, seed >> 32 & _LOW]
    for _ in range(10):
        p, q = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [q >> 32 ^ c[1] ^ k[0], q & _LOW, p >> 32 ^ c[3] ^ k[1], p & _LOW]
        k = [(k[0] + 0x9E3779B9) & _LOW, (k[1] + 0xBB67AE85) & _LOW]
    x, y = c[component // 2 * 2 :][:2]
    radius = math.sqrt(-2 * math.log((x + 0.5) / 2**32))
    angle = 2 * math.pi * (y + 0.5) / 2**32
    return radius * (math.cos if component % 2 else math.sin)(angle), counter + (size - 1) // (threads * 4) + 1


@pytest.mark.parametrize(("counter", "key", "words"), _KNOWN_ANSWERS)
def test_words_are_those_of_random123(counter, key, words):
    sequence = np.array([_word(counter[3], counter[2])] * 3, np.uint64)
    drawn = torch_cuda.philox(_word(counter[1], counter[0]), sequence, _word(key[1], key[0]))
    assert [word.tolist() for word in drawn] == [[word] * 3 for word in words]


@pytest.mark.parametrize(("seed", "shape", "printed"), _SMALL)
def test_values_are_those_that_gpus_printed(seed, shape, printed):
    normals = PhiloxGenerator(seed).randn(shape)
    assert (normals.shape, normals.dtype) == (shape, np.float32)
    np.testing.assert_allclose(normals.reshape(-1)[: len(printed)], printed, rtol=0, atol=_PRINTED)


def test_successive_draws_are_those_that_a_gpu_printed():
    generator = PhiloxGenerator(42)
    drawn = [generator.randn((4,)) for _ in range(6)]
    np.testing.assert_allclose(drawn, _SUCCESSIVE, rtol=0, atol=_PRINTED)


def test_rows_beyond_the_threads_of_an_rtx_a4000_are_those_it_printed():
    """pytorch/pytorch#97097: torch.manual_seed(14); torch.cuda.FloatTensor(1000, 100).normal_(5, 5**.5)."""
    noise = PhiloxGenerator(14, threads=_THREADS["RTX A4000"]).randn((1000, 100))
    printed = [
        [8.6297, 2.3137, 6.2596, 7.9358, 4.4697, 2.7475],
        [7.0551, 7.8583, 3.9990, 4.1139, 8.9315, 4.2042],
        [2.7337, 2.2106, 7.7815, 8.2207, 6.5395, 4.2604],
    ]
    shown = noise[-3:, [0, 1, 2, -3, -2, -1]] * 5**0.5 + 5
    np.testing.assert_allclose(shown, printed, rtol=0, atol=_PRINTED)


@pytest.mark.parametrize(
    ("gpu", "printed"), [("H100", [-0.6970, -0.7780, 0.3267]), ("A100", [0.1549, -0.6797, -0.1656])]
)
def test_the_end_of_ten_million_is_that_which_each_gpu_printed(gpu, printed):
    """pytorch/pytorch#143086: seed 1, torch.randn(1, 49 * 12 * 112 * 144), eleven or nine counters a thread."""
    normals = PhiloxGenerator(1, threads=_THREADS[gpu]).randn((49 * 12 * 112 * 144,))
    np.testing.assert_allclose(normals[-3:], printed, rtol=0, atol=_PRINTED)


@pytest.mark.parametrize("seed", [0, 5, 2**32 + 1, 2**64 - 1, -1, -(2**63)])
@pytest.mark.parametrize("threads", [7, 256, 1000, 5000, None])
def test_every_element_comes_from_its_thread(seed, threads, monkeypatch):
    monkeypatch.setattr(torch_cuda, "_CHUNK", 300)
    generator, counter = PhiloxGenerator(seed, threads=threads), 0
    for size in (1, 7, 1000, 1500, 3):
        drawn = generator.randn((size,))
        after = counter
        for index in {0, size // 3, size // 2, size - 2, size - 1} - {-1}:
            value, after = _reference(seed, counter, index, size, threads or size)
            assert drawn[index] == pytest.approx(value, rel=1e-6, abs=4e-6)
        counter = after


@pytest.mark.parametrize(("one", "other"), [(1, 2**32 + 1), (0, 2**32), (-1, 2**32 - 1)])
def test_all_64_bits_of_the_seed_count(one, other):
    assert (PhiloxGenerator(one).randn((16,)) != PhiloxGenerator(other).randn((16,))).all()


def test_a_negative_seed_is_its_twos_complement():
    np.testing.assert_array_equal(PhiloxGenerator(-5).randn((3, 5)), PhiloxGenerator(2**64 - 5).randn((3, 5)))


@pytest.mark.parametrize("shape", [(4, 64, 64), (2, 4, 40, 72), (1, 4, 13, 7), (1,), ()])
def test_a_shape_is_a_way_to_read_the_stream(shape):
    normals = PhiloxGenerator(3).randn(shape)
    assert (normals.shape, normals.dtype) == (shape, np.float32)
    flat = PhiloxGenerator(3).randn((math.prod(shape),))
    np.testing.assert_array_equal(normals.reshape(-1), flat)


def test_an_empty_draw_takes_nothing_from_the_stream():
    generator = PhiloxGenerator(0)
    empty = generator.randn((3, 0, 4))
    assert (empty.shape, empty.dtype) == ((3, 0, 4), np.float32)
    np.testing.assert_array_equal(generator.randn((9,)), PhiloxGenerator(0).randn((9,)))


def test_enough_threads_are_as_good_as_one_for_each_element():
    ample, exact = PhiloxGenerator(8), PhiloxGenerator(8, threads=1024)
    for size in (1024, 5, 1000):
        np.testing.assert_array_equal(ample.randn((size,)), exact.randn((size,)))


@pytest.mark.parametrize("threads", [None, 12288])
def test_moments_are_those_of_a_standard_normal(threads):
    normals = PhiloxGenerator(9, threads=threads).randn((400_000,)).astype(np.float64)
    moments = [np.mean(normals**power) for power in (1, 2, 3, 4)]
    assert moments == pytest.approx([0, 1, 0, 3], abs=0.06)  # some four standard errors of the fourth
    assert abs(np.corrcoef(normals[:-1], normals[1:])[0, 1]) < 0.008


def test_a_radius_of_zero_gives_no_negative_zero(monkeypatch):
    last = np.full(8, _LOW, np.uint64)  # u rounds to 1, and the sine of the last angle is negative
    monkeypatch.setattr(torch_cuda, "philox", lambda counter, sequence, key: (last,) * 4)
    assert PhiloxGenerator(0).randn((8,)).tobytes() == bytes(32)


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1])
def test_a_seed_beyond_64_bits_is_refused(seed):
    with pytest.raises(
        RequestError, match=rf"^seed does not fit 64 bits: got {seed}, expected -2\*\*63 to 2\*\*64 - 1$"
    ):
        PhiloxGenerator(seed)


@pytest.mark.parametrize("threads", [0, -256])
def test_a_gpu_without_threads_is_refused(threads):
    with pytest.raises(RequestError, match=f"got {threads}, expected 1 or more"):
        PhiloxGenerator(0, threads=threads)
