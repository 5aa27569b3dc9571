"""Samples for a comparison: the same requests for any bundle, drawn with the latents of every step kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from latentrt.bundle.folder import Bundle
from latentrt.errors import RequestError
from latentrt.pipeline.pipeline import Pipeline
from latentrt.request.request import Request
from latentrt.request.settings import Settings, resolve
from latentrt.tensors import Array
from latentrt_calib.evaluate.metrics import WINDOW
from latentrt_calib.recording.prompts import for_images
from latentrt_calib.recording.requests import check_requests

Advance = Callable[[], None]

# Settings that a bundle's defaults fill in where the request leaves them out.
CHOSEN = ("steps", "guidance", "width", "height", "sampler", "sigmas", "spacing")


@dataclass(frozen=True)
class Sample:
    """A picture and its latents after every step. image: (height, width, 3) uint8. latents: (steps, channels, h, w)."""

    settings: Settings
    image: Array = field(repr=False)
    latents: Array = field(repr=False)


def requests_of(
    prompts: Sequence[str], bundle: Bundle, *, images: int, seed: int = 0, **options: Any
) -> tuple[Request, ...]:
    """One request per picture, with the defaults of `bundle` filled in, so that another bundle draws the same.

    Prompts repeat if there are more pictures than prompts; picture k has seed + k. options: fields of `Request`, except
    batch and variations; all of them are kept.

    Raises RequestError for what cannot be generated, or for pictures too small to compare.
    """
    if images < 1:
        raise RequestError(f"images: got {images}, expected at least 1")
    asked = Request("", **options)
    chosen = resolve(replace(asked, seed=seed, batch=images), bundle.manifest)
    if min(chosen.width, chosen.height) < WINDOW:
        raise RequestError(
            f"size: got {chosen.width}x{chosen.height}, expected at least {WINDOW} pixels a side to compare pictures"
        )
    made: dict[str, Any] = {**{name: chosen.record()[name] for name in CHOSEN}, **chosen.schedule.options}
    pairs = zip(for_images(prompts, images), chosen.seeds, strict=True)
    return tuple(replace(asked, prompt=prompt, seed=seed, **made) for prompt, seed in pairs)


def generate_samples(
    pipeline: Pipeline, requests: Sequence[Request], advance: Advance = lambda: None
) -> Iterator[Sample]:
    """Yields the sample of each request. advance: called after each.

    Raises RequestError for what cannot be generated, before the first.
    """
    check_requests(pipeline, requests)
    for request in requests:
        run = pipeline.steps(request)
        latents = [step.latents[0] for step in run]
        advance()
        yield Sample(run.settings, np.asarray(run.result.images[0]), np.stack(latents))
