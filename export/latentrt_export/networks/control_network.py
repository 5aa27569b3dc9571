"""ControlNets as modules, Zhang et al. (2023): an encoder of the control image, and a network of residuals.

The projections of timestep and text are hoisted together with the UNet's. The image's features are computed once per
picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from diffusers import ControlNetModel
from torch import Tensor, nn

from latentrt.tensors import TensorSpec
from latentrt_export.networks.component import Part, generator, part, sample_spec
from latentrt_export.networks.hoist import hoist, way_down
from latentrt_export.networks.residuals import layout_of, packed, residual_specs
from latentrt_export.networks.time_bias import embedding_arguments


def hint_factor(network: ControlNetModel) -> int:
    """Pixels of the image per feature of the control network, along each side."""
    return int(2 ** (len(network.config.conditioning_embedding_out_channels) - 1))


class HintEncoder(nn.Module):
    """image (batch, 3, 8h, 8w) in [0, 1] -> hint (batch, channels, h, w), a ControlNet's features of the image."""

    def __init__(self, network: ControlNetModel) -> None:
        super().__init__()
        self.embedding = network.controlnet_cond_embedding

    def forward(self, image: Tensor) -> Tensor:
        """Features that are added to those of the latents."""
        hint: Tensor = self.embedding(image)
        return hint


class HoistedControl(nn.Module):
    """A ControlNet without the parts that are computed beforehand: time, text, image.

    Takes over the modules of `network`. kv_start, bias_start: start of its slices of `cross_kv` and `time_bias`.
    """

    def __init__(self, network: ControlNetModel, kv_start: int, bias_start: int) -> None:
        super().__init__()
        hoist(network, kv_start, bias_start)
        self.layout = layout_of(network)
        network.time_embedding = network.add_embedding = network.controlnet_cond_embedding = None
        self.network = network

    def forward(
        self, sample: Tensor, time_bias: Tensor, cross_kv: Tensor, hint: Tensor, scales: Tensor
    ) -> tuple[Tensor, ...]:
        """The packed residuals of every level, each multiplied by its entry of `scales` (residuals,)."""
        network = self.network
        middle, skips = way_down(network, network.conv_in(sample) + hint, time_bias, (cross_kv,))
        convolutions = (*network.controlnet_down_blocks, network.controlnet_mid_block)
        residuals = [
            convolution(features) * scales[place]
            for place, (convolution, features) in enumerate(zip(convolutions, (*skips, middle), strict=True))
        ]
        return packed(residuals, self.layout)


def control_parts(
    name: str,
    control: ControlNetModel,
    shared: tuple[TensorSpec, ...],
    starts: tuple[int, int],
    runs: Sequence[Mapping[str, Tensor]],
) -> Iterator[Part]:
    """The components of a ControlNet: image encoder, once per picture, and residuals, at every call.

    shared: inputs that it shares with the UNet. starts: start of its slices of `cross_kv` and `time_bias`.
    """
    layout, config = layout_of(control), control.config
    factor = hint_factor(control)
    image_spec = TensorSpec(
        "image", "float32", ("batch", config.conditioning_channels, f"{factor}*height", f"{factor}*width")
    )
    hint_spec = TensorSpec("hint", "float32", ("batch", config.block_out_channels[0], "height", "width"))
    scales_spec = TensorSpec("scales", "float32", (len(layout),))
    yield part(
        f"hint_{name}",
        lambda: HintEncoder(control),
        (image_spec,),
        (hint_spec,),
        runs,
        role="controlnet_hint",
        controls=(name,),
    )
    yield part(
        f"control_{name}",
        lambda: HoistedControl(control, *starts),
        (sample_spec(control), *shared, hint_spec, scales_spec),
        residual_specs(layout),
        runs,
        role="controlnet",
        controls=(name,),
    )


def control_run(control: ControlNetModel, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Reference inputs of a ControlNet, its features of an image, and the undivided network's packed residuals."""
    sample = feeds["sample"][:, : control.config.in_channels]  # the latents come before the extra channels
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
            return_dict=False,
            **embedding_arguments(control, feeds),
        )
        hint = HintEncoder(control)(image)
    levels = zip(residual_specs(layout), packed([*down, middle], layout), strict=True)
    scales = torch.full((len(layout),), scale)
    taken = {"sample": sample, "image": image, "hint": hint, "scales": scales}
    return {**taken, **{spec.name: level for spec, level in levels}}
