"""The components of a checkpoint, one after another: module, specs, and what the original computes on fixed inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from latentrt.bundle.manifest import IMAGE_ENCODER
from latentrt.tensors import TensorSpec
from latentrt_export.checkpoint.families import Encoder
from latentrt_export.checkpoint.load import Checkpoint
from latentrt_export.components.steering import Steering
from latentrt_export.networks.adapter_network import feature_specs
from latentrt_export.networks.component import (
    PROBES,
    Part,
    Probe,
    added_to_time,
    generator,
    part,
    pixels_of,
    sample_spec,
)
from latentrt_export.networks.hoist import (
    CrossKV,
    HoistedUNet,
    PooledTextEncoder,
    TextEncoder,
    TimeBiases,
    VaeDecoder,
    VaeEncoder,
    guidance_sinusoid,
    widths_of,
)
from latentrt_export.networks.image_encoder import SEEN, encoder_part, kv_specs
from latentrt_export.networks.residuals import Layout, residual_specs, unpacked

# How large probes are of what the UNet adds to the time embedding.
PROBED_TO = {"guidance": 10.0, "pooled": 1.0, "size_ids": 1024.0}

USUAL = Encoder()
TextModel: TypeAlias = CLIPTextModel | CLIPTextModelWithProjection


def parts_of(checkpoint: Checkpoint) -> Iterator[Part]:
    """Yields every component in the order in which the runtime calls them; a module is loaded when its turn comes.

    The image encoder alone follows what it is called before, the UNet: both are large, and so one is in memory.
    """
    family = checkpoint.family
    for name, encoder in family.encoders.items():
        yield from text_parts(checkpoint.load_text_encoder(name), encoder, name)
    unet = checkpoint.load_unet()
    steering = Steering.of(checkpoint, unet)
    yield from unet_parts(unet, len(family.size_ids), steering)
    if steering.prompts:
        yield encoder_part(checkpoint.components[IMAGE_ENCODER].load(), steering.prompts)
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


def unet_parts(unet: UNet2DConditionModel, size_ids: int = 0, steering: Steering | None = None) -> Iterator[Part]:
    """The hoisted parts of the UNet and the rest of it, held against the whole: the split itself is under the gate.

    size_ids: how many sizes its time embedding takes. steering: the networks by which images steer it.
    """
    steering = steering or Steering()
    config, times, networks = unet.config, time_specs(unet, size_ids), (unet, *steering.controls.values())
    cross_kv, time_bias = CrossKV(*networks).eval(), TimeBiases(*networks).eval()
    runs = [unet_feeds(unet, times, *probe) | steering.prompted(probe[0]) for probe in PROBES]
    steered = steering.runs(runs)
    layout, features = steering.layout(unet), steering.features
    specs = (*residual_specs(layout), *feature_specs(features))
    with torch.no_grad():
        for place, feeds in enumerate(runs):
            for spec in specs:
                made = [own[place][spec.name] for own in steered.values() if spec.name in own[place]]
                feeds[spec.name] = torch.stack(made).sum(0)
            feeds["prediction"] = predicted(unet, feeds, layout)
            feeds["cross_kv"] = cross_kv(feeds["context"])
            feeds["time_bias"] = time_bias(*(feeds[spec.name] for spec in times))
    kv_spec = TensorSpec("cross_kv", "float32", ("batch", "tokens", runs[0]["cross_kv"].shape[-1]))
    bias_width = runs[0]["time_bias"].shape[-1]
    context_spec = TensorSpec("context", "float32", ("batch", "tokens", config.cross_attention_dim))
    yield part("cross_kv", lambda: cross_kv, (context_spec,), (kv_spec,), runs)
    yield part("time_bias", lambda: time_bias, times, (TensorSpec("time_bias", "float32", ("n", bias_width)),), runs)
    shared = (TensorSpec("time_bias", "float32", ("batch", bias_width)), kv_spec)
    yield from steering.parts(shared, widths_of(unet), runs, steered)
    inputs = (sample_spec(unet), *shared, *specs, *kv_specs(steering.prompts, "*images"))
    prediction_spec = TensorSpec("prediction", "float32", ("batch", config.out_channels, "height", "width"))
    yield part("unet", lambda: HoistedUNet(unet, layout, len(features)), inputs, (prediction_spec,), runs)


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


def unet_feeds(
    unet: UNet2DConditionModel, times: Sequence[TensorSpec], batch: int, height: int, width: int
) -> dict[str, Tensor]:
    """Random inputs of the undivided UNet."""
    random = generator()
    feeds = {
        "sample": torch.randn(batch, unet.config.in_channels, height, width, generator=random),
        "timestep": torch.rand(batch, generator=random) * 999,
        "context": torch.randn(batch, 77, unet.config.cross_attention_dim, generator=random),
    }
    for spec in times[1:]:
        shape = [batch if axis == "n" else int(axis) for axis in spec.shape]
        feeds[spec.name] = torch.rand(shape, generator=random) * PROBED_TO[spec.name]
    return feeds


def predicted(unet: UNet2DConditionModel, feeds: Mapping[str, Tensor], layout: Layout) -> Tensor:
    """The output of the undivided UNet."""
    told = feeds.get("guidance")
    guidance = None if told is None else guidance_sinusoid(unet.config.time_cond_proj_dim)(1000 * told)
    steering: dict[str, Any] = {}
    levels, features, seen = (
        [tensor for name, tensor in feeds.items() if name.startswith(kind)] for kind in ("residual_", "feature_", SEEN)
    )
    if levels:
        *down, middle = unpacked(levels, layout)
        steering = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
    if features:
        steering["down_intrablock_additional_residuals"] = features
    output = unet(
        feeds["sample"],
        feeds["timestep"],
        feeds["context"],
        timestep_cond=guidance,
        added_cond_kwargs={**added_to_time(feeds), **({"image_embeds": seen} if seen else {})},
        **steering,
    )
    prediction: Tensor = output.sample
    return prediction


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
    yield Part("vae_decoder", lambda: VaeDecoder(vae), (latents_spec,), (image_spec,), tuple(decoded), float32)
    yield Part(
        "vae_encoder", lambda: VaeEncoder(vae), (image_spec,), (mean_spec, variance_spec), tuple(encoded), float32
    )
