"""Autoencoders, of KL and of VQ models (van den Oord et al. 2017): their halves as they are traced, and their calls."""

from __future__ import annotations

from typing import TypeAlias

import torch
from diffusers import AutoencoderKL, VQModel
from torch import Tensor, nn

from latentrt_export.networks.hoist import plain

Autoencoder: TypeAlias = AutoencoderKL | VQModel


def latent_channels(vae: Autoencoder) -> int:
    """The channels of the latents that a denoiser works on."""
    return int(vae.config.get("vq_embed_dim") or vae.config.latent_channels)


def decode(vae: Autoencoder, latents: Tensor) -> Tensor:
    """The picture of latents; those of a VQ model are taken for quantized."""
    options = {"force_not_quantize": True} if isinstance(vae, VQModel) else {}
    with torch.no_grad():
        image: Tensor = vae.decode(latents, **options).sample
    return image


def encode(vae: Autoencoder, image: Tensor) -> tuple[Tensor, ...]:
    """The moments of an image's latents: the mean and the logarithm of the variance; of a VQ model the latents."""
    with torch.no_grad():
        found = vae.encode(image)
    return (found.latents,) if isinstance(vae, VQModel) else (found.latent_dist.mean, found.latent_dist.logvar)


def scaling_of(vae: Autoencoder) -> float:
    """The factor that brings the VAE's latents to unit variance."""
    return float(vae.config.scaling_factor)


class VaeDecoder(nn.Module):
    """latents (batch, channels, h, w), already divided by the scaling factor -> image (batch, 3, 8h, 8w) in [-1, 1]."""

    def __init__(self, vae: Autoencoder) -> None:
        super().__init__()
        self.post_quant, self.decoder = vae.post_quant_conv or nn.Identity(), plain(vae.decoder)

    def forward(self, latents: Tensor) -> Tensor:
        """The decoded image; values may leave [-1, 1] a little."""
        image: Tensor = self.decoder(self.post_quant(latents))
        return image


class VaeEncoder(nn.Module):
    """image (batch, 3, 8h, 8w) in [-1, 1] -> mean and log-variance of the latents, (batch, channels, h, w) each."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.encoder, self.quant = plain(vae.encoder), vae.quant_conv or nn.Identity()

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The posterior's parameters, log-variance clamped as diffusers' DiagonalGaussianDistribution does."""
        mean, log_variance = self.quant(self.encoder(image)).chunk(2, dim=1)
        return mean, log_variance.clamp(-30, 20)


class VqEncoder(nn.Module):
    """image (batch, 3, height, width) in [-1, 1] -> latents before quantization, (batch, channels, h, w)."""

    def __init__(self, vae: VQModel) -> None:
        super().__init__()
        self.encoder, self.quant = plain(vae.encoder), vae.quant_conv

    def forward(self, image: Tensor) -> Tensor:
        """The latents."""
        latents: Tensor = self.quant(self.encoder(image))
        return latents


class Quantizer(nn.Module):
    """The nearest vectors of a codebook: vectors (vectors, channels) -> the same shape; van den Oord et al. (2017).

    The nearest e to z has the largest 2 z e - |e|^2.
    """

    def __init__(self, codebook: Tensor) -> None:
        super().__init__()
        self.codebook = nn.Parameter(codebook, requires_grad=False)
        self.weight = nn.Parameter(2 * codebook.T, requires_grad=False)
        self.bias = nn.Parameter(-codebook.square().sum(1), requires_grad=False)

    def forward(self, vectors: Tensor) -> Tensor:
        """The nearest vectors."""
        return self.codebook[(vectors @ self.weight + self.bias).argmax(-1)]
