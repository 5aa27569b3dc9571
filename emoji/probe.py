"""How often a model under training draws what it was asked for: a quick figure in latent space, for the log."""

import numpy as np
import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn

from emoji.captions import with_article
from emoji.examples import Examples
from emoji.latents import NAMES
from emoji.training import device

LABELS, STEPS, GUIDANCE, SEED = 48, 8, 3.0, 1


@torch.no_grad()
def nearest(model: nn.Module, shown: Examples, schedule: DDIMScheduler) -> float:
    """Return the share of some labels whose sample is nearest to that label's own latents on white.

    The labels and the noise are the same in every call.
    """
    rng = np.random.default_rng(SEED)
    numbers = rng.permutation(len(shown.rows))[:LABELS]
    ids = shown.ids([*(with_article(shown.rows[number].label) for number in numbers), *[""] * LABELS])
    noise = torch.randn((LABELS, 4, 16, 16), generator=torch.Generator().manual_seed(SEED))
    samples = sampled(model, ids.to(device()), noise.to(device()), schedule).flatten(1).cpu()
    references = torch.from_numpy(shown.stored.single[:, NAMES.index("white")]).float().flatten(1)
    found = torch.cdist(samples, references).argmin(dim=1)
    return float((found == torch.from_numpy(numbers)).float().mean())


def sampled(model: nn.Module, ids: Tensor, latents: Tensor, schedule: DDIMScheduler) -> Tensor:
    """Return samples of DDIM from noise; the second half of `ids` is what guidance leads away from."""
    schedule.set_timesteps(STEPS)
    for timestep in schedule.timesteps:
        both = model(torch.cat([latents, latents]), timestep, ids)
        asked, empty = both.chunk(2)
        latents = schedule.step(empty + GUIDANCE * (asked - empty), timestep, latents).prev_sample
    return latents
