"""Report of a benchmark as plain data: the source of its tables, its page and its JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from latentrt.bench.energy import Energy
from latentrt.bench.machine import Machine
from latentrt.bench.memory import Memory
from latentrt.bench.statistics import Summary, summary
from latentrt.bench.system import Conditions
from latentrt.bundle.folder import Bundle
from latentrt.bundle.quantization import PictureLoss
from latentrt.bundle.sources import denoiser_in
from latentrt.errors import RequestError
from latentrt.storage.json_codec import parse

FORMAT = 1
TOTAL, REST = "total", "rest"


@dataclass(frozen=True)
class ComponentReport:
    """A component: precision, bytes and losses.

    export_db, export_error: PSNR and relative error of its float outputs compared with the original network's; PSNR is
    None if they are equal. loss: of pictures compared with the float bundle's; None if it is not quantized.
    """

    precision: str
    bytes: int
    export_db: float | None
    export_error: float
    loss: PictureLoss | None


@dataclass(frozen=True)
class Subject:
    """The timed bundle. sha256: of its manifest. parts: components by name."""

    name: str
    family: str
    sha256: str
    parts: dict[str, ComponentReport]

    @property
    def loss(self) -> PictureLoss | None:
        """Loss of pictures through the quantization of the denoiser; None if it is not quantized."""
        return self.denoiser.loss

    @property
    def denoiser(self) -> ComponentReport:
        """The report of the denoiser."""
        return self.parts[denoiser_in(self.parts)]


@dataclass(frozen=True)
class CaseSettings:
    """Resolved settings of a case.

    unet_rows: rows of latents per UNet call. memory_budget: bytes; None without one. in_turn: whether components are
    unloaded after use, and loaded again for the next request. class_label: None for a model without classes.
    """

    prompt: str
    negative: str
    seed: int
    steps: int
    batch: int
    width: int
    height: int
    guidance: tuple[float, ...]
    sampler: str
    sigmas: str
    unet_rows: int
    memory_budget: int | None = None
    in_turn: bool = False
    class_label: int | None = None

    @property
    def name(self) -> str:
        """The size, steps and batch, as text: they identify a case of a sweep."""
        return f"{self.width}x{self.height}, {self.steps} {'step' if self.steps == 1 else 'steps'}, batch {self.batch}"


@dataclass(frozen=True)
class Loading:
    """Loading seconds by component; "bundle" is reading and hashing the files.

    cold: one load, at the start. emptied: whether the bundle's files were dropped from the disk cache before it. warm:
    several loads, at the end.
    """

    emptied: bool
    cold: dict[str, float]
    warm: dict[str, tuple[float, ...]]


@dataclass(frozen=True)
class Sample:
    """One timed request.

    total, phases: seconds. unet, sampler: seconds of each step, the shallow UNet's too. pictures: SHA-256 of pixels.
    """

    seed: int
    total: float
    phases: dict[str, float]
    unet: tuple[float, ...]
    sampler: tuple[float, ...]
    pictures: tuple[str, ...]


@dataclass(frozen=True)
class Audit:
    """Results of the audit.

    pictures: number of pictures generated again, untimed, by a new pipeline in another order. different: seeds of those
    that were not equal. repeated: least time of a repeated request over that of new ones, by phase.
    """

    pictures: int
    different: tuple[int, ...]
    repeated: dict[str, float]


@dataclass(frozen=True)
class Reason:
    """A reason why a case is INVALID. code: a word for programs. said: a line for people."""

    code: str
    said: str


@dataclass(frozen=True)
class Case:
    """The measurement of one combination of settings.

    first: the first warm-up; warm-ups are in no statistics. statistics: seconds by phase, see `statistics_of`. reasons:
    empty for a valid case.
    """

    settings: CaseSettings
    warmups: int
    loading: Loading
    first: Sample
    samples: tuple[Sample, ...]
    statistics: dict[str, Summary]
    memory: Memory
    energy: tuple[Energy, ...]
    conditions: Conditions
    audit: Audit | None
    reasons: tuple[Reason, ...]

    @property
    def valid(self) -> bool:
        """Whether no rule speaks against the figures."""
        return not self.reasons

    @property
    def pictures_per_s(self) -> float:
        """Pictures per second of the median request."""
        return self.settings.batch / self.statistics[TOTAL].p50


@dataclass(frozen=True)
class Report:
    """A benchmark of a bundle on a machine. format: of the JSON. date: start in UTC."""

    format: int
    date: str
    subject: Subject
    engine: str
    machine: Machine
    cases: tuple[Case, ...]

    @property
    def title(self) -> str:
        """The bundle's name, its UNet's precision and the engine."""
        return f"{self.subject.name} {self.subject.denoiser.precision} on {self.engine}"


def subject_of(bundle: Bundle) -> Subject:
    """The facts of a bundle for a report."""
    manifest = bundle.manifest
    parts = {
        name: ComponentReport(
            component.precision,
            sum(manifest.files[file].bytes for file in (component.file, *component.data)),
            component.fidelity.psnr_db,
            component.fidelity.relative_error,
            component.quantization.loss if component.quantization else None,
        )
        for name, component in manifest.components.items()
    }
    return Subject(manifest.name, manifest.family, bundle.sha256, parts)


def statistics_of(samples: Sequence[Sample]) -> dict[str, Summary]:
    """Returns the figures of each phase over all samples, in the order of a run; first and later steps apart.

    "total" is the whole request by the clock, "rest" the part of it that is in no phase.
    """
    series: dict[str, list[float]] = {}
    for phase in dict.fromkeys(phase for sample in samples for phase in sample.phases):
        if phase in ("unet", "sampler"):
            steps: list[tuple[float, ...]] = [getattr(sample, phase) for sample in samples]
            series[f"{phase}, first step"] = [times[0] for times in steps]
            series[f"{phase}, later steps"] = [time for times in steps for time in times[1:]]
        else:
            series[phase] = [sample.phases[phase] for sample in samples]
    series[REST] = [sample.total - sum(sample.phases.values()) for sample in samples]
    series[TOTAL] = [sample.total for sample in samples]
    return {name: summary(values) for name, values in series.items() if values}


def document(report: Report) -> dict[str, Any]:
    """The report as plain values for JSON, with a verdict per case."""
    return {
        **asdict(report),
        "cases": [{"verdict": verdict_of(case), **asdict(case)} for case in report.cases],
    }


def verdict_of(case: Case) -> str:
    """The verdict on a case: VALID or INVALID."""
    return "VALID" if case.valid else "INVALID"


def read_report(path: Path) -> Report:
    """Returns the report in a JSON file. Raises RequestError if it is not one, or of another format."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        for case in found["cases"]:
            del case["verdict"]  # follows from the reasons
        report = parse(Report, found)
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        expected = "expected a report that `latentrt bench --out FILE.json` wrote"
        raise RequestError(f"{path}: {error}; {expected}") from error
    if report.format != FORMAT:
        raise RequestError(f"{path}: got format {report.format}, expected {FORMAT}; measure again with this version")
    return report
