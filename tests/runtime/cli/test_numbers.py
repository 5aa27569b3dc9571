"""NumPy numbers and arrays in a request, and values in messages."""

import json
from typing import Any

import numpy as np
import pytest

from latentrt.bundle.folder import Bundle
from latentrt.errors import RequestError
from latentrt.pipeline.pipeline import Pipeline
from latentrt.request.control import Control
from latentrt.request.interpolation import between
from latentrt.request.request import Request
from latentrt.request.settings import resolve
from latentrt.validate import flag, number, shown, whole

PLAIN: dict[str, Any] = {
    "steps": 4,
    "guidance": [1.0, 2.5, 3.0, 1.5],
    "seed": 5,
    "width": 32,
    "height": 24,
    "batch": 2,
    "sigmas": [14.0, 7.0, 3.0, 1.0],
    "guidance_rescale": 0.5,
    "guidance_interval": [0.5, 3.0],
    "clip_skip": 2,
    "variation_seed": 9,
    "variation_strength": 0.25,
    "eta": 0.5,
    "sampler": "euler_a",
    "fast_decode": False,
    "window": 16,
}
TYPES: dict[str, Any] = {
    "scalars": lambda v: np.array(v)[()] if not isinstance(v, list) else [np.array(one)[()] for one in v],
    "arrays": np.array,
    "float32 arrays": lambda v: np.array(v, np.float32) if isinstance(v, (float, list)) else np.array(v),
    "small": lambda v: np.array(v, np.float16 if isinstance(v, float | list) else np.uint8 if type(v) is int else None),
    "tuples": lambda v: tuple(v) if isinstance(v, list) else v,
}


@pytest.mark.parametrize("kind", TYPES)
def test_numpy_s_numbers_are_numbers(bundle: Bundle, kind: str) -> None:
    given = {name: TYPES[kind](value) for name, value in PLAIN.items()}
    settings = resolve(Request(np.str_("a"), **given), bundle.manifest)
    assert settings == resolve(Request("a", **PLAIN), bundle.manifest)
    assert json.loads(json.dumps(settings.record())) == json.loads(
        json.dumps(resolve(Request("a", **PLAIN), bundle.manifest).record())
    )


@pytest.mark.parametrize("value", [np.int64(5), np.int8(5), np.uint64(5), np.array(5), 5, np.array(5, np.int16)])
def test_whole_numbers(value: Any) -> None:
    found = whole("steps", Request("a", steps=value).steps or 0, 1, 10)
    assert found == 5 and type(found) is int


@pytest.mark.parametrize(
    "value", [np.float16(0.5), np.float32(0.5), np.float64(0.5), np.longdouble(0.5), np.array(0.5)]
)
def test_floats(value: Any) -> None:
    found = number("eta", Request("a", eta=value).eta, 0, 1)
    assert found == 0.5 and type(found) is float


def test_what_is_no_number_is_still_none(bundle: Bundle) -> None:
    for wrong in (np.bool_(True), np.float32(5), np.array([5]), np.array("5"), np.complex64(1)):
        with pytest.raises(RequestError, match="steps: got .*, expected a whole number"):
            resolve(Request("a", steps=wrong), bundle.manifest)
    assert flag("overlay", Request("a", overlay=np.bool_(True)).overlay) is True
    with pytest.raises(RequestError, match="guidance: got nan, expected a finite number"):
        resolve(Request("a", guidance=np.float32("nan")), bundle.manifest)


@pytest.mark.parametrize("field", ["seed", "prompt", "guidance", "sigmas", "init", "mask", "size", "extend", "latents"])
@pytest.mark.parametrize("array", [np.zeros((500, 500)), np.zeros(5000), np.zeros((2, 2), np.uint8)])
def test_no_message_has_a_whole_array(bundle: Bundle, field: str, array: Any) -> None:
    given: dict[str, Any] = {"prompt": "a", field: array} if field != "size" else {"prompt": "a", "width": array}
    with pytest.raises(RequestError) as caught:
        resolve(Request(**given), bundle.manifest)
    assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)


def test_values_in_messages_are_short() -> None:
    assert shown(np.zeros((3, 4), np.float32)) == "an array of the shape (3, 4), float32"
    assert shown(np.float32(0.5)) == "0.5" and shown([np.int64(1), np.int64(2)]) == "[1, 2]"
    assert len(shown(list(range(1000)))) < 100
    assert shown(10**5000) == "a number that is too long to show"


def test_frames_of_arrays(bundle: Bundle) -> None:
    given: dict[str, Any] = {
        "sigmas": np.array([3.0, 1.0]),
        "latents": np.zeros((1, 4, 3, 4)),
        "controls": (Control("c", np.zeros(3)),),
    }  # type: ignore[arg-type]
    one = Request("a", seed=np.int64(1), **given)
    assert len(between(one, Request("b", seed=1, **given), np.int64(3))) == 3  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="latents: got an array of the shape"):
        between(one, Request("b", seed=1, **{**given, "latents": np.ones((1, 4, 3, 4))}), 3)
    with pytest.raises(RequestError, match="controls"):
        between(one, Request("b", seed=1, **{**given, "controls": (Control("c", np.ones(3)),)}), 3)  # type: ignore[arg-type]


def test_a_seed_of_minus_one_is_drawn(fake: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secrets.randbits", lambda bits: 77)
    for seed in (-1, None, np.int64(-1)):
        assert fake.steps(Request("a", seed=seed, batch=2)).settings.seeds == (77, 78)
    varied = fake.steps(Request("a", seed=5, variation_seed=-1, variation_strength=0.5)).settings
    assert (varied.seeds, varied.variation_seeds) == ((5,), (77,))
    with pytest.raises(RequestError, match="seed: got -2, expected a whole number from 0"):
        fake.steps(Request("a", seed=-2))


def test_frames_with_random_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter((77, 88, 99, 111))
    monkeypatch.setattr("secrets.randbits", lambda bits: next(drawn))
    frames = between(Request("a", seed=-1), Request("a", seed=-1), 3)
    assert [(frame.seed, frame.variation_seed) for frame in frames] == [(77, None)] * 3
    turned = between(Request("a", seed=3), Request("a", seed=-1), 2)
    assert turned[0].seed == turned[1].seed == 3 and turned[1].variation_seed not in (None, -1)
