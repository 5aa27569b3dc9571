"""The components of a checkpoint, one after another: module, specs, and what the original computes on fixed inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from latentrt.export.families import Encoder
from latentrt.export.load import Checkpoint
from latentrt.export.split import (
    CrossKV,
    HoistedUNet,
    PooledTextEncoder,
    TextEncoder,
    TimeBias,
    VaeDecoder,
    VaeEncoder,
    guidance_sinusoid,
)
from latentrt.tensors import TensorSpec

# The names that diffusers' UNet has for what it adds to the time embedding, and how large probes of it are.
ADDED_NAMES = {"pooled": "text_embeds", "size_ids": "time_ids"}
PROBED_TO = {"guidance": 10.0, "pooled": 1.0, "size_ids": 1024.0}

USUAL = Encoder()
TextModel: TypeAlias = CLIPTextModel | CLIPTextModelWithProjection

# (batch, height, width) in latents: even sides, and sides that every level rounds.
PROBES = ((2, 16, 24), (1, 9, 13))


@dataclass(frozen=True)
class Probe:
    """Fixed random inputs and what the original module makes of them, in float32."""

    feeds: Mapping[str, Tensor]
    references: tuple[Tensor, ...]


@dataclass(frozen=True)
class Part:
    """One component to export. `build` makes the module to trace, of which the original may not survive the making.

    float32: whether it is exported in fp32 whatever the precision, because its values leave fp16's range.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    probes: tuple[Probe, ...]
    float32: bool = False


def parts_of(checkpoint: Checkpoint) -> Iterator[Part]:
    """Yields every component in the order in which the runtime calls them; a module is loaded when its turn comes."""
    family = checkpoint.family
    for name, encoder in family.encoders.items():
        yield from text_parts(checkpoint.load_text_encoder(name), encoder, name)
    yield from unet_parts(checkpoint.load_unet(), len(family.size_ids))
    yield from vae_parts(checkpoint.load_vae(), float32=family.float32_vae)


