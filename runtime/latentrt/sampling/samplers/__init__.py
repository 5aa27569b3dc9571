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
    samplers of flow models, which take no others.
    """

    steps: Callable[..., SamplerSteps]
    grid: Callable[[NoiseSchedule, int, Spacing, Sigmas], Grid]
    options: Mapping[str, Option] = field(default_factory=dict)
    noise: Literal["normal", "brownian"] = "normal"
    flow: bool = False


NO_ETA, FULL_ETA = {"eta": Option(0.0)}, {"eta": Option(1.0)}
MIDPOINT_OR_HEUN = Option("midpoint", choices=("midpoint", "heun"))
euler = partial(first_order, eta=0.0)
dpmpp = partial(dpmpp_multistep, lower_last=False)

SAMPLERS: dict[str, Sampler] = {
    "ddim": Sampler(first_order, ddim_grid, NO_ETA),
    "ddpm": Sampler(partial(first_order, eta=1.0), ddpm_grid),
    "pndm": Sampler(pndm, partial(ddim_grid, clamped=True)),
    "lms": Sampler(lms, sigma_grid, {"order": Option(4, choices=(1, 2, 3, 4))}),
    "euler": Sampler(euler, sigma_grid),
    "euler_a": Sampler(first_order, sigma_grid, FULL_ETA),
    "heun": Sampler(heun, sigma_grid),
    "dpm2": Sampler(partial(dpm2, eta=0.0), kdpm_grid),
    "dpm2_a": Sampler(dpm2, kdpm_grid, FULL_ETA),
    "dpmpp_2s_a": Sampler(dpmpp_2s, sigma_grid, FULL_ETA),
    "dpmpp_2m": Sampler(
        partial(dpmpp_multistep, eta=0.0, lower_last=True),
        dpm_grid,
        {"order": Option(2, choices=(1, 2, 3)), "solver": MIDPOINT_OR_HEUN},
    ),
    "dpmpp_sde": Sampler(dpmpp_sde, sigma_grid, FULL_ETA, "brownian"),
    "dpmpp_2m_sde": Sampler(partial(dpmpp, order=2), dpm_grid, {**FULL_ETA, "solver": MIDPOINT_OR_HEUN}, "brownian"),
    "dpmpp_3m_sde": Sampler(partial(dpmpp, order=3, solver="heun"), dpm_grid, FULL_ETA, "brownian"),
    "unipc": Sampler(
        unipc, dpm_grid, {"order": Option(2, choices=(1, 2, 3)), "solver": Option("bh2", choices=("bh1", "bh2"))}
    ),
    "deis": Sampler(deis, deis_grid, {"order": Option(2, choices=(1, 2, 3))}),
    "lcm": Sampler(lcm, lcm_grid),
    "tcd": Sampler(tcd, tcd_grid, {"gamma": Option(0.3)}),
    "flow_euler": Sampler(euler, flow_grid, flow=True),
    "flow_heun": Sampler(flow_heun, flow_grid, flow=True),
}
