"""Writes noise_schedules.json, from diffusers 0.42.1: python tests/runtime/sampling/make_goldens.py

The tests that read it run where neither torch nor diffusers is installed.
"""

import json
import warnings
from pathlib import Path

import diffusers
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler

GOLDENS = Path(__file__).parent / "noise_schedules.json"
CLASSES = {"ddim": DDIMScheduler, "euler": EulerDiscreteScheduler, "dpmpp_2m": DPMSolverMultistepScheduler}
STABLE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SCHEDULES = {
    "linear": {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
    "scaled_linear": STABLE,
    "squaredcos_cap_v2": {"beta_schedule": "squaredcos_cap_v2", "beta_start": 0.0001, "beta_end": 0.02},
    "scaled_linear zero": {**STABLE, "rescale_betas_zero_snr": True},
}
PLACES = [0, 1, 2, 10, 100, 250, 500, 750, 900, 990, 997, 998, 999]
STEPS = [1, 2, 5, 20, 50]


def alphas(scheduler: DDIMScheduler) -> dict[int, float]:
    """Returns the cumulative products at a few timesteps."""
    return dict(zip(PLACES, scheduler.alphas_cumprod[PLACES].tolist(), strict=True))


def grid(sampler: str, steps: int, spacing: str, sigmas: str, zero: bool) -> dict[str, list[float]]:
    """Returns the timesteps, and the sigmas with the last zero where the scheduler keeps them."""
    karras = {} if sampler == "ddim" else {"use_karras_sigmas": sigmas == "karras"}
    scheduler = CLASSES[sampler](
        **STABLE, timestep_spacing=spacing, steps_offset=1, rescale_betas_zero_snr=zero, **karras
    )
    scheduler.set_timesteps(steps)
    levels = {} if sampler == "ddim" else {"sigmas": scheduler.sigmas.tolist()}
    return {"timesteps": scheduler.timesteps.tolist(), **levels}


def goldens() -> dict[str, dict[str, object]]:
    """Returns everything that the tests compare with."""
    grids = {}
    for sampler in CLASSES:
        for sigmas in ("normal", "karras")[: 1 if sampler == "ddim" else 2]:
            for spacing in ("leading", "trailing", "linspace"):
                for zero in (False, True):
                    for steps in STEPS:
                        key = f"{sampler} {sigmas} {spacing} {'zero' if zero else 'plain'} {steps}"
                        grids[key] = grid(sampler, steps, spacing, sigmas, zero)
    return {
        "made_with": {"diffusers": diffusers.__version__, "torch": torch.__version__},
        "alphas_cumprod": {name: alphas(DDIMScheduler(**config)) for name, config in SCHEDULES.items()},
        "grids": grids,
    }


def lines(entries: dict[str, object]) -> str:
    """Returns a JSON object's inside, a line an entry."""
    return ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in entries.items())


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy on torch's __array__
        content = goldens()
    # A line an entry: differences stay readable.
    sections = ",\n".join(f'"{name}": {{\n{lines(entries)}\n}}' for name, entries in content.items())
    GOLDENS.write_text(f"{{\n{sections}\n}}\n")
