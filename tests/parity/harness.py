"""diffusers' schedulers and this package's samplers on the same model, from the same noise, with the same draws.

A `Case` names both sides, `ours` and `theirs` run them in float32 or float64, a `Comparison` holds both. The model is
any function of the latents that it is given and a timestep: the exact one of a small distribution here, or the built-in
UNet.

The gates hold on every processor. In float64 both sides are the same but for the last bits (`SAME`). In float32 ours
rounds at most a stated multiple of what the reference itself rounds (`ROUNDING`).
"""

import functools
import importlib
import inspect
import itertools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from unittest import mock

import numpy as np
import torch

from latentrt.conditioning.text import encode
from latentrt.prompt import read
from latentrt.sampling.calls import walk
from latentrt.sampling.prediction import PREDICTIONS
from latentrt.sampling.samplers import SAMPLERS
from latentrt.sampling.schedule import NoiseSchedule, noise_scale, sigma_table, signal_scale, timestep_at

SPACINGS = ("leading", "trailing", "linspace")
CURVES = {"normal": {}, **{name: {f"use_{name}_sigmas": True} for name in ("karras", "exponential", "beta")}}
BETAS = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SCHEDULE = NoiseSchedule(1000, "scaled_linear", 0.00085, 0.012, "epsilon", False, "leading", 1, "one")
WIDTH, CENTRE = 0.5, 0.3
# How far apart both sides may be in float64, of the largest latent: float32 constants in the reference leave 5e-8.
SAME = 2e-7
# How many times the reference's rounding ours may be, and what neither can avoid: 80 units of float32's last place.
ROUNDING, FLOOR = 4, 1e-5


@dataclass(frozen=True)
class Case:
    """One combination: the sampler with its options, and diffusers' class with its config and arguments of step.

    start: the step at which a run from a noised image begins.
    """

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
        words = [self.sampler, self.prediction, self.spacing, self.sigmas]
        words += [f"{name} {value}" for name, value in self.options.items()]
        words += ["zero-snr"] * self.zero_terminal_snr + [f"from {self.start}"] * bool(self.start)
        return " ".join(words)

    @property
    def schedule(self):
        """The noise schedule on this package's side."""
        return replace(SCHEDULE, prediction=self.prediction, zero_terminal_snr=self.zero_terminal_snr)


def closed_form(case):
    """Returns the model for x0 ~ N(1.3, 0.5^2) or N(-0.7, 0.5^2), evenly: (x, timestep) -> prediction, of x's type."""
    table, prediction = sigma_table(case.schedule, clamped=False), case.prediction

    def model(x, timestep):
        t = timestep / 1000 if prediction == "flow_prediction" else None
        sigma = np.interp(timestep, np.arange(1000.0), table) if t is None else (t / (1 - t) if t < 1 else np.inf)
        scale = PREDICTIONS[prediction].scale(float(sigma))
        dtype, x = x.dtype, x.astype(np.float64) / scale
        signal, noise = signal_scale(float(sigma)), noise_scale(float(sigma))
        width = WIDTH**2 * signal**2 + noise**2
        mean = CENTRE + np.tanh(signal * (x - signal * CENTRE) / width)
        x0 = (WIDTH**2 * signal * x + noise**2 * mean) / width
        eps = (x - signal * x0) / noise
        outputs = {"epsilon": eps, "v_prediction": signal * eps - noise * x0, "sample": x0, "flow_prediction": eps - x0}
        return outputs[prediction].astype(dtype)

    return model


@dataclass(frozen=True)
class Comparison:
    """The final latents of one combination on both sides, each in float32 and float64, and how far apart they are.

    left_out: how many steps at the end are not taken. Distances are over the largest value; nan if the reference is.
    """

    case: Case
    model: object
    steps: int
    left_out: int = 0

    def side(self, run, dtype):
        """The final latents of `ours` or `theirs` in a float type."""
        noise, draws = material(self.steps)
        return run(self.case, self.model, self.steps, noise, draws, left_out=self.left_out, dtype=dtype)

    @cached_property
    def exact(self):
        """The final latents of this package in float64."""
        return self.side(ours, np.float64)

    @cached_property
    def reference(self):
        """The final latents of diffusers in float64."""
        return self.side(theirs, np.float64)

    @property
    def apart(self):
        """Distance of both sides in float64."""
        return distance(self.exact, self.reference)

    @cached_property
    def rounding(self):
        """Distance of this package's float32 from its float64."""
        return distance(self.side(ours, np.float32), self.exact)

    @cached_property
    def their_rounding(self):
        """Distance of diffusers' float32 from its float64."""
        return distance(self.side(theirs, np.float32), self.reference)

    @property
    def close(self):
        """True if both gates hold; where rounding makes the reference NaN, ours is held to what neither can avoid."""
        allowed = ROUNDING * np.nan_to_num(self.their_rounding, nan=0.0) + FLOOR
        return self.apart <= SAME and self.rounding <= allowed

    def __str__(self):
        return f"{self.apart:.1e} apart, rounding {self.rounding:.1e} (theirs {self.their_rounding:.1e})"


def distance(got, reference):
    """Returns the largest difference over the reference's largest value."""
    return float(np.abs(got - reference).max() / np.abs(reference).max())


