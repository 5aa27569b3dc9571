"""Writes brownian_noise.json, from diffusers 0.42.1 and torchsde 0.2.6.

    python tests/runtime/sampling/make_brownian_goldens.py

The test that reads it runs where neither is installed, nor torch.
"""

import hashlib
import json
from pathlib import Path

import diffusers
import torch
import torchsde
from diffusers.schedulers.scheduling_dpmsolver_sde import BrownianTreeNoiseSampler

GOLDENS = Path(__file__).parent / "brownian_noise.json"
CASES = [  # seed, shape, levels from the greatest to the least
    (0, (4, 8, 8), (14.614642, 6.0, 1.5, 0.2921, 0.029167)),
    (2**32 + 5, (3, 2, 2), (80.0, 0.75, 0.002)),
    (2**64 - 1, (4, 5, 13), (4096.0, 1024.5, 1.0)),
]


def golden(seed: int, shape: tuple[int, ...], levels: tuple[float, ...]) -> dict[str, object]:
    """Returns the noise of each step: its first three values, exact in float64, and the sha256 of its bytes."""
    sampler = BrownianTreeNoiseSampler(torch.zeros(shape), levels[-1], levels[0], seed=seed)
    noises = [sampler(sigma, sigma_next).numpy() for sigma, sigma_next in zip(levels, levels[1:], strict=False)]
    return {
        "seed": seed,
        "shape": shape,
        "levels": levels,
        "first": [noise.reshape(-1)[:3].tolist() for noise in noises],
        "sha256": [hashlib.sha256(noise.astype("<f4").tobytes()).hexdigest() for noise in noises],
    }


if __name__ == "__main__":
    made_with = {"diffusers": diffusers.__version__, "torch": torch.__version__, "torchsde": torchsde.__version__}
    # A line an entry: differences stay readable.
    entries = ",\n".join(json.dumps(golden(*case)) for case in CASES)
    GOLDENS.write_text(f'{{\n"made_with": {json.dumps(made_with)},\n"cases": [\n{entries}\n]\n}}\n')
