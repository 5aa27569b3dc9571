"""A report as text: Markdown to read, CSV and JSON lines for other programs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields

from latentrt.bench.compare import Pairing
from latentrt.bench.energy import Energy
from latentrt.bench.report import TOTAL, Case, Report, document, verdict_of
from latentrt.bench.statistics import Summary

Row = tuple[str, ...]

NO_FIGURE = "n/a"
HEADS = ("ms", "n", "min", "mean", "p50", "p90", "p95", "p99")
IDENTITY = ("date", "bundle", "sha256", "engine", "processor", "gpu", "verdict")
SETTINGS = ("width", "height", "steps", "batch", "sampler", "unet_rows", "memory_budget")


def markdown(report: Report) -> str:
    """The whole report; every case has its verdict, its figures and what is behind them."""
    lines = [f"# {report.title}", "", f"{report.machine.name}; {versions(report)}; {report.date}", ""]
    if len(report.cases) > 1:
        lines += [*grid(*overview(report)), ""]
    for case in report.cases:
        lines += [*case_lines(case), ""]
    return "\n".join([*lines, *losses(report)]) + "\n"


def versions(report: Report) -> str:
    """What ran, in a line."""
    return ", ".join(f"{name} {version}" for name, version in report.machine.packages.items())


def overview(report: Report) -> tuple[Row, list[Row]]:
    """The heads and rows of a table of all cases."""
    rows: list[Row] = [
        (
            case.settings.name,
            f"{case.statistics[TOTAL].p50:.3f}",
            f"{1 / case.pictures_per_s:.3f}",
            milliseconds(step_of(case).p50),
            megabytes(case.memory.peak),
            verdict_of(case),
        )
        for case in report.cases
    ]
    return ("medians", "request, s", "picture, s", "UNet step, ms", "peak, MB", "verdict"), rows


def case_lines(case: Case) -> Iterator[str]:
    """One case."""
    settings = case.settings
    yield f"## {settings.name}: {verdict_of(case)}"
    yield ""
    yield from (f"- INVALID: {reason.said}" for reason in case.reasons)
    if case.reasons:
        yield ""
    guidance = ", ".join(f"{scale:g}" for scale in settings.guidance)
    turns = ", components loaded in turn" if settings.in_turn else ""
    yield (
        f"{settings.sampler}, {settings.sigmas} sigmas, guidance {guidance}, {settings.unet_rows} rows a UNet call"
        f"{turns}; {len(case.samples)} requests from seed {settings.seed} on, after {case.warmups} that warm up"
    )
    yield ""
    yield from grid(HEADS, rows_of(case))
    yield ""
    for name, value in facts(case):
        yield f"- {name}: {value}"


def rows_of(case: Case) -> list[Row]:
    """The figures of each phase in ms."""
    return [(name, str(found.n), *map(milliseconds, shown(found))) for name, found in case.statistics.items()]


def shown(found: Summary) -> tuple[float | None, ...]:
    """What a table has of a summary."""
    return found.min, found.mean, found.p50, found.p90, found.p95, found.p99


def facts(case: Case) -> Iterator[tuple[str, str]]:
    """What else there is to know of a case: a name and a line each."""
    total, step = case.statistics[TOTAL], step_of(case)
    if total.low is not None and total.high is not None:
        yield "median", f"{total.low:.3f} to {total.high:.3f} s at 95 %"
    yield "throughput", f"{case.pictures_per_s:.3f} pictures a second, {1 / step.p50:.2f} UNet steps a second"
    yield "first picture", f"{case.first.total:.3f} s after loading"
    yield "loading", loading(case)
    yield "memory", memory(case)
    if budget := case.settings.memory_budget:
        yield "memory budget", f"{megabytes(budget)} MB, reckoned {megabytes(case.memory.reckoned)} MB"
    yield "energy", "; ".join(map(energy, case.energy)) or f"{NO_FIGURE}, no counter: looked for RAPL, INA3221, NVML"
    yield "machine", conditions(case)
    if case.audit:
        yield "audit", audit(case)


def loading(case: Case) -> str:
    """Cold and warm loads in a line."""
    cold = sum(case.loading.cold.values())
    warm = sum(min(times) for times in case.loading.warm.values())
    state = "" if case.loading.emptied else " (the disk's cache could not be emptied)"
    return f"cold {cold:.3f} s{state}, warm {warm:.3f} s"


def memory(case: Case) -> str:
    """Peak memory in a line."""
    own = case.memory
    gpu = "" if own.gpu is None else f", GPU {megabytes(own.gpu)} MB"
    return f"peak {megabytes(own.peak)} MB resident, {megabytes(own.before)} before loading{gpu}"


def energy(found: Energy) -> str:
    """One source in a line."""
    if found.joules is None or found.per_picture_j is None:
        return f"{NO_FIGURE}, {found.missing}"
    idle = "" if found.idle_watts is None else f", idle {found.idle_watts:.1f} W"
    return (
        f"{found.per_picture_j:.3g} J a picture, {found.watts:.1f} W{idle} ({found.source}: {', '.join(found.covers)}; "
        f"{found.joules:.3g} J in all, \u00b1 {found.uncertainty_j:.2g}, read {found.hertz:.0f} times a second)"
    )


def conditions(case: Case) -> str:
    """How the machine was, in a line."""
    found = case.conditions
    parts = [f"others took {NO_FIGURE if found.others is None else f'{found.others:.1%}'} of the cores"]
    parts += [f"{name} {clock.least:.0f} to {clock.most:.0f} MHz" for name, clock in found.clocks_mhz.items()]
    parts.append(f"up to {found.hottest_c.most:.0f} \u00b0C" if found.hottest_c else f"temperature {NO_FIGURE}")
    if not found.clocks_mhz:
        parts.append(f"clocks {NO_FIGURE}")
    return ", ".join(parts)


def audit(case: Case) -> str:
    """What the audit found, in a line."""
    assert case.audit is not None
    same = case.audit.pictures - len(case.audit.different) * case.settings.batch
    repeated = ", ".join(f"{phase} {ratio:.2f}" for phase, ratio in case.audit.repeated.items())
    return f"{same} of {case.audit.pictures} pictures the same untimed; repeated over new: {repeated}"


def losses(report: Report) -> Iterator[str]:
    """What the bundle lost, by component and in pictures."""
    yield "## Loss"
    yield ""
    yield from grid(*parts(report))
    yield ""
    yield pictures_lost(report)


def parts(report: Report) -> tuple[Row, list[Row]]:
    """The heads and rows of a table of the components."""
    rows: list[Row] = [
        (
            name,
            part.precision,
            megabytes(part.bytes),
            decibels(part.export_db),
            decibels(part.loss.psnr_db) if part.loss else "none",
        )
        for name, part in report.subject.parts.items()
    ]
    return ("component", "precision", "MB", "float export, dB", "quantized, dB"), rows


def pictures_lost(report: Report) -> str:
    """What the figures of the components mean, and what pictures lost."""
    said = "PSNR: of a component's outputs through its export, before any quantization; of pictures through that."
    loss = report.subject.loss
    if loss is None:
        return f"{said} The UNet is not quantized."
    if loss.psnr_db is None or loss.worst_psnr_db is None:
        return f"{said} With this UNet, none of {loss.pictures} pictures differs from the float bundle's."
    return (
        f"{said} Pictures with this UNet: {loss.psnr_db:.1f} dB against the float bundle's, worst "
        f"{loss.worst_psnr_db:.1f}; SSIM {loss.ssim:.4f}, worst {loss.worst_ssim:.4f}; {loss.pictures} pictures."
    )


def decibels(value: float | None) -> str:
    """A PSNR; None stands for no difference."""
    return "equal" if value is None else f"{value:.1f}"


def step_of(case: Case) -> Summary:
    """The figures of a UNet step: of those after the first, where there are any."""
    return case.statistics.get("unet, later steps", case.statistics["unet, first step"])


def grid(heads: Row, rows: Sequence[Row]) -> Iterator[str]:
    """A Markdown table whose columns are aligned as plain text too; all but the first are figures."""
    cells = [heads, *rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    for place, row in enumerate(cells):
        first, *rest = row
        yield f"| {' | '.join([first.ljust(widths[0]), *map(str.rjust, rest, widths[1:])])} |"
        if place == 0:
            yield f"|{'-' * (widths[0] + 2)}|{'|'.join('-' * (width + 1) + ':' for width in widths[1:])}|"


def compared(pairing: Pairing) -> Iterator[str]:
    """A case that two reports have, phase by phase."""
    rows: list[Row] = []
    for ratio in pairing.ratios:
        interval = ratio.interval
        between = f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else NO_FIGURE
        medians = (milliseconds(ratio.first.p50), milliseconds(ratio.second.p50))
        rows.append((ratio.phase, *medians, f"{ratio.ratio:.3f}", between, ratio.said))
    yield f"## {pairing.settings.name}"
    yield ""
    yield from grid(("medians, ms", "first", "second", "ratio", "between", "the second is"), rows)
    yield ""


def milliseconds(seconds: float | None) -> str:
    """Seconds in ms."""
    return NO_FIGURE if seconds is None else f"{seconds * 1000:.2f}"


def megabytes(count: int | None) -> str:
    """Bytes in MB."""
    return NO_FIGURE if count is None else f"{count / 1e6:.1f}"


def as_csv(report: Report) -> str:
    """A row for each phase of each case, in seconds; an empty cell is not known."""
    file = io.StringIO()
    figures = tuple(field.name for field in fields(Summary))
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*IDENTITY, *SETTINGS, "phase", *figures])
    for case in report.cases:
        subject, machine = report.subject, report.machine
        identity = (report.date, subject.name, subject.sha256, report.engine, machine.processor, machine.gpu)
        asked = [getattr(case.settings, name) for name in SETTINGS]
        for phase, found in case.statistics.items():
            writer.writerow([*identity, verdict_of(case), *asked, phase, *asdict(found).values()])
    return file.getvalue()


def as_json(report: Report) -> str:
    """All of the report, samples included."""
    return json.dumps(document(report), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def as_jsonl(report: Report) -> str:
    """The same, one line a case, each with what all have in common; to be appended to."""
    common = {name: value for name, value in document(report).items() if name != "cases"}
    lines = ({**common, **case} for case in document(report)["cases"])
    return "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in lines)