def material(steps, shape=(1, 4, 6, 5)):
    """Returns the initial noise, and the noise for every draw that a run may ask for."""
    generator = np.random.default_rng(0)
    noise = generator.standard_normal(shape).astype(np.float32)
    return noise, generator.standard_normal((2 * steps + 2, *shape)).astype(np.float32)


def ours(case, model, steps, noise, draws, *, left_out=0, dtype=np.float32):
    """Returns this package's final latents. left_out: how many steps at the end are not taken."""
    sampler = SAMPLERS[case.sampler]
    grid = sampler.grid(case.schedule, steps, case.spacing, case.sigmas)
    options = {name: option.default for name, option in sampler.options.items()} | case.options
    bound = partial(sampler.steps, **options)
    grid = grid.sliced(case.start)
    times = walk(bound, grid).levels
    kind = PREDICTIONS[case.prediction]

    def denoise(x, sigma):
        scaled = (x * kind.scale(sigma)).astype(dtype)
        return kind.denoised(x, model(scaled, times[sigma]).astype(dtype), sigma)

    source = iter(draws.astype(dtype))
    x = (grid.start * noise).astype(dtype)
    if case.start:
        sigma = float(grid.sigmas[0])
        x = (signal_scale(sigma) * clean(noise) + noise_scale(sigma) * noise).astype(dtype)
    run = bound(denoise, x, grid, lambda _sigma, _lower: next(source))
    *_, (final, _) = itertools.islice(run, len(grid.sigmas) - left_out)
    return final


def clean(noise):
    """Returns the image that a run part way starts from."""
    return np.sign(noise)[..., ::-1].copy()


def theirs(case, model, steps, noise, draws, *, left_out=0, dtype=np.float32):
    """Returns diffusers' final latents."""
    noise, draws = (torch.from_numpy(array.astype(dtype)) for array in (noise, draws))
    source = iter(draws)

    def draw(*_args, **_kwargs):
        return next(source).clone()

    with ExitStack() as stack:
        stack.enter_context(precision(dtype))
        scheduler = scheduler_of(case)
        home = importlib.import_module(type(scheduler).__module__)
        if hasattr(home, "randn_tensor"):
            stack.enter_context(mock.patch.object(home, "randn_tensor", draw))
        scheduler.set_timesteps(steps)
        scheduler.timesteps = agreed(scheduler, case, steps)
        return run(scheduler, case, model, noise, draw, left_out * scheduler.order)


def scheduler_of(case):
    """Returns diffusers' scheduler of a case, no timesteps laid out yet."""
    config = {
        **BETAS,
        "clip_sample": False,
        "prediction_type": case.prediction,
        "timestep_spacing": case.spacing,
        "steps_offset": 1,
    }
    config |= CURVES.get(case.sigmas, {}) | case.config
    if case.zero_terminal_snr:
        config["rescale_betas_zero_snr"] = True
    kind = getattr(importlib.import_module("diffusers"), case.scheduler)
    known = accepted(kind)
    with mock.patch.object(kind, "set_timesteps", no_timesteps):
        return kind(**{key: value for key, value in config.items() if key in known})


@contextmanager
def precision(dtype) -> Iterator[None]:
    """The reference computes in `dtype`: it names float32 in many places, which is float64 then."""
    if dtype == np.float32:
        yield
        return
    default = torch.get_default_dtype()
    with mock.patch.object(torch, "float32", torch.float64), mock.patch.object(np, "float32", np.float64):
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(default)


def agreed(scheduler, case, steps):
    """Returns the reference's timesteps, but ours where it cuts a curve's timesteps to whole ones and rounding decides.

    The level of training timestep 999 comes out as 998.99997 or as 999, by the processor and the type, and is cut.
    """
    times = scheduler.timesteps
    if case.sigmas not in ("exponential", "beta") or times.is_floating_point():
        return times
    grid = SAMPLERS[case.sampler].grid(case.schedule, steps, case.spacing, case.sigmas)
    uncut = timestep_at(grid.sigmas, grid.table)
    edge = (np.abs(uncut - np.round(uncut)) < 1e-3) & (np.abs(grid.timesteps - times.numpy()) <= 1)
    return torch.where(torch.from_numpy(edge), torch.from_numpy(grid.timesteps).to(times.dtype), times)


def no_timesteps(scheduler, *_args, **_kwargs):
    """Stands where some lay out 1000 steps when they are made, which takes most of a second."""
    scheduler.sigmas = torch.zeros(1)


def run(scheduler, case, model, noise, draw, left_out):
    """Returns the final latents of diffusers' loop, as its pipelines run it."""
    times = scheduler.timesteps[: len(scheduler.timesteps) - left_out]
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


def unet_model(pipeline, prompt="a red apple"):
    """Returns the pipeline's UNet under one prompt, unguided: (latents, timestep) -> prediction."""
    prompts = [read(prompt, pipeline.tokenizer, 1)]
    [text] = encode(pipeline.call, pipeline.bundle.manifest, prompts, 1).values()
    kv = text.sequences["cross_kv"]

    @functools.cache
    def bias(timestep):
        return pipeline.call("time_bias", timestep=np.array([timestep]))["time_bias"]

    def model(x, timestep):
        rows = len(x)
        feeds = {"time_bias": np.repeat(bias(timestep), rows, 0), "cross_kv": np.repeat(kv, rows, 0)}
        return pipeline.call("unet", sample=x, **feeds)["prediction"].astype(x.dtype)

    return model
