"""The step cache of a run: which calls are full, and what the others get."""

import numpy as np
import pytest

from latentrt.conditioning.prompts import Row
from latentrt.errors import RequestError
from latentrt.pipeline.step_cache import StepCache
from latentrt.request.request import Request
from latentrt.request.step_cache import StepCacheSpec, cache_plan
from latentrt.sampling.calls import Walk
from tests.runtime.fake import SMALL

NEGATIVE, POSITIVE, OTHER = Row(0, 77, negative=True), Row(1, 77), Row(2, 77)
TIMES = (900.0, 700.0, 500.0, 300.0, 100.0)


def cache(of="features", calls=(0, 3), order=0):
    return StepCache(cache_plan(StepCacheSpec(calls, of, order), Walk(TIMES, TIMES, draws_noise=False)))


def full_of(cache, *calls, window=None):
    """Whether each call is full, by the rows of each."""
    found = []
    for rows in calls:
        cache.begin(rows, window)
        found.append(cache.full)
    return found


def tile(top, left):
    return np.arange(top, top + 8)[:, np.newaxis], np.arange(left, left + 8)


def test_calls_are_full_by_the_plan():
    both = (NEGATIVE, POSITIVE)
    assert full_of(cache(), *[both] * 5) == [True, False, False, True, False]


def test_a_row_without_a_value_of_the_last_full_call_makes_a_call_full():
    edited = [(POSITIVE,), (OTHER,), (OTHER,), (POSITIVE,)]
    assert full_of(cache(calls=(0,)), *edited) == [True, True, False, True]
    # Guidance that ends and begins again: the negative prompt's value is older than the positive one's.
    pauses = [(NEGATIVE, POSITIVE), (POSITIVE,), (POSITIVE,), (POSITIVE,), (NEGATIVE, POSITIVE)]
    assert full_of(cache(), *pauses) == [True, False, False, True, True]


def test_tiles_have_caches_of_their_own():
    one = cache()
    for number, expected in enumerate([True, False, False, True, False]):
        for window in (tile(0, 0), tile(0, 4), tile(4, 0)):
            one.begin((POSITIVE,), window)
            assert (one.number, one.full) == (number, expected)


def test_features_are_kept_row_by_row():
    one = cache()
    one.begin((NEGATIVE, POSITIVE), None)
    assert not one.shallow
    negative, positive = np.full((3, 2, 4, 4), 1.0, np.float16), np.full((3, 2, 4, 4), 2.0, np.float16)
    one.keep_features((NEGATIVE, POSITIVE), np.concatenate([negative, positive]))
    one.begin((NEGATIVE, POSITIVE), None)
    assert one.shallow
    np.testing.assert_array_equal(one.features_of((POSITIVE,)), positive)
    np.testing.assert_array_equal(one.features_of((NEGATIVE, POSITIVE)), np.concatenate([negative, positive]))


def predicted(value):
    """A network whose prediction for a row is a value and the row's text."""
    asked = []

    def predict(rows):
        asked.append(tuple(rows))
        return [np.full((1, 1, 2, 2), value + 10 * row.text, np.float32) for row in rows]

    return predict, asked


@pytest.mark.parametrize("of", ["guidance", "features+guidance"])
def test_the_difference_of_the_negative_prompt_is_kept(of):
    one, dropped = cache(of), NEGATIVE._replace(image_dropped=True)
    rows = (dropped, NEGATIVE, POSITIVE, OTHER)
    one.begin(rows, None)
    one.predictions(predicted(5.0)[0], rows)
    one.begin(rows, None)
    predict, asked = predicted(7.0)
    found = one.predictions(predict, rows)
    assert asked == [(POSITIVE, OTHER)]
    assert [float(one.flat[0]) for one in found] == [7.0, 7.0, 17.0, 27.0]


@pytest.mark.parametrize(("order", "expected"), [(0, 3.0), (1, 1.0)])
def test_predictions_are_repeated_or_extrapolated(order, expected):
    one = cache("prediction", (0, 1), order)
    for value in (5.0, 3.0):
        one.begin((POSITIVE,), None)
        one.predictions(predicted(value - 10)[0], (POSITIVE,))
    one.begin((POSITIVE,), None)
    predict, asked = predicted(0.0)
    (found,) = one.predictions(predict, (POSITIVE,))
    assert (float(found.flat[0]), asked) == (expected, [])


def test_a_call_that_a_new_row_makes_full_leaves_values_too():
    one = cache("prediction", (0,))
    for row, value in ((POSITIVE, 1.0), (OTHER, 2.0), (OTHER, 3.0)):
        one.begin((row,), None)
        (found,) = one.predictions(predicted(value)[0], (row,))
    assert float(found.flat[0]) == 22.0


def test_a_kept_prediction_is_refused_where_noise_is_drawn():
    with pytest.raises(RequestError, match="cache_of: got prediction with a sampler that draws noise"):
        cache_plan(StepCacheSpec(3, "prediction"), Walk(TIMES, TIMES, draws_noise=True))


def test_a_list_of_calls_ends_within_the_run():
    assert cache_plan(StepCacheSpec((2, 4)), Walk(TIMES, TIMES, draws_noise=True)).full == {0, 2, 4}
    with pytest.raises(RequestError, match="cache: got call 5, expected calls from 0 to 4, as the run has"):
        cache_plan(StepCacheSpec((0, 5)), Walk(TIMES, TIMES, draws_noise=False))


class OnDevice:
    """Features that stay where they are, until somebody reads them."""

    def __init__(self, array):
        self.array, self.read = array, 0

    def __array__(self, dtype=None, copy=None):
        self.read += 1
        return self.array


def test_features_of_the_same_rows_stay_on_their_device():
    one, rows = cache(), (NEGATIVE, POSITIVE)
    kept = OnDevice(np.arange(2.0).reshape(2, 1, 1, 1))
    one.begin(rows, None)
    one.keep_features(rows, kept)
    one.begin(rows, None)
    assert one.features_of(rows) is kept
    assert kept.read == 0
    np.testing.assert_array_equal(one.features_of((POSITIVE,)), [[[[1.0]]]])  # another number of rows is copied


def test_an_engine_that_keeps_features_gets_them_back(fake):
    unet, shallow, given, kept = fake.engines["unet"], fake.engines["unet_shallow"], [], []

    class Keeping:
        """The unet on an engine with a device."""

        def __call__(self, feeds):
            return unet(feeds)

        def keep(self, feeds, names):
            outputs = unet(feeds)
            assert names == ("deep_features",)
            kept.append(OnDevice(outputs["deep_features"]))
            return {**outputs, "deep_features": kept[-1]}

    class Given:
        """The shallow unet there."""

        def __call__(self, feeds):
            given.append(feeds["deep_features"])
            return shallow({**feeds, "deep_features": np.asarray(feeds["deep_features"])})

    on_device = fake.with_engines({"unet": Keeping(), "unet_shallow": Given()})
    options = {"steps": 5, "cache": 3, "seed": 0, "guidance": 2.0, **SMALL}
    got = [step.latents for step in on_device.steps(Request("a", **options))][-1]
    expected = [step.latents for step in fake.steps(Request("a", **options))][-1]
    np.testing.assert_array_equal(got, expected)
    assert [one is kept[0] for one in given] == [True, False]
    assert given[1] is kept[1]
