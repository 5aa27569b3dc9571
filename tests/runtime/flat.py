"""Settings by the flat names of a request's fields, as tests state them."""

from dataclasses import fields, replace
from typing import Any

from latentrt.request.guidance import GuidanceSpec
from latentrt.request.schedule import ScheduleSpec
from latentrt.request.settings import Settings
from latentrt.request.text import TextSpec
from latentrt.sampling.noise.source import NoiseSpec

RENAMED = {
    "guidance": ("guidance", "scale"),
    "guidance_rescale": ("guidance", "rescale"),
    "guidance_interval": ("guidance", "interval"),
    "image_guidance": ("guidance", "image"),
    "noise": ("noise", "generator"),
}
SPECS = ("text", "schedule", "noise", "model_inputs", "tiling")
PLAIN = Settings(
    TextSpec("a red apple"),
    ScheduleSpec("ddim", 20, "normal", "trailing"),
    GuidanceSpec(2.0),
    NoiseSpec("cpu", (7,)),
    8,
    8,
)


def flat(settings: Settings = PLAIN, **changed: Any) -> Settings:
    """The settings with these fields, wherever they are."""
    for name, value in changed.items():
        spec, field = RENAMED.get(name) or (spec_of(settings, name), name)
        if spec:
            value = replace(getattr(settings, spec), **{field: value})
        settings = replace(settings, **{spec or field: value})
    return settings


def spec_of(settings: Settings, name: str) -> str:
    """The spec that has a field; "" where that is the settings' own."""
    return next((spec for spec in SPECS if name in {one.name for one in fields(getattr(settings, spec))}), "")
