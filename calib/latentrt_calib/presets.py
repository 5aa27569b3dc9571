"""Presets of a bundle: shortcuts measured on its own pictures, and written into its manifest where they pay."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from latentrt.bundle.manifest import Manifest
from latentrt.bundle.presets import Preset
from latentrt.bundle.upgrade import upgrade
from latentrt.pipeline.load import load
from latentrt.request.settings import Settings, guided
from latentrt_calib.evaluate.generate import Advance, requests_of
from latentrt_calib.evaluate.shortcuts import Shortcut, Shortcuts

Fields = Mapping[str, Any]

# The least mean PSNR, in dB, that a preset has above fewer steps at the same cost.
LEAST_GAIN_DB = 3.0
# Runs with more steps than this change so little from call to call that one full call in 5 is enough, not one in 3.
MANY_STEPS = 40
# The share of the schedule, from its start, that the preset "late-guidance" leaves without guidance.
UNGUIDED = 0.1


def measure_presets(
    folder: Path,
    subjects: Sequence[str],
    *,
    images: int,
    seed: int = 0,
    engine: str = "onnxruntime",
    advance: Advance = lambda: None,
    **options: Any,
) -> tuple[Settings, dict[str, Shortcut]]:
    """Returns the pictures' settings, and the best variant of every preset that the bundle can have, if it pays or not.

    subjects, images, seed, options: as in `requests_of`. advance: called after every picture.
    """
    with load(folder, engine=engine) as pipeline:
        requests = requests_of(subjects, pipeline.bundle, images=images, seed=seed, **options)
        measured = Shortcuts(pipeline, requests, advance)
        settings = measured.references[0].settings
        return settings, {
            name: max(map(measured.measure, variants), key=worst_db)
            for name, variants in candidates(pipeline.bundle.manifest, settings).items()
        }


def worst_db(one: Shortcut) -> float:
    """The lowest PSNR of its pictures: extrapolation may gain on most of them and fail on one."""
    return math.inf if one.loss.worst_psnr_db is None else one.loss.worst_psnr_db


def candidates(manifest: Manifest, settings: Settings) -> dict[str, list[Fields]]:
    """The variants of every preset that the bundle and the sampler allow, by the preset's name."""
    every = {"careful": 2, "fast": 5 if settings.steps > MANY_STEPS else 3}
    of = "features" if manifest.shallow else "prediction"
    found: dict[str, list[Fields]] = {}
    if manifest.shallow or not draws_noise(manifest, settings):
        found |= {name: [*ordered(cache=number, cache_of=of)] for name, number in every.items()}
    if not guided(settings, manifest):
        return found
    if manifest.shallow:
        found["fastest"] = [*ordered(cache=every["fast"], cache_of="features+guidance")]
    found["guidance"] = [*ordered(cache=2, cache_of="guidance")]
    sigmas = settings.schedule.calls(manifest.noise_schedule).sigmas
    if len(sigmas) > 1:
        first = max(1, round(UNGUIDED * len(sigmas)))
        found["late-guidance"] = [{"guidance_interval": (0.0, sigmas[first])}]
    return found


def ordered(**fields: Any) -> Iterator[Fields]:
    """The fields, with what is kept repeated, and extrapolated."""
    yield from ({**fields, "cache_order": order} for order in (0, 1))


def draws_noise(manifest: Manifest, settings: Settings) -> bool:
    """Whether the settings' sampler draws noise."""
    return settings.schedule.calls(manifest.noise_schedule).draws_noise


def save_presets(folder: Path, found: Mapping[str, Shortcut], settings: Settings) -> dict[str, Preset]:
    """Writes the presets that pay into the bundle's manifest, and returns them. settings: of the measured pictures.

    Raises as `latentrt.bundle.upgrade.upgrade`.
    """
    presets = {name: preset_of(one, settings) for name, one in found.items() if one.gain_db >= LEAST_GAIN_DB}
    upgrade(folder, amend=lambda _, manifest: replace(manifest, presets=presets))
    return presets


def preset_of(one: Shortcut, settings: Settings) -> Preset:
    """The manifest's entry of a shortcut."""
    measured = (settings.schedule.sampler, settings.steps, max(settings.scales))
    return Preset(*measured, round(one.share, 4), one.loss, one.fewer_steps, one.fewer_loss, **one.fields)
