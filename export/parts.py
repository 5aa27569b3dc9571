"""The components of a checkpoint, one after another: module, specs, and what the original computes on fixed inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel

from latentrt.export.load import Checkpoint
from latentrt.export.split import CrossKV, HoistedUNet, TextEncoder, TimeBias, VaeDecoder, VaeEncoder
from latentrt.tensors import TensorSpec

# (batch, height, width) in latents: even sides, and sides that every level rounds.
PROBES = ((2, 16, 24), (1, 9, 13))


@dataclass(frozen=True)
class Probe:
    """Fixed random inputs and what the original module makes of them, in float32."""

    feeds: Mapping[str, Tensor]
    references: tuple[Tensor, ...]


@dataclass(frozen=True)
class Part:
    """One component to export. `build` makes the module to trace, of which the original may not survive the making."""

    name: str
    build: Callable[[], nn.Module]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    probes: tuple[Probe, ...]


def parts_of(checkpoint: Checkpoint) -> Iterator[Part]:
    """Yields every component in the order in which the runtime calls them; a module is loaded when its turn comes."""
    yield from text_parts(checkpoint.load_text_encoder())
    yield from unet_parts(checkpoint.load_unet())
    yield from vae_parts(checkpoint.load_vae())


def text_parts(model: CLIPTextModel) -> Iterator[Part]:
    """The text encoder, probed at its last layer, the one before and its first.

    The probes are random tokens: the mask lets each position see what stands before it.
    """
    config, rows, layers = model.config, 3, model.config.num_hidden_layers
    ids = torch.randint(0, config.vocab_size, (rows, config.max_position_embeddings), generator=generator())
    skips = sorted({1, min(2, layers), layers})
    yield Part(
        "text_encoder",
        lambda: TextEncoder(model),
        (
            TensorSpec("input_ids", "int64", ("batch", config.max_position_embeddings)),
            TensorSpec("clip_skip", "int64", (1,)),
        ),
        (TensorSpec("context", "float32", ("batch", config.max_position_embeddings, config.hidden_size)),),
        (text_probe(model, ids, 1), *(text_probe(model, ids[:1], skip) for skip in skips)),
    )


def text_probe(model: CLIPTextModel, ids: Tensor, clip_skip: int) -> Probe:
    """Token ids and what the original makes of them: for a `clip_skip` of 1 its output, else an earlier layer's."""
    with torch.no_grad():
        encoded = model(ids, output_hidden_states=True)
        reference = encoded.last_hidden_state
        if clip_skip > 1:
            reference = model.final_layer_norm(encoded.hidden_states[-clip_skip])
    return Probe({"input_ids": ids, "clip_skip": torch.tensor([clip_skip])}, (reference,))


def unet_parts(unet: UNet2DConditionModel) -> Iterator[Part]:
    """The hoisted parts of the UNet and the rest of it, held against the whole: the split itself is under the gate."""
    config = unet.config
    originals = [unet_probe(unet, *probe) for probe in PROBES]
    cross_kv, time_bias = CrossKV(unet).eval(), TimeBias(unet).eval()
    kv_width, bias_width = cross_kv.project.out_features, time_bias.project.out_features
    kv, bias, whole = [], [], []
    with torch.no_grad():
        for feeds, reference in originals:
            packed, biases = cross_kv(feeds["context"]), time_bias(feeds["timestep"])
            kv.append(Probe({"context": feeds["context"]}, (packed,)))
            bias.append(Probe({"timestep": feeds["timestep"]}, (biases,)))
            whole.append(Probe({"sample": feeds["sample"], "time_bias": biases, "cross_kv": packed}, (reference,)))
    kv_spec = TensorSpec("cross_kv", "float32", ("batch", "tokens", kv_width))
    context_spec = TensorSpec("context", "float32", ("batch", "tokens", config.cross_attention_dim))
    yield Part("cross_kv", lambda: cross_kv, (context_spec,), (kv_spec,), tuple(kv))
    timestep_spec = TensorSpec("timestep", "float32", ("n",))
    biases_spec = TensorSpec("time_bias", "float32", ("n", bias_width))
    yield Part("time_bias", lambda: time_bias, (timestep_spec,), (biases_spec,), tuple(bias))
    sample_spec = TensorSpec("sample", "float32", ("batch", config.in_channels, "height", "width"))
    bias_spec = TensorSpec("time_bias", "float32", ("batch", bias_width))
    prediction_spec = TensorSpec("prediction", "float32", ("batch", config.out_channels, "height", "width"))
    inputs = (sample_spec, bias_spec, kv_spec)
    yield Part("unet", lambda: HoistedUNet(unet), inputs, (prediction_spec,), tuple(whole))


def unet_probe(unet: UNet2DConditionModel, batch: int, height: int, width: int) -> tuple[dict[str, Tensor], Tensor]:
    """Inputs of the undivided UNet and its output for them."""
    random = generator()
    feeds = {
        "sample": torch.randn(batch, unet.config.in_channels, height, width, generator=random),
        "timestep": torch.rand(batch, generator=random) * 999,
        "context": torch.randn(batch, 77, unet.config.cross_attention_dim, generator=random),
    }
    with torch.no_grad():
        return feeds, unet(feeds["sample"], feeds["timestep"], feeds["context"]).sample


def vae_parts(vae: AutoencoderKL) -> Iterator[Part]:
    """Both halves of the autoencoder."""
    config, factor = vae.config, vae_factor(vae)
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
    yield Part("vae_decoder", lambda: VaeDecoder(vae), (latents_spec,), (image_spec,), tuple(decoded))
    yield Part("vae_encoder", lambda: VaeEncoder(vae), (image_spec,), (mean_spec, variance_spec), tuple(encoded))


def vae_factor(vae: AutoencoderKL) -> int:
    """Pixels a side that one latent covers: every level but the last halves the picture."""
    return int(2 ** (len(vae.config.block_out_channels) - 1))


def generator() -> torch.Generator:
    """The same random numbers for every component, every time."""
    return torch.Generator().manual_seed(0)
