"""Names of samplers and curves in other tools: one table, used for reading and writing.

AUTOMATIC1111's names may end in a curve's ("DPM++ 2M Karras"), as InvokeAI's may ("dpmpp_2m_k"). Case, blanks, hyphens
and underscores do not matter, and a `+` is a p: "dpm++ 2m" is ComfyUI's dpmpp_2m. A name stands for the sampler as
latentrt has it, with latentrt's defaults.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import get_args

from latentrt.errors import RequestError
from latentrt.sampling.curves import SigmasName
from latentrt.sampling.samplers import SAMPLERS, Value
from latentrt.validate import shown


@dataclass(frozen=True)
class Named:
    """A sampler, with the curve of noise levels and the options that its name implies."""

    sampler: str
    sigmas: SigmasName | None = None
    options: Mapping[str, Value] = field(default_factory=dict)


SAMPLER_NAMES = {name: sampler.names for name, sampler in SAMPLERS.items()}
# Names that stand for a sampler with an option that is not its default.
WITH_OPTIONS: dict[str, Named] = {
    "DPM++ 2M SDE Heun": Named("dpmpp_2m_sde", options={"solver": "heun"}),
    "dpmpp_2m_sde_heun_gpu": Named("dpmpp_2m_sde", options={"solver": "heun"}),
    "uni_pc_bh2": Named("unipc", options={"solver": "bh2"}),
}
# Of each curve AUTOMATIC1111's name first.
CURVE_NAMES: dict[str, tuple[str, ...]] = {
    "normal": ("Normal",),
    "karras": ("Karras", "k", "ka"),
    "exponential": ("Exponential",),
    "beta": ("Beta",),
    "sgm_uniform": ("SGM Uniform",),
    "simple": ("Simple",),
    "ays": ("Align Your Steps", "align_your_steps_sd15"),
    "ays_sdxl": ("ays_sdxl", "align_your_steps_sdxl"),
    "kl_optimal": ("KL Optimal",),
}
PREFIXES = ("sample", "k")  # of k-diffusion's functions


def key_of(name: str) -> str:
    """A name as names are compared."""
    return re.sub(r"[\W_]", "", name.casefold().replace("+", "p"))


def label(sampler: str) -> str:
    """AUTOMATIC1111's name of a sampler."""
    return SAMPLER_NAMES[sampler][0]


def curve_label(sigmas: str) -> str:
    """AUTOMATIC1111's name of a curve; of both tables of "Align Your Steps" the same."""
    return {**CURVE_NAMES, "ays_sdxl": CURVE_NAMES["ays"]}[sigmas][0]


def curve_of(name: str) -> SigmasName | None:
    """The curve of a name, None for no curve's."""
    return CURVES.get(key_of(name))


def sampler_named(name: object) -> Named:
    """The sampler of a name. Raises RequestError, which lists the known ones, for an unknown name."""
    found = found_as(name) if isinstance(name, str) else None
    if found is None:
        raise RequestError(
            f"sampler: got {shown(name)}, expected one of {', '.join(SAMPLERS)}, or a name that AUTOMATIC1111 or "
            "ComfyUI has for one of them, such as 'DPM++ 2M Karras'"
        )
    return found


def found_as(name: str) -> Named | None:
    """The sampler of a name, None for an unknown name."""
    for key in keys_of(name):
        if key in KNOWN:
            return KNOWN[key]
        for curve, sigmas in CURVES.items():
            if key.endswith(curve) and key.removesuffix(curve) in KNOWN:
                base = KNOWN[key.removesuffix(curve)]
                return Named(base.sampler, sigmas, base.options)
    return None


def keys_of(name: str) -> Iterator[str]:
    """A name's key, and without what k-diffusion's functions begin with."""
    key = key_of(name)
    yield key
    for prefix in PREFIXES:
        key = key.removeprefix(prefix)
        yield key


KNOWN = {
    **{key_of(name): Named(sampler) for sampler, names in SAMPLER_NAMES.items() for name in (sampler, *names)},
    **{key_of(name): named for name, named in WITH_OPTIONS.items()},
}
CURVES: dict[str, SigmasName] = {
    key_of(name): curve for curve in get_args(SigmasName) for name in (curve, *CURVE_NAMES[curve])
}
