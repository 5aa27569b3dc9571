"""The autoencoder as two components: its decoder and its encoder."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from diffusers import AutoencoderKL

from latentrt.tensors import TensorSpec
from latentrt_export.networks.component import PROBES, Part, Probe, generator, pixels_of
from latentrt_export.networks.hoist import VaeDecoder, VaeEncoder


def vae_parts(vae: AutoencoderKL, *, float32: bool = False) -> Iterator[Part]:
    """Both halves of the autoencoder. float32: whether they stay that, unless the config says they need not."""
    config, factor = vae.config, pixels_of(vae.config)
    float32 = float32 and config.force_upcast
    decoded, encoded = [], []
    for batch, height, width in PROBES:
        random = generator()
        latents = torch.randn(batch, config.latent_channels, height, width, generator=random) / config.scaling_factor
        image = torch.rand(batch, config.in_channels, factor * height, factor * width, generator=random) * 2 - 1
        with torch.no_grad():
            posterior = vae.encode(image).latent_dist
            decoded.append(Probe({"latents": latents}, (vae.decode(latents).sample,)))
            encoded.append(Probe({"image": image}, (posterior.mean, posterior.logvar)))
    image_spec = TensorSpec("image", "float32", ("batch", config.in_channels, f"{factor}*height", f"{factor}*width"))
    latent_shape = ("batch", config.latent_channels, "height", "width")
    latents_spec, mean_spec, variance_spec = (
        TensorSpec(name, "float32", latent_shape) for name in ("latents", "mean", "log_variance")
    )
    yield Part(
        "vae_decoder",
        lambda: VaeDecoder(vae),
        (latents_spec,),
        (image_spec,),
        tuple(decoded),
        float32,
        role="vae_decoder",
    )
    encoder_outputs = mean_spec, variance_spec
    yield Part(
        "vae_encoder",
        lambda: VaeEncoder(vae),
        (image_spec,),
        encoder_outputs,
        tuple(encoded),
        float32,
        role="vae_encoder",
    )
