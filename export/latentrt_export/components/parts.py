"""The components of a checkpoint, one after another: module, specs, and what the original computes on fixed inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from latentrt.bundle.sources import (
    ExtraChannels,
    InputSource,
    component_source,
    control_source,
    extra_channels_of,
    latents_source,
    text_source,
)
from latentrt.tensors import TensorSpec
from latentrt_export.checkpoint.families import Encoder
from latentrt_export.checkpoint.load import Checkpoint
from latentrt_export.checkpoint.recognition import extra_channels_by_count
from latentrt_export.components.steering import Steering
from latentrt_export.networks.adapter_network import feature_specs
from latentrt_export.networks.component import (
    PROBES,
    Part,
    Probe,
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
    VaeDecoder,
    VaeEncoder,
    widths_of,
)
from latentrt_export.networks.image_encoder import IMAGE_ENCODER, SEEN, encoder_part, kv_specs
from latentrt_export.networks.residuals import Layout, residual_specs, unpacked
from latentrt_export.networks.time_bias import TimeBiases, TimeInput, embedding_arguments, time_inputs

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
    yield from unet_parts(unet, family.size_ids, steering, extra_channels(checkpoint))
    if steering.prompts:
        yield encoder_part(checkpoint.components[IMAGE_ENCODER].load(), steering.prompts)
    yield from vae_parts(checkpoint.load_vae(), float32=family.float32_vae)


def extra_channels(checkpoint: Checkpoint) -> tuple[ExtraChannels, ...]:
    """The channels after the noisy latents in the UNet's sample, by their number."""
    configs = {name: component.config for name, component in checkpoint.components.items()}
    names = extra_channels_by_count(configs)[configs["unet"].get("in_channels", 4)]
    return extra_channels_of(names, configs["vae"].get("latent_channels", 4))


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
        role="text_encoder",
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


def unet_parts(
    unet: UNet2DConditionModel,
    size_ids: Sequence[str] = (),
    steering: Steering | None = None,
    extra: Sequence[ExtraChannels] = (),
) -> Iterator[Part]:
    """The hoisted parts of the UNet and the rest of it, compared with the whole: the split itself is under the gate.

    size_ids: the names of the sizes that its time embedding takes. steering: the networks of control images. extra: the
    channels after the noisy latents.
    """
    steering = steering or Steering()
    config, times, networks = unet.config, time_inputs(unet, size_ids), (unet, *steering.controls.values())
    cross_kv = CrossKV(*networks).eval()
    time_bias = TimeBiases(*networks, names=[one.spec.name for one in times[1:]]).eval()
    runs = [unet_feeds(unet, times, *probe) | steering.prompted(probe[0]) for probe in PROBES]
    steered = steering.runs(runs)
    layout, features = steering.layout(unet), steering.features
    controlled = {
        **{spec: control_source("controlnet") for spec in residual_specs(layout)},
        **{spec: control_source("t2i_adapter") for spec in feature_specs(features)},
    }
    with torch.no_grad():
        for place, feeds in enumerate(runs):
            for spec in controlled:
                made = [own[place][spec.name] for own in steered.values() if spec.name in own[place]]
                feeds[spec.name] = torch.stack(made).sum(0)
            feeds["prediction"] = predicted(unet, feeds, layout)
            feeds["cross_kv"] = cross_kv(feeds["context"])
            feeds["time_bias"] = time_bias(*(feeds[one.spec.name] for one in times))
    kv_spec = TensorSpec("cross_kv", "float32", ("batch", "tokens", runs[0]["cross_kv"].shape[-1]))
    bias_width = runs[0]["time_bias"].shape[-1]
    context, context_spec = (
        text_source("context"),
        TensorSpec("context", "float32", ("batch", "tokens", config.cross_attention_dim)),
    )
    yield part(
        "cross_kv", lambda: cross_kv, (context_spec,), (kv_spec,), runs, role="hoisted", sources={"context": context}
    )
    yield part(
        "time_bias",
        lambda: time_bias,
        tuple(one.spec for one in times),
        (TensorSpec("time_bias", "float32", ("n", bias_width)),),
        runs,
        role="hoisted",
        sources={one.spec.name: one.source for one in times},
    )
    shared = {
        TensorSpec("time_bias", "float32", ("batch", bias_width)): component_source(
            "time_bias", *(one.source for one in times)
        ),
        kv_spec: component_source("cross_kv", context),
    }
    yield from steering.parts((*shared,), widths_of(unet), runs, steered)
    prompts = {spec: control_source("image_encoder") for spec in kv_specs(steering.prompts, "*images")}
    inputs: dict[TensorSpec, InputSource] = {
        sample_spec(unet): latents_source(*extra),
        **shared,
        **controlled,
        **prompts,
    }
    yield part(
        "unet",
        lambda: HoistedUNet(unet, layout, len(features)),
        (*inputs,),
        (TensorSpec("prediction", "float32", ("batch", config.out_channels, "height", "width")),),
        runs,
        role="denoiser",
        sources={spec.name: source for spec, source in inputs.items()},
    )


def unet_feeds(
    unet: UNet2DConditionModel, times: Sequence[TimeInput], batch: int, height: int, width: int
) -> dict[str, Tensor]:
    """Random inputs of the undivided UNet."""
    random = generator()
    feeds = {
        "sample": torch.randn(batch, unet.config.in_channels, height, width, generator=random),
        "timestep": torch.rand(batch, generator=random) * 999,
        "context": torch.randn(batch, 77, unet.config.cross_attention_dim, generator=random),
    }
    for one in times[1:]:
        shape = [batch if axis == "n" else int(axis) for axis in one.spec.shape]
        feeds[one.spec.name] = torch.rand(shape, generator=random) * one.probe
    return feeds


def predicted(unet: UNet2DConditionModel, feeds: Mapping[str, Tensor], layout: Layout) -> Tensor:
    """The output of the undivided UNet."""
    arguments = embedding_arguments(unet, feeds)
    added = arguments.pop("added_cond_kwargs")
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
        added_cond_kwargs={**added, **({"image_embeds": seen} if seen else {})},
        **arguments,
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
