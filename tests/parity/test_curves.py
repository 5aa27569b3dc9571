"""Curves and grids against scipy and diffusers: the levels of samplers, and the timesteps of each."""

import inspect
import itertools
from dataclasses import dataclass, field, replace
from unittest import mock

import diffusers
import numpy as np
import pytest
import scipy.stats
import torch
from diffusers.schedulers.scheduling_utils import AysSchedules

from latentrt.sampling.curves import AYS_SD1, AYS_SDXL, Span, ays, ays_sdxl, beta_quantile, sigmas_of_curve
from latentrt.sampling.samplers import SAMPLERS
from latentrt.sampling.schedule import NoiseSchedule, sigma_table

BETAS = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
STABLE = NoiseSchedule(1000, "scaled_linear", 0.00085, 0.012, "epsilon", False, "leading", 1, "one")
FLOW = replace(STABLE, prediction="flow_prediction")
TABLE = sigma_table(STABLE, clamped=True)
SPAN = Span(TABLE[-1], TABLE[0], TABLE)
DRAWN = ("karras", "exponential", "beta")
SPACINGS = ("leading", "trailing", "linspace")
STEPS = (1, 2, 5, 20, 50, 999)


@dataclass(frozen=True)
class Layout:
    """Reference of a sampler's grid: diffusers' class, which curves it takes, and what is special.

    calls: of the model, a step; each has an entry in diffusers' timesteps. sigmas: whether the scheduler keeps any.
    """

    scheduler: str
    curves: tuple[str, ...] = ("normal", *DRAWN)
    calls: int = 1
    sigmas: bool = True
    config: dict = field(default_factory=dict)


LAYOUTS = {
    "ddim": Layout("DDIMScheduler", ("normal",), sigmas=False),
    "ddpm": Layout("DDPMScheduler", ("normal",), sigmas=False),
    "lms": Layout("LMSDiscreteScheduler"),
    "euler": Layout("EulerDiscreteScheduler"),
    "euler_a": Layout("EulerAncestralDiscreteScheduler", ("normal",)),
    "heun": Layout("HeunDiscreteScheduler", calls=2),
    "dpm2": Layout("KDPM2DiscreteScheduler", calls=2),
    "dpm2_a": Layout("KDPM2AncestralDiscreteScheduler", calls=2),
    "dpmpp_2m": Layout("DPMSolverMultistepScheduler"),
    "dpmpp_sde": Layout("DPMSolverSDEScheduler", calls=2),
    "unipc": Layout("UniPCMultistepScheduler", config={"final_sigmas_type": "zero"}),
    "deis": Layout("DEISMultistepScheduler"),
    "lcm": Layout("LCMScheduler", ("normal",), sigmas=False),
    "tcd": Layout("TCDScheduler", ("normal",), sigmas=False),
}
CASES = [
    (name, spacing, curve)
    for name, layout in LAYOUTS.items()
    for curve in layout.curves
    for spacing in (SPACINGS if curve == "normal" and name not in ("lcm", "tcd") else ("trailing",))
]


def theirs(layout, spacing, curve):
    """Returns diffusers' scheduler.

    Some of them lay out a thousand steps when they are made, at the cost of seconds: here without timesteps.
    """
    config = {**BETAS, "timestep_spacing": spacing, "steps_offset": 1, **layout.config}
    config |= {} if curve == "normal" else {f"use_{curve}_sigmas": True}
    kind = getattr(diffusers, layout.scheduler)
    known = inspect.signature(kind.__init__).parameters
    with mock.patch.object(kind, "_sigma_to_t", return_value=0.0, create=True):
        return kind(**{key: value for key, value in config.items() if key in known})


