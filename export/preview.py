"""The linear map from latents to RGB that a preview uses, fitted to the model's own encoder."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from latentrt.export.parts import generator, vae_factor

PICTURES, SIDE = 16, 16


def fit_to_rgb(vae: AutoencoderKL) -> tuple[tuple[float, float, float], ...]:
    """Returns rows of (red, green, blue), one a latent channel and one constant: least squares on smooth colours.

    Pictures of random colour fields are encoded; each latent is matched to the mean colour of the pixels it covers.
    """
    factor = vae_factor(vae)
    fields = torch.rand(PICTURES, 3, 4, 4, generator=generator()) * 2 - 1
    pictures = F.interpolate(fields, size=SIDE * factor, mode="bilinear", align_corners=True)
    with torch.no_grad():
        latents = vae.encode(pictures).latent_dist.mean * vae.config.scaling_factor
    samples = latents.permute(0, 2, 3, 1).reshape(-1, latents.shape[1])
    colours = F.avg_pool2d(pictures, factor).permute(0, 2, 3, 1).reshape(-1, 3)
    ones = torch.ones(len(samples), 1)
    solution = torch.linalg.lstsq(torch.cat([samples, ones], 1).double(), colours.double()).solution
    return tuple((r, g, b) for r, g, b in solution.tolist())
