"""Figures of a quantization: the source of its page, of report.json and of its entry in bundle.json."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from latentrt.bundle.manifest import Precision
from latentrt.bundle.quantization import LayerLoss, Quantization
from latentrt_calib.evaluate.compare import Comparison, document
from latentrt_calib.evaluate.damage import Damage

DECODER = "vae_decoder"

if TYPE_CHECKING:  # it needs the package onnx-ir, which a comparison does not
    from latentrt_calib.evaluate.cached import CachedLoss


@dataclass(frozen=True)
class LayerReport:
    """One layer.

    op: its ONNX operator. macs: multiply-adds for one image. reason: reason for computing in float; None in INT8.
    snr_db: signal to noise of its output in the quantized graph, relative to the float graph; None without difference.
    clip: input range that INT8 covers. ranges: smallest and largest input per bucket of timesteps; None for a bucket
    without steps. alpha: SmoothQuant's migration strength, 0 to 1; None without SmoothQuant.
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
    """Loss of final pictures of another quantization method, as in the report. psnr_db: None without difference.

    share: share of the layers' multiply-adds in INT8, 0 to 1.
    """

    name: str
    share: float
    psnr_db: float | None
    worst_psnr_db: float | None
    ssim: float


@dataclass(frozen=True)
class GateReport:
    """Result of a component's gate, the least mean PSNR of pictures at which it is quantized.

    gate_db: the gate. psnr_db: mean PSNR reached; None without difference. report: the component's report; None if it
    stays float. component: the VAE decoder, or a text encoder.
    """

    gate_db: float
    psnr_db: float | None
    report: Report | None
    component: str = DECODER

    @property
    def verdict(self) -> str:
        """One line with the result."""
        reached = "are equal" if self.psnr_db is None else f"have {self.psnr_db:.2f} dB"
        result = "stays float" if self.report is None else "is quantized"
        does = "that it decodes" if self.component == DECODER else "of prompts that it encodes"
        return f"{result}: pictures {does} in fewer bits {reached}, the gate is {self.gate_db:g} dB"


@dataclass(frozen=True)
class Report:
    """Report of a quantization. Layers are in graph order, damage in the order of measurement.

    macs: multiply-adds of the whole graph for one image, attention's products included. bytes_before, bytes_after: of
    the graph and its weights. buckets: highest and lowest timestep of each bucket, in the order of a run. comparison:
    with the float bundle. decoder: gate and report of the VAE decoder, compared on pictures decoded from the same
    latents; None without a gate. cached: loss with a step cache; None where no call is a shallow UNet's.
    encoders: those of text encoders, compared on pictures that are otherwise drawn in float.
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
    cached: CachedLoss | None = None
    encoders: tuple[GateReport, ...] = ()

    @property
    def gates(self) -> tuple[GateReport, ...]:
        """The results of all gates."""
        return (*((self.decoder,) if self.decoder else ()), *self.encoders)

    @property
    def components(self) -> tuple[Report, ...]:
        """The reports of all quantized components: this one, and those of gates that were passed."""
        return (self, *(gate.report for gate in self.gates if gate.report))

    @property
    def macs_int8_share_of_layers(self) -> float:
        """Share of the layers' multiply-adds in INT8, 0 to 1."""
        return self.quantization.share_of_layers

    @property
    def macs_int8_share_of_all(self) -> float:
        """Share of all multiply-adds of the graph in INT8, 0 to 1."""
        return self.quantization.share_of_graph

    @property
    def float_layers(self) -> tuple[LayerReport, ...]:
        """The layers that compute in float."""
        return tuple(layer for layer in self.layers if layer.reason is not None)

    @property
    def most_sensitive(self) -> tuple[Damage, ...]:
        """The damage of each group, worst first."""
        return tuple(sorted(self.sensitivity, key=lambda one: math.inf if one.psnr_db is None else one.psnr_db))

    @property
    def quantization(self) -> Quantization:
        """The component's figures for bundle.json."""
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
    """The report as JSON: everything except the pictures."""
    without_pictures = replace(report, comparison=replace(report.comparison, samples=()), decoder=None, encoders=())
    document_of = asdict(without_pictures)
    del document_of["encoders"]
    if report.cached is None:
        del document_of["cached"]
    if report.encoders:
        document_of["encoders"] = {one.component: gate_figures(one) for one in report.encoders}
    return {
        **document_of,
        "decoder": gate_figures(report.decoder) if report.decoder else None,
        "macs_int8_share_of_layers": report.macs_int8_share_of_layers,
        "macs_int8_share_of_all": report.macs_int8_share_of_all,
        "comparison": document(report.comparison),
    }


def gate_figures(gate: GateReport) -> dict[str, Any]:
    """The gate as JSON."""
    inner = figures(gate.report) if gate.report else None
    return {"gate_db": gate.gate_db, "psnr_db": gate.psnr_db, "report": inner}
