"""A run that ends on the way, and one that goes on from its latents: the same as one run that goes all the way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from latentrt.errors import RequestError
from latentrt.pipeline import Pipeline
from latentrt.request import Request

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
        ({"aesthetic_score": 5.0}, "aesthetic_score: got 5.0, but sd1 models are not told it"),
    ],
)
def test_parts_that_are_none(fake: Pipeline, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        fake.steps(Request("a", **{**SMALL, **options}))
