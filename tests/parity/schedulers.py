"""diffusers' schedulers and this package's samplers on the same model, from the same noise, with the same draws.

A `Case` names both sides; `difference` runs them. The model is any function of unit-variance latents and a timestep.
"""

import importlib
import inspect
import itertools
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from unittest import mock

import numpy as np
import torch

from latentrt.denoiser import timesteps_of_calls
from latentrt.prediction import PREDICTIONS
from latentrt.samplers import SAMPLERS
from latentrt.schedule import NoiseSchedule, alpha, sigma_table, spread

SPACINGS = ("leading", "trailing", "linspace")
CURVES = {"normal": {}, **{name: {f"use_{name}_sigmas": True} for name in ("karras", "exponential", "beta")}}
BETAS = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SCHEDULE = NoiseSchedule(1000, "scaled_linear", 0.00085, 0.012, "epsilon", False, "leading", 1, "one")
WIDTH, CENTRE = 0.5, 0.3


@dataclass(frozen=True)
class Case:
    """One combination: the sampler with its options, and diffusers' class with its config and arguments of step."""

    sampler: str
    scheduler: str
    prediction: str = "epsilon"
    spacing: str = "leading"
    sigmas: str = "normal"
    zero_terminal_snr: bool = False
    options: dict = field(default_factory=dict)
    config: dict = field(default_factory=dict)
    step: dict = field(default_factory=dict)
    start: int = 0

    def __str__(self):
        words = [self.sampler, self.prediction, self.spacing, self.sigmas, *(f"{k}={v}" for k, v in self.options.items())]
        return " ".join([*words, *(["zero-snr"] if self.zero_terminal_snr else []), *([f"from {self.start}"] if self.start else [])])

    @property
    def schedule(self):
        """The noise schedule on this package's side."""
        return replace(SCHEDULE, prediction=self.prediction, zero_terminal_snr=self.zero_terminal_snr)


def closed_form(case):
    """Returns the model for x0 ~ N(1.3, 0.5^2) or N(-0.7, 0.5^2), evenly: (x, timestep) -> prediction, float32 both."""
    table, prediction = sigma_table(case.schedule, clamped=False), case.prediction

    def model(x, timestep):
        t = timestep / 1000 if prediction == "flow_prediction" else None
        sigma = np.interp(timestep, np.arange(1000.0), table) if t is None else (t / (1 - t) if t < 1 else np.inf)
        scale = PREDICTIONS[prediction].scale(float(sigma))
        x = x.astype(np.float64) / scale
        signal, noise = alpha(float(sigma)), spread(float(sigma))
        width = WIDTH**2 * signal**2 + noise**2
        mean = CENTRE + np.tanh(signal * (x - signal * CENTRE) / width)
        x0 = (WIDTH**2 * signal * x + noise**2 * mean) / width
        eps = (x - signal * x0) / noise
        outputs = {"epsilon": eps, "v_prediction": signal * eps - noise * x0, "sample": x0, "flow_prediction": eps - x0}
        return outputs[prediction].astype(np.float32)

    return model


def difference(case, model, steps, shape=(1, 4, 6, 5), seed=0):
    """Returns the largest difference of the final latents over their largest value."""
    generator = np.random.default_rng(seed)
    noise = generator.standard_normal(shape).astype(np.float32)
    draws = generator.standard_normal((2 * steps + 2, *shape)).astype(np.float32)
    got, reference = ours(case, model, steps, noise, draws), theirs(case, model, steps, noise, draws)
    assert np.isfinite(reference).all(), f"the reference gives {reference.ravel()[:3]}"
    return float(np.abs(got - reference).max() / np.abs(reference).max())


def ours(case, model, steps, noise, draws):
    """Returns this package's final latents, unit variance at the end as at the start."""
    sampler = SAMPLERS[case.sampler]
    grid = sampler.grid(case.schedule, steps, case.spacing, case.sigmas)
    options = {name: option.default for name, option in sampler.options.items()} | case.options
    walk = partial(sampler.walk, **options)
    grid = grid.after(case.start)
    times = timesteps_of_calls(walk, grid)
    kind = PREDICTIONS[case.prediction]

    def denoise(x, sigma):
        scaled = (x * kind.scale(sigma)).astype(np.float32)
        return kind.denoised(x, model(scaled, times[sigma]), sigma)

    source = iter(draws)
    x = (grid.start * noise).astype(np.float32)
    if case.start:
        sigma = float(grid.sigmas[0])
        x = (alpha(sigma) * clean(noise) + spread(sigma) * noise).astype(np.float32)
    *_, (final, _) = walk(denoise, x, grid, lambda _sigma, _lower: next(source))
    last = float(grid.lowers[-1])
    return final / PREDICTIONS["epsilon"].scale(last)


def clean(noise):
    """Returns the image that a run part way starts from."""
    return np.sign(noise)[..., ::-1].copy()


def theirs(case, model, steps, noise, draws):
    """Returns diffusers' final latents, brought to unit variance where its scheduler keeps another scale."""
    module = importlib.import_module("diffusers")
    config = {**BETAS, "clip_sample": False, "prediction_type": case.prediction, "timestep_spacing": case.spacing, "steps_offset": 1}
    config |= CURVES.get(case.sigmas, {}) | case.config
    if case.zero_terminal_snr:
        config["rescale_betas_zero_snr"] = True
    kind = getattr(module, case.scheduler)
    known = accepted(kind)
    scheduler = kind(**{key: value for key, value in config.items() if key in known})
    source = iter(torch.from_numpy(draws))

    def draw(*_args, **_kwargs):
        return next(source).clone()

    with ExitStack() as stack:
        home = importlib.import_module(kind.__module__)
        if hasattr(home, "randn_tensor"):
            stack.enter_context(mock.patch.object(home, "randn_tensor", draw))
        return run(scheduler, case, model, steps, torch.from_numpy(noise), draw)


