"""diffusers' schedulers and this package's samplers on the same model, from the same noise, with the same draws.

A `Case` names both sides; `difference` runs them. The model is any function of the latents that it is given and a
timestep: the exact one of a small distribution here, or the built-in UNet.
"""

import functools
import importlib
import inspect
import itertools
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from unittest import mock

import numpy as np
import torch

from latentrt.conditioning import encode
from latentrt.denoiser import timesteps_of_calls
from latentrt.prediction import PREDICTIONS
from latentrt.prompt import read
from latentrt.samplers import SAMPLERS
from latentrt.schedule import NoiseSchedule, alpha, sigma_table, spread

SPACINGS = ("leading", "trailing", "linspace")
CURVES = {"normal": {}, **{name: {f"use_{name}_sigmas": True} for name in ("karras", "exponential", "beta")}}
BETAS = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SCHEDULE = NoiseSchedule(1000, "scaled_linear", 0.00085, 0.012, "epsilon", False, "leading", 1, "one")
WIDTH, CENTRE = 0.5, 0.3


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


def difference(case, model, steps, shape=(1, 4, 6, 5), **changes):
    """Returns the largest difference of the final latents over their largest value; nan if the reference gives that.

    changes: to how the reference is run, see `theirs`.
    """
    noise, draws = material(steps, shape)
    left_out = changes.get("left_out", 0)
    got = ours(case, model, steps, noise, draws, left_out=left_out)
    reference = theirs(case, model, steps, noise, draws, **changes)
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
    walk = partial(sampler.walk, **options)
    grid = grid.after(case.start)
    times = timesteps_of_calls(walk, grid)
    kind = PREDICTIONS[case.prediction]

    def denoise(x, sigma):
        scaled = (x * kind.scale(sigma)).astype(np.float32)
        return kind.denoised(x, model(scaled, times[sigma]).astype(dtype), sigma)

    source = iter(draws)
    x = (grid.start * noise).astype(dtype)
    if case.start:
        sigma = float(grid.sigmas[0])
        x = (alpha(sigma) * clean(noise) + spread(sigma) * noise).astype(dtype)
    path = walk(denoise, x, grid, lambda _sigma, _lower: next(source))
    *_, (final, _) = itertools.islice(path, len(grid.sigmas) - left_out)
    return final


def clean(noise):
    """Returns the image that a run part way starts from."""
    return np.sign(noise)[..., ::-1].copy()


def theirs(case, model, steps, noise, draws, *, left_out=0, exact_tables=False):
    """Returns diffusers' final latents. exact_tables: let it compute with its sigmas in float64."""
    module = importlib.import_module("diffusers")
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
    kind = getattr(module, case.scheduler)
    known = accepted(kind)
    with mock.patch.object(kind, "set_timesteps", no_timesteps):
        scheduler = kind(**{key: value for key, value in config.items() if key in known})
    source = iter(torch.from_numpy(draws))

    def draw(*_args, **_kwargs):
        return next(source).clone()

    with ExitStack() as stack:
        home = importlib.import_module(kind.__module__)
        if hasattr(home, "randn_tensor"):
            stack.enter_context(mock.patch.object(home, "randn_tensor", draw))
        scheduler.set_timesteps(steps)
        if exact_tables:
            scheduler.sigmas = scheduler.sigmas.double()
        return run(scheduler, case, model, torch.from_numpy(noise), draw, left_out * scheduler.order)


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
    [kv] = (encoded.cross_kv for encoded in encode(pipeline.call, pipeline.bundle.manifest.text, prompts, 1).values())

    @functools.cache
    def bias(timestep):
        return pipeline.call("time_bias", timestep=np.array([timestep]))["time_bias"]

    def model(x, timestep):
        rows = len(x)
        feeds = {"time_bias": np.repeat(bias(timestep), rows, 0), "cross_kv": np.repeat(kv, rows, 0)}
        return pipeline.call("unet", sample=x, **feeds)["prediction"]

    return model
