"""Weights in 4 bits, against brute force and the closed form of what error feedback does."""

import numpy as np
import pytest

from latentrt_export.graph.four_bit_weights import BLOCK, DAMPING, in_blocks

IN, OUT = 96, 40


def weights(seed=0, dtype=np.float32):
    return (0.1 * np.random.default_rng(seed).standard_normal((IN, OUT))).astype(dtype)


def inputs(seed=1, rows=300):
    """Inputs whose channels go together, with a mean and one loud channel."""
    random = np.random.default_rng(seed)
    mixed = random.standard_normal((rows, 20)) @ random.standard_normal((20, IN)) + random.standard_normal(IN)
    return (mixed * np.where(np.arange(IN) == 7, 5.0, 1.0)).astype(np.float32)


def snr_db(reference, other):
    reference = reference.astype(np.float64)
    return 10 * np.log10((reference**2).sum() / ((reference - other) ** 2).sum())


@pytest.mark.parametrize("block", [32, 48, 96])
@pytest.mark.parametrize("given", [None, inputs()], ids=["nearest", "feedback"])
def test_every_block_has_a_scale_and_all_values_have_four_bits(block, given):
    found = in_blocks(weights(), block, inputs=given)
    assert found.values.shape == (IN, OUT) and found.scales.shape == (IN // block, OUT) and found.block == block
    assert found.values.min() == -8 and found.values.max() == 7
    assert (found.scales < 0).any() and (found.scales > 0).any()
    for row in (0, block - 1, IN - 1):
        np.testing.assert_array_equal(found.decoded()[row], found.values[row] * found.scales[row // block])


def test_no_scale_of_those_tried_is_nearer():
    """Brute force, one block and column at a time."""
    weight, found = weights(), in_blocks(weights())
    decoded = found.decoded()
    for first in range(0, IN, BLOCK):
        for column in range(OUT):
            one = weight[first : first + BLOCK, column].astype(np.float64)
            largest = one[np.abs(one).argmax()]
            error = ((decoded[first : first + BLOCK, column] - one) ** 2).sum()
            for factor in np.linspace(1, 0.75, 13):
                scale = largest * factor / -8
                other = ((np.clip(np.rint(one / scale), -8, 7) * scale - one) ** 2).sum()
                assert error <= other * (1 + 1e-5)


def test_all_sixteen_steps_gain_over_a_seventh_of_the_largest_magnitude():
    weight = weights()
    blocks = weight.reshape(-1, BLOCK, OUT)
    scale = np.abs(blocks).max(1, keepdims=True) / 7
    plain = (np.rint(blocks / scale) * scale).reshape(IN, OUT)
    assert snr_db(weight, in_blocks(weight).decoded()) > snr_db(weight, plain) + 1.0


def test_with_feedback_the_channels_left_are_the_best_for_those_that_are_rounded():
    """Each channel is rounded at the minimum of the damped squared error of the output, given all before it."""
    weight, rows = weights().astype(np.float64), inputs().astype(np.float64)
    moments = rows.T @ rows / len(rows)
    moments += DAMPING * np.diag(moments).mean() * np.eye(IN)
    found = in_blocks(weights(), inputs=inputs())
    decoded = found.decoded().astype(np.float64)
    near = 0
    for channel in range(IN):
        done, rest = slice(0, channel), slice(channel, IN)
        made_up = np.linalg.solve(moments[rest, rest], moments[rest, done] @ (weight[done] - decoded[done]))
        target = (weight[rest] + made_up)[0] / found.scales[channel // BLOCK]
        expected = np.clip(np.rint(target), -8, 7)
        near += np.sum(expected != found.values[channel])
        assert (np.abs(np.clip(target, -8, 7) - found.values[channel]) < 0.5 + 1e-3).all()
    assert near < 0.001 * IN * OUT, "only ties differ"


def test_feedback_lowers_the_error_of_the_outputs():
    weight, rows = weights(), inputs()
    seen, unseen = rows[:200], rows[200:]
    nearest, fed = (in_blocks(weight, inputs=given).decoded() for given in (None, seen))
    assert snr_db(unseen @ weight, unseen @ fed) > snr_db(unseen @ weight, unseen @ nearest) + 2


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("given", [None, inputs()], ids=["nearest", "feedback"])
def test_ternary_weights_decode_to_the_same_bits(dtype, given):
    random = np.random.default_rng(3)
    sizes = np.repeat(np.abs(weights(4, dtype)[:: IN // 3]), IN // 3, axis=0)
    weight = (random.integers(-1, 2, (IN, OUT)) * sizes).astype(dtype) + dtype(0)  # without negative zeros
    weight[:BLOCK, 5] = 0
    weight[:BLOCK, 6] = np.abs(weight[:BLOCK, 6])
    found = in_blocks(weight, inputs=given, scale_dtype=dtype)
    assert found.decoded().tobytes() == weight.astype(np.float32).tobytes()
    assert (found.scales.astype(dtype).astype(np.float32) == found.scales).all()


@pytest.mark.parametrize("given", [None, np.zeros((4, IN), np.float32)], ids=["nearest", "silent"])
def test_tiny_and_silent_are_no_trouble(given):
    weight = np.full((IN, OUT), 1e-8, np.float32)
    weight[:, 0] = 0
    found = in_blocks(weight, inputs=given, scale_dtype=np.float16)
    assert (found.scales != 0).all() and np.isfinite(found.decoded()).all()
    assert np.abs(found.decoded() - weight).max() <= 1e-8
