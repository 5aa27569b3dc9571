"""Conversion of a checkpoint's scheduler_config.json to a noise schedule and a bundle's defaults."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from latentrt.bundle.manifest import Defaults
from latentrt.errors import CheckpointError
from latentrt.sampling.curves import SigmasName
from latentrt.sampling.samplers import SAMPLERS
from latentrt.sampling.schedule import NoiseSchedule, SizeShift
from latentrt.storage.json_codec import TypedError, parse
from latentrt_export.checkpoint.other_schedulers import OTHERS, STAND_INS

# The entry of flow models whose shift follows from the size of the picture.
DYNAMIC = "use_dynamic_shifting"
# Defaults of scheduler_config.json in most classes of diffusers 0.42.1.
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
    "shift": 1.0,
}
LINSPACE = {"timestep_spacing": "linspace"}
STABLE = {"beta_start": 0.00085, "beta_end": 0.012}
DISTILLED = {**STABLE, "beta_schedule": "scaled_linear"}
FLOW = {"prediction_type": "flow_prediction"}

Harmless = Mapping[str, tuple[Any, ...]]
# Entries that no sampler here supports, with the values that make no difference; the first is the default.
THRESHOLD: Harmless = {"thresholding": (False,)}
CLIP: Harmless = {"clip_sample": (False,), **THRESHOLD}
MULTISTEP: Harmless = {**THRESHOLD, "solver_order": (2,), "use_flow_sigmas": (False,)}
LEVELS: Harmless = {"final_sigmas_type": ("zero",)}
BOUNDS: Harmless = {"sigma_min": (None,), "sigma_max": (None,)}


@dataclass(frozen=True)
class Scheduler:
    """One scheduler class of diffusers: the sampler here that takes the same steps, and the meaning of its entries.

    absent: its defaults where they differ from ABSENT or are not harmless. harmless: values that make no difference.
    curves: supports use_karras_sigmas and similar entries. instead: entries that mean another sampler.
    """

    sampler: str
    absent: Mapping[str, Any] = field(default_factory=dict)
    harmless: Harmless = field(default_factory=dict)
    curves: bool = False
    instead: Mapping[tuple[str, Any], str] = field(default_factory=dict)


SCHEDULERS = {
    "DDIMScheduler": Scheduler("ddim", {"clip_sample": True}, CLIP),
    "DDPMScheduler": Scheduler(
        "ddpm", {"clip_sample": True}, {**CLIP, "variance_type": ("fixed_small", "fixed_small_log")}
    ),
    # Without skip_prk_steps it begins with three steps of Runge and Kutta's method, of four calls each.
    "PNDMScheduler": Scheduler(
        "pndm",
        {"set_alpha_to_one": False, "skip_prk_steps": False},
        {"skip_prk_steps": (True,)},
        instead={("skip_prk_steps", False): "ddim"},
    ),
    "LMSDiscreteScheduler": Scheduler("lms", LINSPACE, curves=True),
    "EulerDiscreteScheduler": Scheduler(
        "euler",
        LINSPACE,
        {**LEVELS, **BOUNDS, "interpolation_type": ("linear",), "timestep_type": ("discrete",)},
        curves=True,
    ),
    "EulerAncestralDiscreteScheduler": Scheduler("euler_a", LINSPACE),
    "HeunDiscreteScheduler": Scheduler("heun", {**LINSPACE, **STABLE}, {"clip_sample": (False,)}, curves=True),
    "KDPM2DiscreteScheduler": Scheduler("dpm2", {**LINSPACE, **STABLE}, curves=True),
    "KDPM2AncestralDiscreteScheduler": Scheduler("dpm2_a", {**LINSPACE, **STABLE}, curves=True),
    "DPMSolverSDEScheduler": Scheduler(
        "dpmpp_sde", {**LINSPACE, **STABLE}, {"noise_sampler_seed": (None,)}, curves=True
    ),
    "DPMSolverMultistepScheduler": Scheduler(
        "dpmpp_2m",
        LINSPACE,
        {
            **MULTISTEP,
            **LEVELS,
            "algorithm_type": ("dpmsolver++", "sde-dpmsolver++"),
            "solver_type": ("midpoint", "logrho", "bh1", "bh2"),  # the class takes the last three for the first
            "use_lu_lambdas": (False,),
            "lambda_min_clipped": (-math.inf,),
        },
        curves=True,
        instead={("algorithm_type", "sde-dpmsolver++"): "dpmpp_2m_sde"},
    ),
    "UniPCMultistepScheduler": Scheduler(
        "unipc",
        LINSPACE,
        {
            **MULTISTEP,
            **LEVELS,
            **BOUNDS,
            "solver_type": ("bh2", "midpoint", "heun", "logrho"),  # again
            "lower_order_final": (True,),
            "predict_x0": (True,),
            "disable_corrector": ([],),
            "solver_p": (None,),
        },
        curves=True,
    ),
    "DEISMultistepScheduler": Scheduler("deis", LINSPACE, {**MULTISTEP, "lower_order_final": (True,)}, curves=True),
    "LCMScheduler": Scheduler(
        "lcm", DISTILLED, {**CLIP, "original_inference_steps": (50,), "timestep_scaling": (10.0,)}
    ),
    "TCDScheduler": Scheduler("tcd", DISTILLED, {**CLIP, "original_inference_steps": (50,)}),
    "FlowMatchEulerDiscreteScheduler": Scheduler(
        "flow_euler",
        FLOW,
        {
            DYNAMIC: (False,),
            "invert_sigmas": (False,),
            "shift_terminal": (None,),
            "stochastic_sampling": (False,),
        },
        curves=True,
    ),
    "FlowMatchHeunDiscreteScheduler": Scheduler("flow_heun", FLOW),
}
# An unknown class on the same schedule, or no class.
OTHER = Scheduler("ddim", {}, CLIP, curves=True)
CURVES: Mapping[str, SigmasName] = {
    "use_karras_sigmas": "karras",
    "use_exponential_sigmas": "exponential",
    "use_beta_sigmas": "beta",
}


def scheduler_of(config: Mapping[str, Any]) -> Scheduler:
    """Returns the entry of the config's class, or of the class that replaces it."""
    name = str(config.get("_class_name", ""))
    return SCHEDULERS.get(STAND_INS.get(name, name), OTHER)


