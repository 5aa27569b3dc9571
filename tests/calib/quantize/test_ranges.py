"""Ranges against brute force on the values themselves, and against what is known of the normal distribution."""

import math

import numpy as np
import pytest

from latentrt_calib.observing.histogram import Histogram
from latentrt_calib.quantize.ranges import (
    S8,
    U8,
    Range,
    Scheme,
    expected_error,
    minmax,
    mse,
    percentile,
    scale_and_zero,
)

RNG = np.random.default_rng(0)
NORMAL = RNG.standard_normal(40_000)
SETS = {
    "normal": NORMAL,
    "silu": 3 * NORMAL / (1 + np.exp(-3 * NORMAL)),
    "tail": RNG.standard_t(3, 40_000),
    "skewed": RNG.exponential(1, 40_000) - 0.2,
    "positive": RNG.uniform(2, 3, 40_000),
    "negative": -RNG.exponential(1, 40_000),
    "outlier": np.append(NORMAL, [300.0]),
    "small": NORMAL * 1e-6,
}
ODD4 = Scheme("int8", -7, 7, symmetric=True)
SCHEMES = {"u8": U8, "s8": S8, "odd4": ODD4, "u4": Scheme("uint8", 0, 15, symmetric=False)}


def of(values):
    histogram = Histogram()
    histogram.add(values)
    return histogram


def stored(values, wanted, scheme):
    """What comes back of float64 values: QuantizeLinear and DequantizeLinear as ONNX defines them."""
    scale, zero = scale_and_zero(wanted, scheme)
    codes = np.clip(np.rint(values / float(scale)) + zero, scheme.lowest, scheme.highest)
    return (codes - zero) * float(scale)


def error(values, wanted, scheme):
    return np.mean((stored(values, wanted, scheme) - values) ** 2)


def normal_error(step, levels):
    """The mean squared error of a standard normal in `levels` steps on both sides of 0, by a fine sum."""
    x = np.linspace(-10, 10, 400_001)
    density = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    nearest = step * np.clip(np.rint(x / step), -levels, levels)
    return np.sum((x - nearest) ** 2 * density) * (x[1] - x[0])


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
@pytest.mark.parametrize("values", SETS.values(), ids=SETS)
def test_the_expected_error_is_that_of_the_values(values, scheme):
    histogram = of(values)
    whole = minmax(histogram)
    for share in (1, 0.7, 0.3):
        wanted = Range(whole.low * share, whole.high * share)
        assert expected_error(histogram, wanted, scheme) == pytest.approx(error(values, wanted, scheme), rel=0.06)


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
@pytest.mark.parametrize("values", SETS.values(), ids=SETS)
def test_no_clipping_loses_much_less_than_the_one_found(values, scheme):
    values = values[-4000:]
    histogram = of(values)
    found, whole = mse(histogram, scheme), minmax(histogram)
    assert whole.low <= found.low or scheme.symmetric
    assert expected_error(histogram, found, scheme) <= expected_error(histogram, whole, scheme)
    shares = 2 ** np.linspace(-6, 0, 40)
    reach = max(-whole.low, whole.high)
    pairs = [(reach, reach, s, s) for s in shares] if scheme.symmetric else [
        (-whole.low, whole.high, low, high) for low in shares[::2] for high in shares[::2]
    ]  # fmt: skip
    best = min(error(values, Range(-low * down, high * up), scheme) for low, high, down, up in pairs)
    assert error(values, found, scheme) <= 1.05 * best


@pytest.mark.parametrize(("scheme", "levels"), [(S8, 127), (ODD4, 7), (Scheme("int8", -31, 31, True), 31)])
def test_a_normal_is_clipped_where_its_integral_says(scheme, levels):
    values = np.random.default_rng(1).standard_normal(1_000_000)
    reaches = np.linspace(1.5, 5, 141)
    losses = [normal_error(reach / levels, levels) for reach in reaches]
    found = mse(of(values), scheme).high
    assert found == pytest.approx(reaches[np.argmin(losses)], rel=0.03)
    assert normal_error(found / levels, levels) == pytest.approx(min(losses), rel=0.002)


def test_eight_bits_clip_a_normal_near_the_published_place():
    """3.92 standard deviations: Banner et al., arXiv:1810.05723, table 1, from an approximation of the same error."""
    assert mse(of(np.random.default_rng(1).standard_normal(1_000_000)), S8).high == pytest.approx(3.92, rel=0.02)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99, 0.999, 0.9999, 1])
@pytest.mark.parametrize("values", SETS.values(), ids=SETS)
def test_percentiles_are_quantiles_to_a_bin(values, share):
    histogram = of(values)
    found = percentile(histogram, share)
    low, high = np.quantile(values.astype(np.float32), [(1 - share) / 2, 1 - (1 - share) / 2])
    gaps = np.diff(np.sort(values))  # between two values, any place is a quantile
    slack = histogram.width + gaps[: len(gaps) // 50].max() + gaps[-len(gaps) // 50 :].max() * (share == 0.9999)
    assert found.low == pytest.approx(low, abs=slack) and found.high == pytest.approx(high, abs=slack)
    assert histogram.low <= found.low <= found.high <= histogram.high


@pytest.mark.parametrize("share", [0, -1, 1.01, math.nan])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(ValueError, match="share: got"):
        percentile(of(NORMAL), share)


@pytest.mark.parametrize("scheme", [U8, S8])
@pytest.mark.parametrize(
    "wanted",
    [Range(-1, 3), Range(0, 7), Range(-2, 0), Range(2, 3), Range(-5, -4), Range(-1e-9, 1e9), Range(-3e38, 3e38)],
)
def test_a_range_is_covered_and_zero_is_exact(wanted, scheme):
    scale, zero = scale_and_zero(wanted, scheme)
    assert scale.dtype == np.float32 and scale > 0 and scheme.lowest <= zero <= scheme.highest
    assert not scheme.symmetric or zero == 0
    values = np.append(np.linspace(wanted.low, wanted.high, 1001), 0)
    assert (np.abs(stored(values, wanted, scheme) - values) <= scale * 1.001).all()
    inner = values[(values >= wanted.low + scale / 2) & (values <= wanted.high - scale / 2)]
    assert (np.abs(stored(inner, wanted, scheme) - inner) <= scale * 0.501).all()
    assert stored(np.zeros(1), wanted, scheme) == 0


@pytest.mark.parametrize("scheme", [U8, S8])
def test_nothing_but_zero_has_a_scale_of_one(scheme):
    empty, zeros = Histogram(), of(np.zeros(5))
    for histogram in (empty, zeros):
        for found in (minmax(histogram), percentile(histogram, 0.999), mse(histogram, scheme)):
            assert found == Range(0, 0)
            assert scale_and_zero(found, scheme) == (1, 0)
            assert expected_error(histogram, found, scheme) == 0


@pytest.mark.parametrize("value", [0.5, -0.5, 1.0, 3.3e-5])
@pytest.mark.parametrize("scheme", [U8, S8])
def test_one_value_alone_is_stored_well(value, scheme):
    histogram = of(np.full(9, value))
    for found in (minmax(histogram), percentile(histogram, 0.9), mse(histogram, scheme)):
        assert stored(np.array([value]), found, scheme) == pytest.approx(value, rel=0.004)


def test_the_scale_of_tiny_values_is_a_normal_number():
    for scheme in (U8, S8):
        scale, _ = scale_and_zero(Range(-1e-40, 1e-40), scheme)
        assert scale >= np.finfo(np.float32).tiny
