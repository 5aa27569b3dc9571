"""A tiny decoder to stand in for the VAE's: TAESD (Ollin Boer Bohan), which in diffusers is AutoencoderTiny.

It takes latents as the UNet has them, undivided by the VAE's scaling factor, and holds no attention and no norms.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from diffusers import AutoencoderTiny
from torch import Tensor, nn

from latentrt.errors import CheckpointError
from latentrt.tensors import TensorSpec
from latentrt_export.checkpoint.folder import folder_source
from latentrt_export.checkpoint.layouts import Tensors
from latentrt_export.checkpoint.load import Component, matched
from latentrt_export.checkpoint.match import ComponentSource
from latentrt_export.checkpoint.paths import check_there
from latentrt_export.checkpoint.stored import header
from latentrt_export.networks.component import PROBES, Config, Part, Probe, generator

NAME = "tiny_decoder"
# The layers of a single file are those of diffusers after one more, which clamps and has no weights.
LAYER = re.compile(r"^(\d+)\.")
FIRST = "1.weight"


class TinyDecoder(nn.Module):
    """sample (batch, channels, h, w), latents of unit variance -> image (batch, 3, 8h, 8w) in about [-1, 1]."""

    def __init__(self, tiny: AutoencoderTiny) -> None:
        super().__init__()
        self.decoder, self.scaling = tiny.decoder, tiny.config.scaling_factor

    def forward(self, sample: Tensor) -> Tensor:
        """The decoded image."""
        image: Tensor = self.decoder(sample / self.scaling)
        return image


def open_tiny_decoder(path: Path) -> Component:
    """Returns the decoder at `path`, found whole and not read yet.

    path: the folder of an AutoencoderTiny of diffusers, or the original `taesd_decoder.safetensors`. Raises
    CheckpointError for what is missing, damaged, unsafe or another module.
    """
    check_there("tiny decoder", path)
    if path.is_dir():
        source = folder_source(path, "vae")
        kind = source.config.get("_class_name")
        if kind != "AutoencoderTiny":
            raise CheckpointError(f"{path}: got a {kind}, expected an AutoencoderTiny, such as madebyollin/taesd")
        return matched(NAME, ComponentSource(source.place, source.config, source.tensors, in_folder, r"^encoder\."))
    tensors = header(path)
    if FIRST not in tensors or len(tensors[FIRST].shape) != 4:
        raise CheckpointError(
            f"{path}: got no {FIRST}, expected the layout of taesd_decoder.safetensors; give a diffusers folder instead"
        )
    return matched(NAME, ComponentSource(f"{path}", {"latent_channels": tensors[FIRST].shape[1]}, tensors, in_file))


def in_folder(tensors: Tensors, config: Config) -> Tensors:
    """The tensors of a diffusers folder under the module's names, which they have."""
    return tensors


def in_file(tensors: Tensors, config: Config) -> Tensors:
    """The tensors of a single file under diffusers' names."""
    return {LAYER.sub(lambda found: f"decoder.layers.{int(found[1]) - 1}.", key): t for key, t in tensors.items()}


def tiny_part(component: Component, latent: tuple[int, int]) -> Part:
    """The decoder as a part to export. latent: the channels of a latent, and the pixels a side that it covers.

    Raises CheckpointError for a decoder of other latents.
    """
    tiny: AutoencoderTiny = component.load()
    config = tiny.config
    got = config.latent_channels, config.upsampling_scaling_factor ** (len(config.num_decoder_blocks) - 1)
    if got != latent or config.out_channels != 3:
        raise CheckpointError(
            f"tiny decoder: got {got[0]} channels, {got[1]} pixels a side of a latent, {config.out_channels} colours; "
            f"expected {latent[0]}, {latent[1]} and 3: give one for this model family"
        )
    channels, pixels = latent
    probes = []
    for batch, height, width in PROBES:
        sample = torch.randn(batch, channels, height, width, generator=generator())
        with torch.no_grad():
            probes.append(Probe({"sample": sample}, (tiny.decode(sample / config.scaling_factor).sample,)))
    sample_spec = TensorSpec("sample", "float32", ("batch", channels, "height", "width"))
    image_spec = TensorSpec("image", "float32", ("batch", 3, f"{pixels}*height", f"{pixels}*width"))
    return Part(NAME, lambda: TinyDecoder(tiny), (sample_spec,), (image_spec,), tuple(probes), role="tiny_decoder")