def run(scheduler, case, model, steps, noise, draw):
    """Returns the final latents of diffusers' loop, as its pipelines run it."""
    scheduler.set_timesteps(steps)
    times = scheduler.timesteps
    skipped = skipped_calls(scheduler, case)
    if hasattr(scheduler, "set_begin_index"):  # else it looks for the first timestep, and finds the last of equal ones
        scheduler.set_begin_index(skipped)
    x = noise * scheduler.init_noise_sigma if hasattr(scheduler, "init_noise_sigma") else noise
    if case.start:
        times = times[skipped:]
        x = scheduler.add_noise(torch.from_numpy(clean(noise.numpy())), noise, times[:1])
    if hasattr(scheduler, "noise_sampler"):
        scheduler.noise_sampler = draw
    for t in times:
        scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        prediction = torch.from_numpy(model(scaled.numpy(), float(t)))
        x = scheduler.step(prediction, t, x, **case.step).prev_sample
    return x.numpy()


def skipped_calls(scheduler, case):
    """Returns how many entries of the scheduler's timesteps are before step `case.start`."""
    return case.start * scheduler.order


def accepted(kind):
    """Returns the names of a scheduler's config."""
    return set(inspect.signature(kind.__init__).parameters)


def product(sampler, scheduler, *, sigmas=("normal",), predictions=("epsilon", "v_prediction"), snr=False, **options):
    """Returns the cases of one sampler: spacings x predictions, and every curve at one spacing."""
    grid = itertools.product(predictions, SPACINGS, sigmas)
    cases = [Case(sampler, scheduler, p, s, c, **options) for p, s, c in grid]
    if snr:
        cases += [Case(sampler, scheduler, "v_prediction", s, c, True, **options) for s in SPACINGS for c in sigmas]
    return cases


ALL = tuple(CURVES)
BOTH, THREE = ("epsilon", "v_prediction"), ("epsilon", "v_prediction", "sample")
CASES = [
    *product("ddim", "DDIMScheduler", predictions=THREE, snr=True),
    *[c for eta in (0.5, 1.0) for c in product("ddim", "DDIMScheduler", options={"eta": eta}, step={"eta": eta}, snr=True)],
    *product("ddim", "DDIMScheduler", config={"set_alpha_to_one": True}),
    *product("ddpm", "DDPMScheduler", predictions=THREE, snr=True),
    *product("pndm", "PNDMScheduler", predictions=("epsilon",), config={"skip_prk_steps": True, "set_alpha_to_one": True}),
    *[c for n in (1, 2, 3, 4) for c in product("lms", "LMSDiscreteScheduler", sigmas=ALL, options={"order": n}, step={"order": n})],
    *product("euler", "EulerDiscreteScheduler", sigmas=ALL, snr=True),
    *product("euler_a", "EulerAncestralDiscreteScheduler", snr=True),
    *product("heun", "HeunDiscreteScheduler", sigmas=ALL),
    *product("dpm2", "KDPM2DiscreteScheduler", sigmas=ALL),
    *product("dpm2_a", "KDPM2AncestralDiscreteScheduler", sigmas=ALL),
    *[
        c
        for n, s in ((1, "midpoint"), (2, "midpoint"), (2, "heun"), (3, "midpoint"), (3, "heun"))
        for c in product(
            "dpmpp_2m", "DPMSolverMultistepScheduler", sigmas=ALL, predictions=THREE, snr=True,
            options={"order": n, "solver": s}, config={"solver_order": n, "solver_type": s},
        )
    ],
    *product("dpmpp_sde", "DPMSolverSDEScheduler", sigmas=ALL),
    *[
        c
        for s in ("midpoint", "heun")
        for c in product(
            "dpmpp_2m_sde", "DPMSolverMultistepScheduler", sigmas=ALL, predictions=THREE, snr=True,
            options={"solver": s}, config={"algorithm_type": "sde-dpmsolver++", "solver_type": s},
        )
    ],
    *[
        c
        for n in (1, 2, 3)
        for s in ("bh1", "bh2")
        for c in product(
            "unipc", "UniPCMultistepScheduler", sigmas=ALL, predictions=THREE, snr=True,
            options={"order": n, "solver": s}, config={"solver_order": n, "solver_type": s},
        )
    ],
    *[
        c
        for n in (1, 2, 3)
        for c in product("deis", "DEISMultistepScheduler", sigmas=ALL, predictions=THREE, options={"order": n}, config={"solver_order": n})
    ],
    *product("lcm", "LCMScheduler", predictions=THREE, snr=True),
    *[c for g in (0.0, 0.3, 1.0) for c in product("tcd", "TCDScheduler", predictions=THREE, snr=True, options={"gamma": g}, step={"eta": g})],
    *[Case("flow_euler", "FlowMatchEulerDiscreteScheduler", "flow_prediction", sigmas=c) for c in ALL],
    Case("flow_heun", "FlowMatchHeunDiscreteScheduler", "flow_prediction"),
]
