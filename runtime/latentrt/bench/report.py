"""What a benchmark found, in plain figures: the source of its tables, its page and its JSON."""

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
from latentrt.errors import RequestError
from latentrt.storage.json_codec import parse

FORMAT = 1
TOTAL, REST = "total", "rest"


@dataclass(frozen=True)
class Part:
    """A component: its precision, its bytes, and what it lost.

    export_db, export_error: PSNR and relative error of its outputs in float, against the original's; None when nothing
    differed. loss: of pictures, where it is quantized, against the float bundle's.
    """

    precision: str
    bytes: int
    export_db: float | None
    export_error: float
    loss: PictureLoss | None


@dataclass(frozen=True)
class Subject:
    """The bundle. sha256: its manifest's."""

    name: str
    family: str
    sha256: str
    parts: dict[str, Part]

    @property
    def loss(self) -> PictureLoss | None:
        """What pictures lost through the quantization of the UNet; None where it is not quantized."""
        return self.parts["unet"].loss


@dataclass(frozen=True)
class Settings:
    """What was asked for, every choice made.

    unet_rows: how many latents a call of the UNet takes. memory_budget: bytes; None without one. in_turn: whether
    components are unloaded when they are done, and loaded again for the next request.
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

    @property
    def name(self) -> str:
        """What tells it from other cases of a sweep."""
        return f"{self.width}x{self.height}, {self.steps} {'step' if self.steps == 1 else 'steps'}, batch {self.batch}"


@dataclass(frozen=True)
class Loading:
    """Seconds until a pipeline is ready: "bundle" is reading and hashing it, a component's name its graph's loading.

    cold: once, at the start. emptied: whether the bundle's files were put out of the disk's cache before that. warm:
    again, at the end.
    """

    emptied: bool
    cold: dict[str, float]
    warm: dict[str, tuple[float, ...]]


@dataclass(frozen=True)
class Sample:
    """One request, timed. Seconds: total by the clock, and by phase; unet and sampler for each step.

    pictures: the SHA-256 of each picture's pixels.
    """

    seed: int
    total: float
    phases: dict[str, float]
    unet: tuple[float, ...]
    sampler: tuple[float, ...]
    pictures: tuple[str, ...]


@dataclass(frozen=True)
class Audit:
    """Whether the figures are of real work.

    different: seeds whose pictures, made again by a new pipeline in another order and not timed, were not the same.
    repeated: for each phase that matters, the least time of a request that was just made over that of new ones.
    """

    pictures: int
    different: tuple[int, ...]
    repeated: dict[str, float]


@dataclass(frozen=True)
class Reason:
    """Why figures are not to be trusted: a word for programs and a line for people."""

    code: str
    said: str


@dataclass(frozen=True)
class Case:
    """One set of settings, measured. first: the first request of all, in no figure, as are the other warm-ups.

    statistics: seconds by phase, see `statistics_of`. reasons: none for a valid case.
    """

    settings: Settings
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
        """Whether nothing speaks against the figures."""
        return not self.reasons

    @property
    def pictures_per_s(self) -> float:
        """Pictures of the median request over its time."""
        return self.settings.batch / self.statistics[TOTAL].p50


@dataclass(frozen=True)
class Report:
    """A benchmark: what was measured, on what, and every case. date: UTC, when it began."""

    format: int
    date: str
    subject: Subject
    engine: str
    machine: Machine
    cases: tuple[Case, ...]

    @property
    def title(self) -> str:
        """The bundle, its UNet's precision and the engine."""
        return f"{self.subject.name} {self.subject.parts['unet'].precision} on {self.engine}"


def subject_of(bundle: Bundle) -> Subject:
    """What a report says of a bundle."""
    manifest = bundle.manifest
    parts = {
        name: Part(
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
    """Returns the figures of each phase over all samples, in the order of a run; of steps, the first apart.

    "total" is by the clock, "rest" what of it is in no phase.
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
    """The report as JSON can hold it, verdicts spelled out."""
    return {
        **asdict(report),
        "cases": [{"verdict": verdict_of(case), **asdict(case)} for case in report.cases],
    }


def verdict_of(case: Case) -> str:
    """VALID or INVALID."""
    return "VALID" if case.valid else "INVALID"


def read_report(path: Path) -> Report:
    """Returns the report in a JSON file. Raises RequestError that says what is wrong with it."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        for case in found["cases"]:
            del case["verdict"]  # which the reasons say as well
        report = parse(Report, found)
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        expected = "expected a report that `latentrt bench --out FILE.json` wrote"
        raise RequestError(f"{path}: {error}; {expected}") from error
    if report.format != FORMAT:
        raise RequestError(f"{path}: got format {report.format}, expected {FORMAT}; measure again with this version")
    return report
