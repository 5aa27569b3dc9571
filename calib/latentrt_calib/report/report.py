"""What a quantization came to, in plain figures: the source of its page, and of what bundle.json says of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from latentrt.bundle.manifest import Precision
from latentrt.bundle.quantization import LayerLoss, Quantization
from latentrt_calib.evaluate.compare import Comparison, document
from latentrt_calib.evaluate.damage import Damage


@dataclass(frozen=True)
class LayerReport:
    """One layer.

    op: its ONNX operator. macs: multiply-adds for one image. reason: why it computes in float; None if in INT8.
    snr_db: of its output in the quantized graph against the float graph's; None when nothing differed.
    clip: the input range that INT8 covers. ranges: the input's smallest and largest value in each timestep bucket, None
    where no step fell into it.
    alpha: how much of the input's outliers SmoothQuant moves into the weights, 0 to 1. None where there is no such.
    """

    name: str
    op: str
    macs: int
    reason: str | None = None
    snr_db: float | None = None
    clip: tuple[float, float] | None = None
    ranges: tuple[tuple[float, float] | None, ...] = ()
    alpha: float | None = None


@dataclass(frozen=True)
class Ablation:
    """The final pictures of another way to quantize, measured as the report's own. psnr_db: None when nothing differed.

    share: of the layers' multiply-adds in INT8, 0 to 1.
    """

    name: str
    share: float
    psnr_db: float | None
    worst_psnr_db: float | None
    ssim: float


@dataclass(frozen=True)
class GateReport:
    """What became of a component that is quantized only if pictures keep so much with it alone.

    gate_db, psnr_db: the mean PSNR asked for and reached; None when nothing differed. report: the component's own, None
    for one that stays float.
    """

    gate_db: float
    psnr_db: float | None
    report: Report | None

    @property
    def said(self) -> str:
        """The verdict in a line."""
        reached = "are equal" if self.psnr_db is None else f"have {self.psnr_db:.2f} dB"
        verdict = "stays float" if self.report is None else "is quantized"
        return f"{verdict}: pictures decoded in 8 bits {reached}, the gate is {self.gate_db:g} dB"


@dataclass(frozen=True)
class Report:
    """All of a quantization. Layers are in the order of the graph, damage as it was measured.

    macs: multiply-adds of the whole graph for one image, attention's products included. bytes_before, bytes_after: of
    the graph and its weights. buckets: the highest and the lowest timestep of each bucket, in the order of a run.
    comparison: with the float bundle. decoder: the VAE decoder's gate and report, whose comparison is of pictures
    decoded from the same latents; None where that was not asked for.
    """

    component: str
    precision: Precision
    target: str
    settings: Mapping[str, str | int | float]
    macs: int
    bytes_before: int
    bytes_after: int
    layers: tuple[LayerReport, ...]
    comparison: Comparison
    buckets: tuple[tuple[float, float], ...] = ()
    sensitivity: tuple[Damage, ...] = ()
    ablations: tuple[Ablation, ...] = ()
    decoder: GateReport | None = None

    @property
    def components(self) -> tuple[Report, ...]:
        """The report of every component that is quantized: this one, and the VAE decoder's."""
        return (self, self.decoder.report) if self.decoder and self.decoder.report else (self,)

    @property
    def macs_int8_share_of_layers(self) -> float:
        """The share of the layers' multiply-adds that are INT8, 0 to 1."""
        return self.quantization.share_of_layers

    @property
    def macs_int8_share_of_all(self) -> float:
        """The share of all the graph's multiply-adds that are INT8, 0 to 1."""
        return self.quantization.share_of_graph

    @property
    def float_layers(self) -> tuple[LayerReport, ...]:
        """The layers that compute in float."""
        return tuple(layer for layer in self.layers if layer.reason is not None)

    @property
    def most_sensitive(self) -> tuple[Damage, ...]:
        """The damage, worst first."""
        return tuple(sorted(self.sensitivity, key=lambda one: math.inf if one.psnr_db is None else one.psnr_db))

    @property
    def quantization(self) -> Quantization:
        """The figures that the component carries in bundle.json."""
        return Quantization(
            target=self.target,
            source=self.comparison.reference.sha256,
            settings=dict(self.settings),
            macs=self.macs,
            bytes_before=self.bytes_before,
            layers=tuple(LayerLoss(layer.name, layer.macs, layer.reason, layer.snr_db) for layer in self.layers),
            loss=self.comparison.loss,
        )


def figures(report: Report) -> dict[str, Any]:
    """The report as JSON can hold it: everything but the pictures."""
    own = replace(report, comparison=replace(report.comparison, samples=()), decoder=None)
    return {
        **asdict(own),
        "decoder": gate_figures(report.decoder) if report.decoder else None,
        "macs_int8_share_of_layers": report.macs_int8_share_of_layers,
        "macs_int8_share_of_all": report.macs_int8_share_of_all,
        "comparison": document(report.comparison),
    }


def gate_figures(gate: GateReport) -> dict[str, Any]:
    """The gate as JSON can hold it."""
    return {**asdict(replace(gate, report=None)), "report": figures(gate.report) if gate.report else None}
