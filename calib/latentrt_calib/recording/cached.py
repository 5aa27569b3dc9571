"""Requests with a step cache, as calibration records and evaluates them where a bundle has a shallow UNet."""

from __future__ import annotations

from dataclasses import replace

from latentrt.bundle.manifest import Manifest
from latentrt.request.request import Request
from latentrt.request.settings import resolve
from latentrt.sampling.step_cache import full_calls

EVERY = 3  # one full call in so many, as in the preset "fast", and the last


def cached(request: Request, manifest: Manifest) -> Request | None:
    """The request with a step cache that repeats features.

    None where no call would be the shallow UNet's: in a bundle without one, or in too few steps.
    """
    if manifest.shallow is None:
        return None
    timesteps = resolve(request, manifest).schedule.calls(manifest.noise_schedule).timesteps
    return replace(request, cache=EVERY) if len(full_calls(timesteps, EVERY)) < len(timesteps) else None