def entry(config: Mapping[str, Any], key: str) -> Any:
    """Returns an entry's value or its default; None for an entry that the class does not have."""
    scheduler = scheduler_of(config)
    harmless = {name: values[0] for name, values in scheduler.harmless.items()}
    return {**ABSENT, **harmless, **scheduler.absent, **config}.get(key)


def ignored_entries(config: Mapping[str, Any]) -> list[str]:
    """Returns the entries that change pictures of diffusers and are ignored here."""
    scheduler = scheduler_of(config)
    ignored = [key for key, harmless in scheduler.harmless.items() if entry(config, key) not in harmless]
    if scheduler is OTHER and "_class_name" in config:
        ignored.insert(0, "_class_name")
    return [f"{key} = {entry(config, key)!r}" for key in ignored]


def notices_of(config: Mapping[str, Any], size_shift: SizeShift = "none") -> list[str]:
    """Returns one line per difference from diffusers. size_shift: as in `schedule_of`."""
    name = config.get("_class_name")
    known = {} if size_shift == "none" else {DYNAMIC: False}
    ignored = [f"{one} is ignored" for one in ignored_entries({**config, **known})]
    if str(name) not in STAND_INS:
        return ignored
    return [f"{name} has no sampler here: {sampler_of(config)} replaces it, on the same noise schedule", *ignored]


def schedule_of(config: Mapping[str, Any], size_shift: SizeShift = "none") -> NoiseSchedule:
    """Returns the noise schedule. size_shift: the rule of the model's family for a shift that follows from the size.

    Raises CheckpointError for a list of betas, an unknown schedule, and a class with another kind of noise.
    """
    refuse_other(config.get("_class_name"))
    if size_shift != "none":
        check_size_shift(config)
    if config.get("trained_betas") is not None:
        raise CheckpointError("scheduler_config.json: got trained_betas, expected a named beta_schedule")
    entries = {key: entry(config, key) for key in ABSENT}
    if (entries["prediction_type"] == "flow_prediction") != SAMPLERS[scheduler_of(config).sampler].flow:
        raise CheckpointError(
            f"scheduler_config.json.prediction_type: got {entries['prediction_type']} with "
            f"{config.get('_class_name')}, expected flow_prediction with the FlowMatch schedulers, and only there"
        )
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
        "shift": entries["shift"],
        "size_shift": size_shift,
    }
    try:
        return parse(NoiseSchedule, values)
    except TypedError as error:
        raise CheckpointError(f"scheduler_config.json{error}") from error


def check_size_shift(config: Mapping[str, Any]) -> None:
    """Raises CheckpointError unless a flow model's shift is the exponential of a number that its pipeline computes."""
    for key, expected in {DYNAMIC: True, "time_shift_type": "exponential"}.items():
        got = config.get(key, {DYNAMIC: False}.get(key, expected))
        if got != expected:
            raise CheckpointError(f"scheduler_config.json.{key}: got {got!r}, expected {expected!r} for such a model")


def refuse_other(name: Any) -> None:
    """Raises CheckpointError for a class of diffusers with another kind of noise."""
    if name is None or str(name) in {*SCHEDULERS, *STAND_INS}:
        return
    reason = OTHERS.get(str(name), "which is unknown here")
    raise CheckpointError(
        f"scheduler_config.json: got _class_name {name!r}, {reason}; expected one with betas that has a sampler here, "
        "such as DDIMScheduler or EulerDiscreteScheduler (docs/export.md lists all); write that name into the config "
        "if the model was trained with that noise"
    )


def defaults_of(config: Mapping[str, Any], side_px: int, **usual: Any) -> Defaults:
    """Returns the bundle's defaults: the published sampler and curve, or the nearest ones here."""
    return Defaults(sampler_of(config), sigmas_of(config), width=side_px, height=side_px, **usual)


def sampler_of(config: Mapping[str, Any]) -> str:
    """Returns the sampler with the steps of the config's class; "ddim" without a class."""
    scheduler = scheduler_of(config)
    others = (name for (key, value), name in scheduler.instead.items() if entry(config, key) == value)
    return next(others, scheduler.sampler)


def sigmas_of(config: Mapping[str, Any]) -> SigmasName:
    """Returns the curve of noise levels of the config; "normal" by default."""
    curves = (name for key, name in CURVES.items() if scheduler_of(config).curves and config.get(key))
    return next(curves, "normal")
