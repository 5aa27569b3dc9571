"""The components of a checkpoint, one after another: module, specs, and what the original computes on fixed inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from latentrt.export.families import Encoder
from latentrt.export.load import Checkpoint
from latentrt.export.residuals import (
    HintEncoder,
    HoistedControl,
    Layout,
    hint_factor,
    layout_of,
    packed,
    residual_specs,
    unpacked,
)
from latentrt.export.split import (
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
    controls = {name: control.load() for name, control in checkpoint.controls.items()}
    yield from unet_parts(checkpoint.load_unet(), len(family.size_ids), controls)
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


def unet_parts(
    unet: UNet2DConditionModel, size_ids: int = 0, controls: Mapping[str, ControlNetModel] | None = None
) -> Iterator[Part]:
    """The hoisted parts of the UNet and the rest of it, held against the whole: the split itself is under the gate.

    size_ids: how many sizes its time embedding takes. controls: the networks that steer it, by name.
    """
    controls = controls or {}
    config, times, networks = unet.config, time_specs(unet, size_ids), (unet, *controls.values())
    cross_kv, time_bias = CrossKV(*networks).eval(), TimeBiases(*networks).eval()
    runs = [unet_feeds(unet, times, *probe) for probe in PROBES]
    steered = {name: [control_run(control, feeds) for feeds in runs] for name, control in controls.items()}
    layout, specs = layout_of(unet), residual_specs(layout_of(unet)) if controls else ()
    with torch.no_grad():
        for place, feeds in enumerate(runs):
            for spec in specs:
                feeds[spec.name] = torch.stack([own[place][spec.name] for own in steered.values()]).sum(0)
            feeds["prediction"] = predicted(unet, feeds, layout)
            feeds["cross_kv"] = cross_kv(feeds["context"])
            feeds["time_bias"] = time_bias(*(feeds[spec.name] for spec in times))
    kv_spec = TensorSpec("cross_kv", "float32", ("batch", "tokens", runs[0]["cross_kv"].shape[-1]))
    bias_width = runs[0]["time_bias"].shape[-1]
    context_spec = TensorSpec("context", "float32", ("batch", "tokens", config.cross_attention_dim))
    yield part("cross_kv", lambda: cross_kv, (context_spec,), (kv_spec,), runs)
    yield part("time_bias", lambda: time_bias, times, (TensorSpec("time_bias", "float32", ("n", bias_width)),), runs)
    shared = (TensorSpec("time_bias", "float32", ("batch", bias_width)), kv_spec)
    starts = widths_of(unet)
    for name, control in controls.items():
        widths = widths_of(control)
        own = [{**feeds, **more} for feeds, more in zip(runs, steered[name], strict=True)]
        yield from control_parts(name, control, shared, starts, own)
        starts = (starts[0] + widths[0], starts[1] + widths[1])
    prediction_spec = TensorSpec("prediction", "float32", ("batch", config.out_channels, "height", "width"))
    residuals, inputs = partial(unpacked, layout=layout) if controls else tuple, (sample_spec(unet), *shared)
    yield part("unet", lambda: HoistedUNet(unet, residuals), (*inputs, *specs), (prediction_spec,), runs)


def control_parts(
    name: str,
    control: ControlNetModel,
    shared: tuple[TensorSpec, ...],
    starts: tuple[int, int],
    runs: Sequence[Mapping[str, Tensor]],
) -> Iterator[Part]:
    """A control network: what it sees of the image, once a picture, and the residuals that it makes at every call.

    shared: what it takes of what the UNet takes. starts: where its part of `cross_kv` and `time_bias` begins.
    """
    layout, config = layout_of(control), control.config
    factor = hint_factor(control)
    image_spec = TensorSpec(
        "image", "float32", ("batch", config.conditioning_channels, f"{factor}*height", f"{factor}*width")
    )
    hint_spec = TensorSpec("hint", "float32", ("batch", config.block_out_channels[0], "height", "width"))
    scales_spec = TensorSpec("scales", "float32", (len(layout),))
    yield part(f"hint_{name}", lambda: HintEncoder(control), (image_spec,), (hint_spec,), runs)
    yield part(
        f"control_{name}",
        lambda: HoistedControl(control, *starts),
        (sample_spec(control), *shared, hint_spec, scales_spec),
        residual_specs(layout),
        runs,
    )


def sample_spec(network: ControlNetModel | UNet2DConditionModel) -> TensorSpec:
    """The noisy latents, and what a network sees besides."""
    return TensorSpec("sample", "float32", ("batch", network.config.in_channels, "height", "width"))


def part(
    name: str,
    build: Callable[[], nn.Module],
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    runs: Sequence[Mapping[str, Tensor]],
) -> Part:
    """A component whose probes are taken out of all the tensors of some runs, by name."""
    probes = (
        Probe({spec.name: run[spec.name] for spec in inputs}, tuple(run[spec.name] for spec in outputs)) for run in runs
    )
    return Part(name, build, inputs, outputs, tuple(probes))


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


def added_to_time(feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What diffusers' networks add to the time embedding, under the names that it has for them."""
    return {theirs: feeds[ours] for ours, theirs in ADDED_NAMES.items() if ours in feeds}


def predicted(unet: UNet2DConditionModel, feeds: Mapping[str, Tensor], layout: Layout) -> Tensor:
    """The output of the undivided UNet."""
    told = feeds.get("guidance")
    guidance = None if told is None else guidance_sinusoid(unet.config.time_cond_proj_dim)(1000 * told)
    steering, levels = {}, [tensor for name, tensor in feeds.items() if name.startswith("residual_")]
    if levels:
        *down, middle = unpacked(levels, layout)
        steering = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
    output = unet(
        feeds["sample"],
        feeds["timestep"],
        feeds["context"],
        timestep_cond=guidance,
        added_cond_kwargs=added_to_time(feeds),
        **steering,
    )
    prediction: Tensor = output.sample
    return prediction


def control_run(control: ControlNetModel, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a control network takes besides, its features of an image, and the undivided network's packed residuals."""
    sample = feeds["sample"][:, : control.config.in_channels]  # the latents come before what a UNet sees besides
    batch, _, height, width = sample.shape
    layout, scale, factor = layout_of(control), 0.7, hint_factor(control)
    shape = (batch, control.config.conditioning_channels, factor * height, factor * width)
    image = torch.rand(shape, generator=generator())
    with torch.no_grad():
        down, middle = control(
            sample,
            feeds["timestep"],
            feeds["context"],
            image,
            scale,
            added_cond_kwargs=added_to_time(feeds),
            return_dict=False,
        )
        hint = HintEncoder(control)(image)
    levels = zip(residual_specs(layout), packed([*down, middle], layout), strict=True)
    scales = torch.full((len(layout),), scale)
    taken = {"sample": sample, "image": image, "hint": hint, "scales": scales}
    return {**taken, **{spec.name: level for spec, level in levels}}


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
