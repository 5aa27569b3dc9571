"""Samples for a comparison: pictures of the same requests from any bundle, with the latents of every step."""

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
from latentrt_calib.recording.requests import check_requests, requests_for

Advance = Callable[[], None]

# Settings that default to the bundle's.
FROM_BUNDLE = ("steps", "guidance", "width", "height", "sampler", "sigmas", "spacing")


@dataclass(frozen=True)
class Sample:
    """A picture and its latents after every step. image: (height, width, 3) uint8. latents: (steps, channels, h, w)."""

    settings: Settings
    image: Array = field(repr=False)
    latents: Array = field(repr=False)


def requests_of(
    subjects: Sequence[str],
    bundle: Bundle,
    *,
    images: int,
    seed: int = 0,
    inits: Sequence[str] = (),
    **options: Any,
) -> tuple[Request, ...]:
    """One request per picture, with the defaults of `bundle` filled in, for equal requests to another bundle.

    subjects: prompts, or what `subjects_of` gives; they repeat if there are more pictures. Picture k has seed + k.
    inits: files of pictures for a model that is shown one; without, they are drawn. options: any fields of `Request`
    except batch and variations. Raises RequestError for an invalid request, or for pictures too small to compare.
    """
    if images < 1:
        raise RequestError(f"images: got {images}, expected at least 1")
    first, *_ = requests_for(bundle.manifest, for_images(subjects, 1), 0, inits, **options)
    settings = resolve(replace(first, seed=seed, batch=images), bundle.manifest)
    if min(settings.width, settings.height) < WINDOW:
        raise RequestError(
            f"size: got {settings.width}x{settings.height}, expected at least {WINDOW} pixels per side to compare"
        )
    defaults: dict[str, Any] = {name: settings.record()[name] for name in FROM_BUNDLE}
    defaults |= settings.schedule.options
    return requests_for(bundle.manifest, for_images(subjects, images), settings.seeds[0], inits, **options | defaults)


def generate_samples(
    pipeline: Pipeline, requests: Sequence[Request], advance: Advance = lambda: None
) -> Iterator[Sample]:
    """Yields the sample of each request. advance: called after each.

    Raises RequestError for an invalid request, before the first sample.
    """
    check_requests(pipeline, requests)
    for request in requests:
        run = pipeline.steps(request)
        latents = [step.latents[0] for step in run]
        advance()
        yield Sample(run.settings, np.asarray(run.result.images[0]), np.stack(latents))
