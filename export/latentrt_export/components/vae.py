"""The autoencoder as components: decoder, encoder, and the quantizer of VQ models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderKLFlux2, VQModel
from torch import Tensor, nn

from latentrt.tensors import TensorSpec
from latentrt_export.networks.autoencoder import (
    Autoencoder,
    PatchDecoder,
    PatchEncoder,
    Quantizer,
    VaeDecoder,
    VaeEncoder,
    VqEncoder,
    decode,
    encode,
    latent_channels,
    scaling_of,
)
from latentrt_export.networks.component import PROBES, Part, Probe, generator, pixels_of

# What decodes and what encodes, as it is traced.
HALVES: Mapping[type, tuple[Callable[[Any], nn.Module], Callable[[Any], nn.Module]]] = {
    AutoencoderKL: (VaeDecoder, VaeEncoder),
    AutoencoderKLFlux2: (PatchDecoder, PatchEncoder),
    VQModel: (VaeDecoder, VqEncoder),
}
# Vectors of a quantizer's probes: a stripe, and one.
VECTORS = (48, 1)


def vae_parts(vae: Autoencoder, *, float32: bool = False) -> Iterator[Part]:
    """Yields the quantizer of a VQ model, the decoder and the encoder.

    float32: decoder and encoder keep float32, unless the config says that they need not. The quantizer always does:
    in half precision, it picks another vector at some places in a hundred.
    """
    config, quantized = vae.config, isinstance(vae, VQModel)
    float32 = float32 and config.get("force_upcast", True)
    if quantized:
        yield quantizer_part(vae)
    factor, channels = pixels_of(config), latent_channels(vae)
    latent_shape = ("batch", channels, "height", "width")
    image = TensorSpec("image", "float32", ("batch", config.in_channels, f"{factor}*height", f"{factor}*width"))
    latents = TensorSpec("latents", "float32", latent_shape)
    moments = tuple(
        TensorSpec(name, "float32", latent_shape) for name in (("mean",) if quantized else ("mean", "log_variance"))
    )
    decoded = tuple(Probe({"latents": one}, (decode(vae, one),)) for one in random_latents(vae))
    encoded = tuple(Probe({"image": one}, encode(vae, one)) for one in random_images(vae))
    decoder, encoder = HALVES[type(vae)]
    yield Part("vae_decoder", lambda: decoder(vae), (latents,), (image,), decoded, float32, role="vae_decoder")
    yield Part("vae_encoder", lambda: encoder(vae), (image,), moments, encoded, float32, role="vae_encoder")


def random_latents(vae: Autoencoder) -> Iterator[Tensor]:
    """Yields latents as the decoder takes them."""
    for batch, height, width in PROBES:
        noise = torch.randn(batch, latent_channels(vae), height, width, generator=generator())
        yield noise / scaling_of(vae)


def random_images(vae: Autoencoder) -> Iterator[Tensor]:
    """Yields pictures in [-1, 1]."""
    factor = pixels_of(vae.config)
    for batch, height, width in PROBES:
        shape = batch, vae.config.in_channels, factor * height, factor * width
        yield torch.rand(shape, generator=generator()) * 2 - 1


def quantizer_part(vae: VQModel) -> Part:
    """The look-up of the nearest vector in the codebook."""
    codebook = vae.quantize.embedding.weight.detach()
    channels, probes = codebook.shape[1], []
    for count in VECTORS:
        vectors = torch.randn(count, channels, generator=generator()) * codebook.std()
        with torch.no_grad():
            quantized, _, _ = vae.quantize(vectors.T[None, :, :, None])
        probes.append(Probe({"vectors": vectors}, (quantized[0, :, :, 0].T,)))
    taken, made = (TensorSpec(name, "float32", ("vectors", channels)) for name in ("vectors", "quantized"))
    return Part("quantizer", lambda: Quantizer(codebook), (taken,), (made,), tuple(probes), True, role="quantizer")
