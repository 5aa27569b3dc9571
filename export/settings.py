"""A checkpoint's scheduler_config.json as a noise schedule and the defaults of a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from latentrt.curves import SigmasName
from latentrt.errors import CheckpointError
from latentrt.manifest import Defaults
from latentrt.schedule import NoiseSchedule
from latentrt.typed import TypedError, parse

# The sampler here that is nearest to what the checkpoint was published with; "ddim" where there is none.
SAMPLER_OF = {
    "DDIMScheduler": "ddim",
    "PNDMScheduler": "ddim",
    "EulerDiscreteScheduler": "euler",
    "LMSDiscreteScheduler": "euler",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
    "UniPCMultistepScheduler": "dpmpp_2m",
}
# What a scheduler_config.json means by leaving an entry out, as diffusers 0.42.1's classes have it.
ABSENT = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "prediction_type": "epsilon",
    "rescale_betas_zero_snr": False,
    "timestep_spacing": "leading",
    "steps_offset": 0,
    "set_alpha_to_one": True,
}
# The classes that mean something else by it.
LINSPACE = {"timestep_spacing": "linspace"}
ABSENT_OF: Mapping[str, Mapping[str, Any]] = {
    "EulerDiscreteScheduler": LINSPACE,
    "EulerAncestralDiscreteScheduler": LINSPACE,
    "LMSDiscreteScheduler": LINSPACE,
    "DPMSolverMultistepScheduler": LINSPACE,
    "UniPCMultistepScheduler": LINSPACE,
    "PNDMScheduler": {"set_alpha_to_one": False},
}

# Entries that change what diffusers draws and that no sampler here knows, with the value that makes no difference.
NEUTRAL = {
    "clip_sample": False,
    "thresholding": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "use_lu_lambdas": False,
    "interpolation_type": "linear",
    "final_sigmas_type": "zero",
    "algorithm_type": "dpmsolver++",
    "solver_order": 2,
}


def ignored_entries(config: Mapping[str, Any]) -> list[str]:
    """Returns the entries that an image made with diffusers would depend on and one made here does not."""
    return [f"{key} = {config[key]!r}" for key, neutral in NEUTRAL.items() if config.get(key, neutral) != neutral]


def schedule_of(config: Mapping[str, Any]) -> NoiseSchedule:
    """Returns the noise schedule. Raises CheckpointError for betas given as a list, or a kind that is not known."""
    if config.get("trained_betas") is not None:
        raise CheckpointError("scheduler_config.json: got trained_betas, expected a named beta_schedule")
    absent = {**ABSENT, **ABSENT_OF.get(config.get("_class_name", ""), {})}
    entries = {**absent, **{key: value for key, value in config.items() if key in ABSENT}}
    values = {
        "train_steps": entries["num_train_timesteps"],
        "beta_schedule": entries["beta_schedule"],
        "beta_start": entries["beta_start"],
        "beta_end": entries["beta_end"],
        "prediction": entries["prediction_type"],
        "zero_terminal_snr": entries["rescale_betas_zero_snr"],
        "spacing": entries["timestep_spacing"],
        "steps_offset": entries["steps_offset"],
        "last_alpha": "one" if entries["set_alpha_to_one"] else "first",
    }
    try:
        return parse(NoiseSchedule, values)
    except TypedError as error:
        raise CheckpointError(f"scheduler_config.json{error}") from error


def defaults_of(config: Mapping[str, Any], side_px: int, *, steps: int, guidance: float) -> Defaults:
    """Returns what a request uses where it says nothing."""
    sampler = SAMPLER_OF.get(config.get("_class_name", ""), "ddim")
    sigmas: SigmasName = "karras" if config.get("use_karras_sigmas") else "normal"
    return Defaults(sampler, sigmas, steps, guidance, side_px, side_px)
