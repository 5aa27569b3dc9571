"""The encoder of label maps as a component."""

from __future__ import annotations

import torch
from torch import nn

from latentrt.tensors import TensorSpec
from latentrt_export.networks.component import PROBES, Part, Probe, generator
from latentrt_export.networks.segmentation import SegmentationEncoder, rescaled


def segmentation_part(mapper: nn.Conv2d, factor: int) -> Part:
    """The encoder of label maps. factor: pixels per latent along each side."""
    probes = []
    for batch, height, width in PROBES:
        shape = batch, factor * height, factor * width
        labels = torch.randint(0, mapper.in_channels, shape, generator=generator())
        probes.append(Probe({"labels": labels}, (rescaled(mapper, labels, factor),)))
    labels_spec = TensorSpec("labels", "int64", ("batch", f"{factor}*height", f"{factor}*width"))
    channels_spec = TensorSpec("segmentation", "float32", ("batch", mapper.out_channels, "height", "width"))
    return Part(
        "segmentation_encoder",
        lambda: SegmentationEncoder(mapper, factor),
        (labels_spec,),
        (channels_spec,),
        tuple(probes),
        role="segmentation_encoder",
    )
