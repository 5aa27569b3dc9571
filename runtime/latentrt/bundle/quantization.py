"""What of a graph computes in INT8, and what that costs: the figures that a quantized component carries with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class LayerLoss:
    """One layer of the graph.

    macs: its multiply-adds for one image. reason: why it computes in float; None if it computes in INT8.
    snr_db: of its output in the quantized graph against the float graph's; None when nothing differed.
    """

    name: str
    macs: int
    reason: str | None
    snr_db: float | None


@dataclass(frozen=True)
class PictureLoss:
    """How far final pictures are from the float bundle's, for the same prompts, seeds and settings.

    psnr_db: the mean over the pictures that differ. worst_psnr_db: the lowest. Both are None when none differs.
    ssim, worst_ssim: the mean and the lowest over all. latents_error: after each step, the mean over the pictures of
    the latents' relative error.
    """

    pictures: int
    psnr_db: float | None
    worst_psnr_db: float | None
    ssim: float
    worst_ssim: float
    latents_error: tuple[float, ...]


@dataclass(frozen=True)
class Quantization:
    """How a component was quantized.

    target: whose placement of quantizers the graph has. source: the SHA-256 of the float bundle's manifest.
    settings: those of the calibration, by name. macs: multiply-adds of the whole graph for one image, attention's
    products included. bytes_before: of the float graph and its weights. loss: of the bundle's pictures; a VAE decoder's
    own, of pictures decoded from the same latents.
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
        """The share of the layers' multiply-adds that are INT8, 0 to 1."""
        return int8_macs(self.layers) / max(1, sum(layer.macs for layer in self.layers))

    @property
    def share_of_graph(self) -> float:
        """The share of all the graph's multiply-adds that are INT8, 0 to 1."""
        return int8_macs(self.layers) / max(1, self.macs)


def int8_macs(layers: Iterable[LayerLoss]) -> int:
    """The multiply-adds of the layers that compute in INT8."""
    return sum(layer.macs for layer in layers if layer.reason is None)