def text_parts(model: TextModel, encoder: Encoder = USUAL, name: str = "text_encoder") -> Iterator[Part]:
    """A text encoder, probed at its last layer, the one before and its first.

    The probes are random tokens: the mask lets each position see what stands before it. Where a
    prompt's end matters, each has one.
    """
    config, rows, layers = model.config, 3, model.config.num_hidden_layers - encoder.skipped
    tokens = config.max_position_embeddings
    ids = torch.randint(0, config.vocab_size, (rows, tokens), generator=generator())
    if encoder.pooled:
        ids[:, tokens // 2] = config.eos_token_id
    skips = sorted({1, min(2, layers), layers})
    outputs = [TensorSpec("context", "float32", ("batch", tokens, config.hidden_size))]
    if encoder.pooled:
        outputs.append(TensorSpec("pooled", "float32", ("batch", config.projection_dim)))
    kind = PooledTextEncoder if encoder.pooled else TextEncoder
    yield Part(
        name,
        lambda: kind(model, skipped=encoder.skipped, normed=encoder.normed),
        (TensorSpec("input_ids", "int64", ("batch", tokens)), TensorSpec("clip_skip", "int64", (1,))),
        tuple(outputs),
        (text_probe(model, encoder, ids, 1), *(text_probe(model, encoder, ids[:1], skip) for skip in skips)),
    )


def text_probe(model: TextModel, encoder: Encoder, ids: Tensor, clip_skip: int) -> Probe:
    """Token ids and what the original makes of them: its output where a `clip_skip` of 1 is that, else a layer's."""
    place = clip_skip + encoder.skipped
    with torch.no_grad():
        encoded = model(ids, output_hidden_states=True)
        reference = encoded.hidden_states[-place]
        if encoder.normed:
            reference = encoded.last_hidden_state if place == 1 else model.final_layer_norm(reference)
    pooled = (encoded.text_embeds,) if encoder.pooled else ()
    return Probe({"input_ids": ids, "clip_skip": torch.tensor([clip_skip])}, (reference, *pooled))


def unet_parts(unet: UNet2DConditionModel, size_ids: int = 0) -> Iterator[Part]:
    """The hoisted parts of the UNet and the rest of it, held against the whole: the split itself is under the gate.

    size_ids: how many sizes its time embedding takes.
    """
    config, times = unet.config, time_specs(unet, size_ids)
    originals = [unet_probe(unet, times, *probe) for probe in PROBES]
    cross_kv, time_bias = CrossKV(unet).eval(), TimeBias(unet).eval()
    kv_width, bias_width = cross_kv.project.out_features, time_bias.project.out_features
    kv, bias, whole = [], [], []
    with torch.no_grad():
        for feeds, reference in originals:
            moments = {spec.name: feeds[spec.name] for spec in times}
            packed, biases = cross_kv(feeds["context"]), time_bias(*moments.values())
            kv.append(Probe({"context": feeds["context"]}, (packed,)))
            bias.append(Probe(moments, (biases,)))
            whole.append(Probe({"sample": feeds["sample"], "time_bias": biases, "cross_kv": packed}, (reference,)))
    kv_spec = TensorSpec("cross_kv", "float32", ("batch", "tokens", kv_width))
    context_spec = TensorSpec("context", "float32", ("batch", "tokens", config.cross_attention_dim))
    yield Part("cross_kv", lambda: cross_kv, (context_spec,), (kv_spec,), tuple(kv))
    biases_spec = TensorSpec("time_bias", "float32", ("n", bias_width))
    yield Part("time_bias", lambda: time_bias, times, (biases_spec,), tuple(bias))
    sample_spec = TensorSpec("sample", "float32", ("batch", config.in_channels, "height", "width"))
    bias_spec = TensorSpec("time_bias", "float32", ("batch", bias_width))
    prediction_spec = TensorSpec("prediction", "float32", ("batch", config.out_channels, "height", "width"))
    inputs = (sample_spec, bias_spec, kv_spec)
    yield Part("unet", lambda: HoistedUNet(unet), inputs, (prediction_spec,), tuple(whole))


def time_specs(unet: UNet2DConditionModel, size_ids: int) -> tuple[TensorSpec, ...]:
    """What the UNet's time embedding takes; pooled text is what its added projection has room for beside the sizes."""
    config, specs = unet.config, [TensorSpec("timestep", "float32", ("n",))]
    if config.time_cond_proj_dim:
        specs.append(TensorSpec("guidance", "float32", ("n",)))
    if config.addition_embed_type:
        pooled = config.projection_class_embeddings_input_dim - size_ids * config.addition_time_embed_dim
        specs.append(TensorSpec("pooled", "float32", ("n", pooled)))
        specs.append(TensorSpec("size_ids", "float32", ("n", size_ids)))
    return tuple(specs)


def unet_probe(
    unet: UNet2DConditionModel, times: Sequence[TensorSpec], batch: int, height: int, width: int
) -> tuple[dict[str, Tensor], Tensor]:
    """Inputs of the undivided UNet and its output for them."""
    random = generator()
    feeds = {
        "sample": torch.randn(batch, unet.config.in_channels, height, width, generator=random),
        "timestep": torch.rand(batch, generator=random) * 999,
        "context": torch.randn(batch, 77, unet.config.cross_attention_dim, generator=random),
    }
    for spec in times[1:]:
        shape = [batch if axis == "n" else int(axis) for axis in spec.shape]
        feeds[spec.name] = torch.rand(shape, generator=random) * PROBED_TO[spec.name]
    added = {theirs: feeds[ours] for ours, theirs in ADDED_NAMES.items() if ours in feeds}
    told = feeds.get("guidance")
    guidance = None if told is None else guidance_sinusoid(unet.config.time_cond_proj_dim)(1000 * told)
    with torch.no_grad():
        predicted = unet(
            feeds["sample"], feeds["timestep"], feeds["context"], timestep_cond=guidance, added_cond_kwargs=added
        )
    return feeds, predicted.sample


def vae_parts(vae: AutoencoderKL, *, float32: bool = False) -> Iterator[Part]:
    """Both halves of the autoencoder. float32: whether they stay that, unless the config says they need not."""
    config, factor = vae.config, vae_factor(vae)
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
    yield Part("vae_decoder", lambda: VaeDecoder(vae), (latents_spec,), (image_spec,), tuple(decoded), float32)
    yield Part(
        "vae_encoder", lambda: VaeEncoder(vae), (image_spec,), (mean_spec, variance_spec), tuple(encoded), float32
    )


def vae_factor(vae: AutoencoderKL) -> int:
    """Pixels a side that one latent covers: every level but the last halves the picture."""
    return int(2 ** (len(vae.config.block_out_channels) - 1))


def generator() -> torch.Generator:
    """The same random numbers for every component, every time."""
    return torch.Generator().manual_seed(0)
