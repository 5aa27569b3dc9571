"""Networks that control a UNet by images: ControlNets, T2I-Adapters, IP-Adapters; their components and outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from diffusers import ControlNetModel, T2IAdapter, UNet2DConditionModel
from torch import Tensor

from latentrt.tensors import TensorSpec
from latentrt_export.checkpoint.image_prompts import add_image_prompts
from latentrt_export.checkpoint.load import Checkpoint
from latentrt_export.networks.adapter_network import Features, adapter_part, adapter_run, features_of
from latentrt_export.networks.component import Part, pixels_of
from latentrt_export.networks.control_network import control_parts, control_run
from latentrt_export.networks.hoist import widths_of
from latentrt_export.networks.image_encoder import ImageKV, prompt_run
from latentrt_export.networks.residuals import Layout, layout_of

Run = dict[str, Tensor]


@dataclass(frozen=True)
class Steering:
    """The networks and the IP-Adapters by their names in requests. pixels: per latent, along each side."""

    controls: Mapping[str, ControlNetModel] = field(default_factory=dict)
    adapters: Mapping[str, T2IAdapter] = field(default_factory=dict)
    prompts: Mapping[str, ImageKV] = field(default_factory=dict)
    pixels: int = 8

    @classmethod
    def of(cls, checkpoint: Checkpoint, unet: UNet2DConditionModel) -> Steering:
        """The networks of a checkpoint, loaded; its IP-Adapters are added to the UNet first, in place."""
        controls, adapters = (
            {name: component.load() for name, component in components.items()}
            for components in (checkpoint.controls, checkpoint.adapters)
        )
        prompts = add_image_prompts(unet, checkpoint.image_prompts)
        return cls(controls, adapters, prompts, pixels_of(checkpoint.components["vae"].config))

    def layout(self, unet: UNet2DConditionModel) -> Layout:
        """The places at which the UNet takes residuals; none without ControlNets."""
        return layout_of(unet) if self.controls else ()

    @property
    def features(self) -> Features:
        """The features that the UNet takes from T2I-Adapters."""
        return max((features_of(adapter, self.pixels) for adapter in self.adapters.values()), key=len, default=())

    def runs(self, unet: Sequence[Run]) -> dict[str, list[Run]]:
        """Inputs and outputs of each network in the same runs as the UNet, by the network's name."""
        controls = {name: [control_run(one, feeds) for feeds in unet] for name, one in self.controls.items()}
        adapters = {
            name: [adapter_run(one, feeds["sample"], self.pixels) for feeds in unet]
            for name, one in self.adapters.items()
        }
        return controls | adapters

    def prompted(self, batch: int) -> Run:
        """Inputs and outputs of the IP-Adapters in a run of the UNet: one image per row, or two images for one row."""
        found: Run = {}
        for name, prompt in self.prompts.items():
            found |= prompt_run(name, prompt, batch, images=3 - batch)
        return found

    def parts(
        self,
        shared: tuple[TensorSpec, ...],
        starts: tuple[int, int],
        unet: Sequence[Run],
        runs: Mapping[str, Sequence[Run]],
    ) -> Iterator[Part]:
        """Yields all components of the networks.

        shared: inputs of the UNet that ControlNets take too. starts: first columns of the ControlNets in `cross_kv` and
        `time_bias`. runs: the result of `runs`.
        """
        for name, control in self.controls.items():
            kv, bias = widths_of(control)  # before they are taken out of it
            own = [{**feeds, **more} for feeds, more in zip(unet, runs[name], strict=True)]
            yield from control_parts(name, control, shared, starts, own)
            starts = starts[0] + kv, starts[1] + bias
        for name, adapter in self.adapters.items():
            yield adapter_part(name, adapter, self.pixels, runs[name])
