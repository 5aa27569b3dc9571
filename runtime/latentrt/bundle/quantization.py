"""Figures of a quantized component in bundle.json: the layers in INT8, and the loss of quality."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class LayerLoss:
    """One layer of the graph.

    macs: multiply-adds for one image. reason: the reason for computing in float; None in INT8. snr_db: signal-to-noise
    ratio of its output in the quantized graph, relative to the float graph; None without difference.
    """

    name: str
    macs: int
    reason: str | None
    snr_db: float | None


@dataclass(frozen=True)
class PictureLoss:
    """Loss of final pictures relative to the float bundle's, for the same prompts, seeds and settings.

    psnr_db: mean over the pictures that differ. worst_psnr_db: the lowest. Both are None if no picture differs. ssim,
    worst_ssim: mean and lowest over all pictures. latents_error: the latents' relative error after each step, mean over
    all pictures.
    """

    pictures: int
    psnr_db: float | None
    worst_psnr_db: float | None
    ssim: float
    worst_ssim: float
    latents_error: tuple[float, ...]


@dataclass(frozen=True)
class Quantization:
    """Record of a component's quantization.

    target: the kind of engine that the Q/DQ nodes are placed for. source: SHA-256 of the float bundle's manifest.
    settings: of the calibration, by name. macs: multiply-adds of the whole graph for one image, attention's products
    included. bytes_before: of the float graph and its weights. loss: of the bundle's pictures; for a VAE decoder, of
    pictures decoded from the same latents; for a text encoder, of pictures drawn in float of what it encodes.
    """

    target: str
    source: str
    settings: Mapping[str, str | int | float]
    macs: int
    bytes_before: int
    layers: tuple[LayerLoss, ...]
    loss: PictureLoss

    @property
    def share_of_layers(self) -> float:
        """Multiply-adds in INT8, as a share of the layers' multiply-adds, 0 to 1."""
        return int8_macs(self.layers) / max(1, sum(layer.macs for layer in self.layers))

    @property
    def share_of_graph(self) -> float:
        """Multiply-adds in INT8, as a share of all multiply-adds of the graph, 0 to 1."""
        return int8_macs(self.layers) / max(1, self.macs)


def int8_macs(layers: Iterable[LayerLoss]) -> int:
    """The multiply-adds of the layers that compute in INT8."""
    return sum(layer.macs for layer in layers if layer.reason is None)
