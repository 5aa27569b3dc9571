"""Samplers by name: the function that yields the steps, the grid of noise levels, and the options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from latentrt.sampling.curves import Sigmas
from latentrt.sampling.grids import (
    Grid,
    ddim_grid,
    ddpm_grid,
    deis_grid,
    dpm_grid,
    flow_grid,
    kdpm_grid,
    lcm_grid,
    sigma_grid,
    tcd_grid,
)
from latentrt.sampling.samplers.adams import deis, lms, pndm
from latentrt.sampling.samplers.consistency import lcm, tcd
from latentrt.sampling.samplers.dpm import dpmpp_multistep
from latentrt.sampling.samplers.single import dpm2, dpmpp_2s, dpmpp_sde, first_order, flow_heun, heun
from latentrt.sampling.samplers.unipc import unipc
from latentrt.sampling.schedule import NoiseSchedule, Spacing
from latentrt.sampling.step import SamplerSteps

Value = float | int | str


@dataclass(frozen=True)
class Option:
    """An option of a sampler: its default, and its valid values as a range or a list."""

    default: Value
    range: tuple[float, float] = (0.0, 1.0)
    choices: tuple[Value, ...] = ()


@dataclass(frozen=True)
class Sampler:
    """A sampler's steps, and the grid of noise levels that its reference implementation uses.

    noise: "normal" is drawn anew at each step, "brownian" follows one Brownian path through the levels. flow: True for
    samplers of flow models, which take no others. names: in other tools; AUTOMATIC1111's first, for the metadata of
    pictures (where it has none, the name here), then those of ComfyUI, InvokeAI and diffusers (the scheduler's class).
    """

    steps: Callable[..., SamplerSteps]
    grid: Callable[[NoiseSchedule, int, Spacing, Sigmas], Grid]
    options: Mapping[str, Option] = field(default_factory=dict)
    noise: Literal["normal", "brownian"] = "normal"
    flow: bool = False
    names: tuple[str, ...] = ()


NO_ETA, FULL_ETA = {"eta": Option(0.0)}, {"eta": Option(1.0)}
MIDPOINT_OR_HEUN = Option("midpoint", choices=("midpoint", "heun"))
euler = partial(first_order, eta=0.0)
dpmpp = partial(dpmpp_multistep, lower_last=False)

SAMPLERS: dict[str, Sampler] = {
    "ddim": Sampler(first_order, ddim_grid, NO_ETA, names=("DDIM", "DDIMScheduler")),
    "ddpm": Sampler(partial(first_order, eta=1.0), ddpm_grid, names=("ddpm", "DDPMScheduler")),
    "pndm": Sampler(pndm, partial(ddim_grid, clamped=True), names=("PLMS", "PNDMScheduler")),
    "lms": Sampler(lms, sigma_grid, {"order": Option(4, choices=(1, 2, 3, 4))}, names=("LMS", "LMSDiscreteScheduler")),
    "euler": Sampler(euler, sigma_grid, names=("Euler", "EulerDiscreteScheduler")),
    "euler_a": Sampler(
        first_order, sigma_grid, FULL_ETA, names=("Euler a", "euler_ancestral", "EulerAncestralDiscreteScheduler")
    ),
    "heun": Sampler(heun, sigma_grid, names=("Heun", "HeunDiscreteScheduler")),
    "dpm2": Sampler(partial(dpm2, eta=0.0), kdpm_grid, names=("DPM2", "dpm_2", "kdpm_2", "KDPM2DiscreteScheduler")),
    "dpm2_a": Sampler(
        dpm2, kdpm_grid, FULL_ETA, names=("DPM2 a", "dpm_2_ancestral", "kdpm_2_a", "KDPM2AncestralDiscreteScheduler")
    ),
    "dpmpp_2s_a": Sampler(dpmpp_2s, sigma_grid, FULL_ETA, names=("DPM++ 2S a", "dpmpp_2s_ancestral", "dpmpp_2s")),
    "dpmpp_2m": Sampler(
        partial(dpmpp_multistep, eta=0.0, lower_last=True),
        dpm_grid,
        {"order": Option(2, choices=(1, 2, 3)), "solver": MIDPOINT_OR_HEUN},
        names=("DPM++ 2M", "DPMSolverMultistepScheduler"),
    ),
    "dpmpp_sde": Sampler(
        dpmpp_sde, sigma_grid, FULL_ETA, "brownian", names=("DPM++ SDE", "dpmpp_sde_gpu", "DPMSolverSDEScheduler")
    ),
    "dpmpp_2m_sde": Sampler(
        partial(dpmpp, order=2),
        dpm_grid,
        {**FULL_ETA, "solver": MIDPOINT_OR_HEUN},
        "brownian",
        names=("DPM++ 2M SDE", "dpmpp_2m_sde_gpu"),
    ),
    "dpmpp_3m_sde": Sampler(
        partial(dpmpp, order=3, solver="heun"),
        dpm_grid,
        FULL_ETA,
        "brownian",
        names=("DPM++ 3M SDE", "dpmpp_3m_sde_gpu"),
    ),
    "unipc": Sampler(
        unipc,
        dpm_grid,
        {"order": Option(2, choices=(1, 2, 3)), "solver": Option("bh2", choices=("bh1", "bh2"))},
        names=("UniPC", "uni_pc", "UniPCMultistepScheduler"),
    ),
    "deis": Sampler(deis, deis_grid, {"order": Option(2, choices=(1, 2, 3))}, names=("deis", "DEISMultistepScheduler")),
    "lcm": Sampler(lcm, lcm_grid, names=("LCM", "LCMScheduler")),
    "tcd": Sampler(tcd, tcd_grid, {"gamma": Option(0.3)}, names=("tcd", "TCDScheduler")),
    "flow_euler": Sampler(euler, flow_grid, flow=True, names=("flow_euler", "FlowMatchEulerDiscreteScheduler")),
    "flow_heun": Sampler(flow_heun, flow_grid, flow=True, names=("flow_heun", "FlowMatchHeunDiscreteScheduler")),
}
