"""Autoencoders, of KL and of VQ models (van den Oord et al. 2017): their halves as they are traced, and their calls.

Latents of FLUX.2's autoencoder are patches of its own, 2x2 as channels, of unit variance by the statistics of a batch
norm: `_encode_vae_image` and the end of `Flux2KleinPipeline.__call__` of diffusers 0.42.1.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, AutoencoderKLFlux2, Flux2KleinPipeline, VQModel
from torch import Tensor, nn

from latentrt_export.networks.hoist import plain

Autoencoder: TypeAlias = AutoencoderKL | AutoencoderKLFlux2 | VQModel


def latent_channels(vae: Autoencoder) -> int:
    """The channels of the latents that a denoiser works on."""
    own = vae.config.get("vq_embed_dim") or vae.config.latent_channels
    return int(own * math.prod(vae.config.get("patch_size") or (1,)))


def decode(vae: Autoencoder, latents: Tensor) -> Tensor:
    """The picture of latents; those of a VQ model are taken for quantized."""
    options = {"force_not_quantize": True} if isinstance(vae, VQModel) else {}
    with torch.no_grad():
        if isinstance(vae, AutoencoderKLFlux2):
            mean, deviation = statistics(vae)
            latents = Flux2KleinPipeline._unpatchify_latents(latents * deviation + mean)
        image: Tensor = vae.decode(latents, **options).sample
    return image


def encode(vae: Autoencoder, image: Tensor) -> tuple[Tensor, ...]:
    """The moments of an image's latents: the mean and the logarithm of the variance; of a VQ model the latents."""
    with torch.no_grad():
        found = vae.encode(image)
    if isinstance(vae, VQModel):
        return (found.latents,)
    moments = found.latent_dist.mean, found.latent_dist.logvar
    if not isinstance(vae, AutoencoderKLFlux2):
        return moments
    mean, deviation = statistics(vae)
    patches, variances = map(Flux2KleinPipeline._patchify_latents, moments)
    return (patches - mean) / deviation, variances - 2 * deviation.log()


def scaling_of(vae: Autoencoder) -> float:
    """The factor that brings the VAE's latents to unit variance."""
    return float(vae.config.get("scaling_factor", 1.0))


class Statistics(nn.Module):
    """The statistics of a batch norm, without the count that training keeps beside them."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(channels, device="meta"))
        self.register_buffer("running_var", torch.ones(channels, device="meta"))


def statistics(vae: AutoencoderKLFlux2) -> tuple[Tensor, Tensor]:
    """The mean and the deviation of the channels of patches, (1, channels, 1, 1) each."""
    norm = vae.bn
    mean, variance = (one.detach().view(1, -1, 1, 1) for one in (norm.running_mean, norm.running_var))
    return mean, torch.sqrt(variance + vae.config.batch_norm_eps)


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


class PatchDecoder(VaeDecoder):
    """latents (batch, channels, h, w) of unit variance -> image (batch, 3, 16h, 16w) in [-1, 1]."""

    centre: Tensor
    spread: Tensor

    def __init__(self, vae: AutoencoderKLFlux2) -> None:
        super().__init__(vae)
        mean, deviation = statistics(vae)
        self.register_buffer("centre", mean)
        self.register_buffer("spread", deviation)
        self.side = vae.config.patch_size[0]

    def forward(self, latents: Tensor) -> Tensor:
        """The decoded image; values may leave [-1, 1] a little."""
        return super().forward(F.pixel_shuffle(latents * self.spread + self.centre, self.side))


class PatchEncoder(VaeEncoder):
    """image (batch, 3, 16h, 16w) in [-1, 1] -> mean and log-variance of the latents, (batch, channels, h, w) each."""

    centre: Tensor
    spread: Tensor
    shift: Tensor

    def __init__(self, vae: AutoencoderKLFlux2) -> None:
        super().__init__(vae)
        mean, deviation = statistics(vae)
        self.register_buffer("centre", mean)
        self.register_buffer("spread", deviation)
        self.register_buffer("shift", 2 * deviation.log())
        self.side = vae.config.patch_size[0]

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The parameters of the posterior of latents of unit variance."""
        mean, log_variance = (F.pixel_unshuffle(one, self.side) for one in super().forward(image))
        return (mean - self.centre) / self.spread, log_variance - self.shift


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
