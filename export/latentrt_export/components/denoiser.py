"""The denoiser as components: graphs hoisted out of the UNet, the rest of the UNet, and networks that control it.

All are compared with the undivided UNet, so that the split itself is under the gate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from torch import Tensor, nn

from latentrt.bundle.sources import ExtraChannels, InputSource, control_source, latents_source
from latentrt.tensors import TensorSpec
from latentrt_export.components.conditions import TEXT, Condition
from latentrt_export.components.hoisted import HoistedPart, denoiser_part, shared_inputs
from latentrt_export.components.steering import Run, Steering
from latentrt_export.networks.adapter_network import feature_specs
from latentrt_export.networks.component import Config, Part, generator, probes_of, sample_spec
from latentrt_export.networks.hoist import HoistedUNet, widths_of
from latentrt_export.networks.image_encoder import SEEN, kv_specs
from latentrt_export.networks.residuals import Layout, residual_specs, unpacked
from latentrt_export.networks.time_bias import TimeBiases, TimeInput, embedding_arguments, time_inputs

UNet: TypeAlias = UNet2DConditionModel | UNet2DModel


def unet_parts(
    unet: UNet,
    size_ids: Sequence[str] = (),
    steering: Steering | None = None,
    extra: Sequence[ExtraChannels] = (),
    condition: Condition = TEXT,
) -> Iterator[Part]:
    """Yields the graphs hoisted out of the UNet, the networks that control it, and the rest of the UNet.

    size_ids: names of the sizes that the time embedding takes. steering: networks of control images. extra: channels
    after the noisy latents. condition: what its cross-attention, if any, attends to.
    """
    steering = steering or Steering()
    layout, times = steering.layout(unet), time_inputs(unet, size_ids)
    hoisted = hoisted_parts(unet, times, [*steering.controls.values()], condition)
    controlled = control_inputs(steering, layout)
    probes = probes_of(multiple_of(unet.config))
    runs = [unet_feeds(unet, times, condition, *probe) | steering.prompted(probe[0]) for probe in probes]
    control_runs = steering.runs(runs)
    for place, feeds in enumerate(runs):
        feeds |= control_sums([found[place] for found in control_runs.values()], controlled)
        with torch.no_grad():
            feeds["prediction"] = predicted(unet, feeds, layout)
            feeds |= {one.name: one.run(feeds) for one in hoisted}
    yield from (one.part(runs) for one in hoisted)
    shared = shared_inputs(hoisted, runs)
    yield from steering.parts((*shared,), widths_of(unet), runs, control_runs)
    prompts = {spec: control_source("image_encoder") for spec in kv_specs(steering.prompts, "*images")}
    inputs = {sample_spec(unet): latents_source(*extra), **shared, **controlled, **prompts}
    options = {"conditioned": len(hoisted) > 1, "one_token": condition.one_token}
    factors = {"multiple": multiple_of(unet.config), "attention_factor": attention_factor(unet.config)}

    def build() -> nn.Module:
        return HoistedUNet(unet, layout, len(steering.features), **options)

    yield denoiser_part("unet", build, inputs, unet.config.out_channels, runs, **factors)


def attention_factor(config: Config) -> int:
    """The latents per side that a place of the finest attention of the UNet of that config stands for."""
    levels = [level for level, kind in enumerate(config["down_block_types"]) if "Attn" in kind]
    return int(2 ** (levels[0] if levels else len(config["down_block_types"]) - 1))


def multiple_of(config: Config) -> int:
    """The number of which the sides of latents must be multiples for the denoiser of that config."""
    if "patch_size" in config:
        return int(config["patch_size"])
    levels = len(config["block_out_channels"])
    return int(2 ** (levels - 1)) if config.get("_class_name") == "UNet2DModel" else 1


def last_skips(config: Config) -> int:
    """The number of concatenations with skips in the last up block of the denoiser of that config; 0 without any."""
    if "patch_size" in config:  # a transformer
        return 0
    layers = config.get("layers_per_block", 2)  # diffusers' default
    return 1 + int(layers if isinstance(layers, int) else layers[0])


def hoisted_parts(
    unet: UNet, times: Sequence[TimeInput], controls: Sequence[nn.Module], condition: Condition
) -> tuple[HoistedPart, ...]:
    """The graphs whose outputs the UNet takes, in the order in which it takes them."""
    time_bias = TimeBiases(unet, *controls, names=[one.spec.name for one in times[1:]]).eval()
    hoisted = HoistedPart("time_bias", time_bias, {one.spec: one.source for one in times}, ("n",))
    return (hoisted,) if isinstance(unet, UNet2DModel) else (hoisted, condition.hoisted(unet, controls))


def control_inputs(steering: Steering, layout: Layout) -> dict[TensorSpec, InputSource]:
    """The inputs of the UNet that control networks feed."""
    return {
        **{spec: control_source("controlnet") for spec in residual_specs(layout)},
        **{spec: control_source("t2i_adapter") for spec in feature_specs(steering.features)},
    }


def control_sums(outputs: Sequence[Run], controlled: Mapping[TensorSpec, InputSource]) -> Run:
    """The sum of all networks' outputs for each input that they feed."""
    names = [spec.name for spec in controlled]
    return {name: torch.stack([found[name] for found in outputs if name in found]).sum(0) for name in names}


def unet_feeds(
    unet: UNet, times: Sequence[TimeInput], condition: Condition, batch: int, height: int, width: int
) -> dict[str, Tensor]:
    """Random inputs of the undivided UNet, and of the graph hoisted for its condition."""
    random = generator()
    feeds = {
        "sample": torch.randn(batch, unet.config.in_channels, height, width, generator=random),
        "timestep": torch.rand(batch, generator=random) * 999,
    }
    if isinstance(unet, UNet2DConditionModel):
        feeds |= condition.feeds(unet, batch, random)
    for one in times[1:]:
        shape = [batch if axis == "n" else int(axis) for axis in one.spec.shape]
        values = torch.rand(shape, generator=random) * one.probe
        feeds[one.spec.name] = values.to(getattr(torch, one.spec.dtype))
    return feeds


def predicted(unet: UNet, feeds: Mapping[str, Tensor], layout: Layout) -> Tensor:
    """The output of the undivided UNet."""
    if isinstance(unet, UNet2DModel):
        found: Tensor = unet(feeds["sample"], feeds["timestep"]).sample
        return found
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
