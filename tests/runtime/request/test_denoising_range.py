"""A run that ends on the way, and one that goes on from its latents: the same as one run that goes all the way."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latentrt.errors import RequestError
from latentrt.pipeline.pipeline import Pipeline
from latentrt.pipeline.refine import handed_over
from latentrt.request.request import Request
from latentrt.request.rows import parts_of

SMALL = {"width": 16, "height": 24, "seed": 3, "steps": 10, "sampler": "euler", "batch": 2}
LATENTS = np.zeros((2, 4, 3, 2), np.float32)


@pytest.mark.parametrize("at", [0.05, 0.5, 0.8])
def test_two_parts_are_the_whole(fake: Pipeline, at: float) -> None:
    whole = fake.steps(Request("a", **SMALL)).latents()
    first = fake.steps(Request("a", end=at, **SMALL))
    second = fake.steps(Request("a", start=at, latents=first.latents(), **SMALL))
    assert first.total + second.total == 10
    np.testing.assert_array_equal(second.latents(), whole)


def test_size_is_that_of_the_latents(fake: Pipeline) -> None:
    result = fake.generate("a", latents=LATENTS, batch=2, steps=2)
    assert [image.size for image in result.images] == [(16, 24)] * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": 0.5}, "start: got 0.5 without latents"),
        ({"start": 0.5, "end": 0.5, "latents": LATENTS}, "end: got 0.5 with a start of 0.5, expected more"),
        ({"end": 1.5}, "end: got 1.5, expected a number from 0 to 1"),
        ({"latents": LATENTS[:1]}, r"latents: got the shape \(1, 4, 3, 2\), expected"),
        ({"latents": LATENTS * np.nan}, "latents: .* expected finite numbers"),
        ({"latents": "x"}, "latents: got str, expected an array"),
        ({"latents": LATENTS[..., :1]}, "latents: got those of"),
        ({"start": 0.51, "end": 0.52, "latents": LATENTS}, "with 10 steps, which leaves none"),
        ({"aesthetic_score": 5.0}, "aesthetic_score: got 5.0, but sd1 models do not take it"),
    ],
)
def test_parts_that_are_none(fake: Pipeline, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        fake.steps(Request("a", **{**SMALL, **options}))


def test_every_field_of_a_request_is_one_model_s_or_both_s() -> None:
    base, refiner, both = (parts_of(Request, part) for part in ("base", "refiner", "both"))
    assert sorted([*base, *refiner, *both]) == sorted(field.name for field in fields(Request))
    assert {"width", "init", "controls", "hires", "start"} <= set(base)
    assert set(refiner) == {"aesthetic_score", "negative_aesthetic_score", "fast_decode", "latents", "end"}


def test_what_is_left_for_another_model(fake: Pipeline) -> None:
    request = Request("a", init=Image.new("RGB", (24, 16)), strength=0.9, fit="crop", eta=0.5, negative="b", **SMALL)
    request = replace(request, sampler="euler_a", batch=1, aesthetic_score=7.0, fast_decode=True, variation_seed=-1)
    request = replace(request, variation_strength=0.5, target_size=None)
    rest = handed_over(fake, request, 0.5)
    assert (rest.init, rest.strength, rest.fit, rest.width, rest.height) == (None, None, "stretch", None, None)
    assert (rest.aesthetic_score, rest.fast_decode, rest.eta, rest.negative, rest.seed) == (7.0, True, 0.5, "b", 3)
    assert rest.variation_seed not in (None, -1) and rest.latents is not None and rest.latents.shape == (1, 4, 3, 2)
    run = fake.steps(replace(rest, aesthetic_score=None, fast_decode=False))
    assert run.settings.steps == 10 and run.total == 5


def test_a_tiny_decoder_is_asked_of_the_model_that_decodes(fake: Pipeline) -> None:
    """The base has none, and draws nothing."""
    with pytest.raises(RequestError, match="fast_decode: got True, but emoji has no tiny_decoder"):
        fake.steps(Request("a", fast_decode=True, **SMALL))
    assert handed_over(fake, Request("a", fast_decode=True, **SMALL), 0.5).fast_decode


@pytest.mark.parametrize("name", ["mask", "hires"])
def test_what_is_not_handed_over(fake: Pipeline, name: str) -> None:
    changed: dict[str, Any] = {name: 2.0 if name == "hires" else Image.new("L", (24, 16))}
    with pytest.raises(RequestError, match=f"{name}: got it where a refiner takes over, expected one of the two"):
        handed_over(fake, replace(Request("a", **SMALL), **changed), 0.5)