@pytest.mark.parametrize(("name", "spacing", "curve"), CASES, ids=map(" ".join, CASES))
def test_grid_is_that_of_diffusers(name, spacing, curve):
    layout = LAYOUTS[name]
    scheduler = theirs(layout, spacing, curve)
    for steps in STEPS if curve == "normal" and layout.calls == 1 and layout.sigmas else STEPS[:-1]:
        scheduler.set_timesteps(steps)
        grid = SAMPLERS[name].grid(STABLE, steps, spacing, curve)
        times = scheduler.timesteps.numpy()
        own = times if layout.calls == 1 else np.append(times[0], times[2::2])
        # In leading layouts of so many steps diffusers calls the model at timestep 1000, of which there is none.
        np.testing.assert_allclose(grid.timesteps, np.minimum(own, 999), rtol=0, atol=1e-3)
        if layout.sigmas:
            sigmas = scheduler.sigmas.numpy()
            own = sigmas if layout.calls == 1 else np.append(sigmas[0], sigmas[1::2])
            np.testing.assert_allclose(grid.sigmas, own[:steps], rtol=2e-5)
            # Of a single step on a curve, diffusers' DEIS has the end where it starts.
            flat = name == "deis" and curve != "normal" and steps == 1
            assert sigmas[-1] == pytest.approx(grid.sigmas[0] if flat else grid.sigmas_next[-1], rel=2e-5)


def test_grid_of_flow_models_is_that_of_diffusers():
    for shift, steps in itertools.product((1.0, 3.0), STEPS):
        scheduler = diffusers.FlowMatchHeunDiscreteScheduler(shift=shift)
        scheduler.set_timesteps(steps)
        grid = SAMPLERS["flow_heun"].grid(replace(FLOW, shift=shift), steps, "leading", "normal")
        times = scheduler.timesteps.numpy()
        np.testing.assert_allclose(grid.timesteps, np.append(times[0], times[2::2]), rtol=1e-6)
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
        scheduler.set_timesteps(steps)
        np.testing.assert_allclose(grid.timesteps, scheduler.timesteps.numpy(), rtol=1e-6)
    for steps, curve in itertools.product(STEPS[:-1], ("normal", *DRAWN)):
        options = {} if curve == "normal" else {f"use_{curve}_sigmas": True}
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler(**options)
        scheduler.set_timesteps(steps)
        grid = SAMPLERS["flow_euler"].grid(FLOW, steps, "leading", curve)
        np.testing.assert_allclose(grid.timesteps, scheduler.timesteps.numpy(), rtol=1e-5)


@pytest.mark.parametrize("curve", DRAWN)
@pytest.mark.parametrize("ends", [(14.614647, 0.0291672), (5.0, 0.4), (4096.0, 0.002)])
def test_curve_is_that_of_diffusers(curve, ends):
    scheduler = diffusers.EulerDiscreteScheduler(**BETAS)
    convert = getattr(scheduler, f"_convert_to_{curve}")
    for steps in (1, 2, 3, 20, 50):
        expected = convert(torch.tensor(ends, dtype=torch.float64), num_inference_steps=steps)
        np.testing.assert_allclose(sigmas_of_curve(curve, Span(*ends, TABLE), steps), np.asarray(expected), rtol=1e-6)


@pytest.mark.parametrize("shape", [0.6, 0.3, 0.9, 1.0])
def test_quantiles_are_those_of_scipy(shape):
    p = np.concatenate([np.linspace(0, 1, 201), np.geomspace(1e-9, 1e-3, 7), 1 - np.geomspace(1e-9, 1e-3, 7)])
    np.testing.assert_allclose(beta_quantile(p, shape), scipy.stats.beta.ppf(p, shape, shape), rtol=1e-11, atol=1e-15)


def test_align_your_steps_are_those_of_diffusers():
    for levels, name in ((AYS_SD1, "StableDiffusion"), (AYS_SDXL, "StableDiffusionXL")):
        assert [*levels[:-1], 0.0] == AysSchedules[f"{name}Sigmas"]
        curve = ays if name == "StableDiffusion" else ays_sdxl
        np.testing.assert_allclose(curve(SPAN, 10), AysSchedules[f"{name}Sigmas"][:-1], rtol=1e-12)
