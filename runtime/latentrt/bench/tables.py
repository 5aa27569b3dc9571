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
    """The whole report as Markdown: each case with its verdict, figures and facts."""
    lines = [f"# {report.title}", "", f"{report.machine.name}; {versions(report)}; {report.date}", ""]
    if len(report.cases) > 1:
        lines += [*markdown_table(*overview(report)), ""]
    for case in report.cases:
        lines += [*case_lines(case), ""]
    return "\n".join([*lines, *losses(report)]) + "\n"


def versions(report: Report) -> str:
    """Packages and versions, in one line."""
    return ", ".join(f"{name} {version}" for name, version in report.machine.packages.items())


def overview(report: Report) -> tuple[Row, list[Row]]:
    """Heads and rows of the table of all cases."""
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
    """The lines of one case."""
    settings = case.settings
    yield f"## {settings.name}: {verdict_of(case)}"
    yield ""
    yield from (f"- INVALID: {reason.said}" for reason in case.reasons)
    if case.reasons:
        yield ""
    guidance = ", ".join(f"{scale:g}" for scale in settings.guidance)
    turns = ", components loaded one at a time" if settings.in_turn else ""
    yield (
        f"{settings.sampler}, {settings.sigmas} sigmas, guidance {guidance}, {settings.unet_rows} rows per UNet call"
        f"{turns}; {len(case.samples)} requests from seed {settings.seed}, after {case.warmups} warm-ups"
    )
    yield ""
    yield from markdown_table(HEADS, rows_of(case))
    yield ""
    for name, value in facts(case):
        yield f"- {name}: {value}"


def rows_of(case: Case) -> list[Row]:
    """Rows of the table of phases, in ms."""
    return [(name, str(found.n), *map(milliseconds, columns(found))) for name, found in case.statistics.items()]


def columns(found: Summary) -> tuple[float | None, ...]:
    """The figures of a summary in the order of `HEADS`."""
    return found.min, found.mean, found.p50, found.p90, found.p95, found.p99


def facts(case: Case) -> Iterator[tuple[str, str]]:
    """Further facts of a case: name and text of each."""
    total, step = case.statistics[TOTAL], step_of(case)
    if total.low is not None and total.high is not None:
        yield "median", f"{total.low:.3f} to {total.high:.3f} s, 95 % interval"
    yield "throughput", f"{case.pictures_per_s:.3f} pictures per second, {1 / step.p50:.2f} UNet steps per second"
    yield "first picture", f"{case.first.total:.3f} s after loading"
    yield "loading", loading(case)
    yield "memory", memory(case)
    if budget := case.settings.memory_budget:
        yield "memory budget", f"{megabytes(budget)} MB, estimated peak {megabytes(case.memory.reckoned)} MB"
    yield "energy", "; ".join(map(energy, case.energy)) or f"{NO_FIGURE}, no counter: looked for RAPL, INA3221, NVML"
    yield "machine", conditions(case)
    if case.audit:
        yield "audit", audit(case)


def loading(case: Case) -> str:
    """Cold and warm loading times, in one line."""
    cold = sum(case.loading.cold.values())
    warm = sum(min(times) for times in case.loading.warm.values())
    state = "" if case.loading.emptied else " (the disk cache could not be emptied)"
    return f"cold {cold:.3f} s{state}, warm {warm:.3f} s"


def memory(case: Case) -> str:
    """Peak memory, in one line."""
    used = case.memory
    gpu = "" if used.gpu is None else f", GPU {megabytes(used.gpu)} MB"
    return f"peak {megabytes(used.peak)} MB resident, {megabytes(used.before)} before loading{gpu}"


def energy(found: Energy) -> str:
    """The energy of one source, in one line."""
    if found.joules is None or found.per_picture_j is None:
        return f"{NO_FIGURE}, {found.missing}"
    idle = "" if found.idle_watts is None else f", idle {found.idle_watts:.1f} W"
    return (
        f"{found.per_picture_j:.3g} J per picture, {found.watts:.1f} W{idle} ({found.source}: "
        f"{', '.join(found.covers)}; {found.joules:.3g} J in total, \u00b1 {found.uncertainty_j:.2g}, read "
        f"{found.hertz:.0f} times per second)"
    )


def conditions(case: Case) -> str:
    """Load, clocks and temperature of the machine, in one line."""
    found = case.conditions
    parts = [f"other processes used {NO_FIGURE if found.others is None else f'{found.others:.1%}'} of the cores"]
    parts += [f"{name} {clock.least:.0f} to {clock.most:.0f} MHz" for name, clock in found.clocks_mhz.items()]
    parts.append(f"up to {found.hottest_c.most:.0f} \u00b0C" if found.hottest_c else f"temperature {NO_FIGURE}")
    if not found.clocks_mhz:
        parts.append(f"clocks {NO_FIGURE}")
    return ", ".join(parts)


def audit(case: Case) -> str:
    """The results of the audit, in one line."""
    assert case.audit is not None
    same = case.audit.pictures - len(case.audit.different) * case.settings.batch
    repeated = ", ".join(f"{phase} {ratio:.2f}" for phase, ratio in case.audit.repeated.items())
    return f"{same} of {case.audit.pictures} pictures equal when generated again; time repeated / new: {repeated}"


def losses(report: Report) -> Iterator[str]:
    """The losses of the bundle, by component and in pictures."""
    yield "## Loss"
    yield ""
    yield from markdown_table(*component_table(report))
    yield ""
    yield pictures_lost(report)


def component_table(report: Report) -> tuple[Row, list[Row]]:
    """Heads and rows of the table of components."""
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
    """A note on the figures of the components, and the loss of pictures."""
    note = "PSNR. Float export: a component's outputs before quantization. Quantized: pictures."
    loss = report.subject.loss
    if loss is None:
        return f"{note} The UNet is not quantized."
    if loss.psnr_db is None or loss.worst_psnr_db is None:
        return f"{note} With this UNet, none of {loss.pictures} pictures differs from the float bundle's."
    return (
        f"{note} Pictures with this UNet: {loss.psnr_db:.1f} dB compared with the float bundle's, worst "
        f"{loss.worst_psnr_db:.1f}; SSIM {loss.ssim:.4f}, worst {loss.worst_ssim:.4f}; {loss.pictures} pictures."
    )


def decibels(value: float | None) -> str:
    """A PSNR; None stands for no difference."""
    return "equal" if value is None else f"{value:.1f}"


def step_of(case: Case) -> Summary:
    """The statistics of UNet steps after the first, or of the first if there is only one."""
    return case.statistics.get("unet, later steps", case.statistics["unet, first step"])


def markdown_table(heads: Row, rows: Sequence[Row]) -> Iterator[str]:
    """The lines of a Markdown table, padded to be read as plain text; all columns but the first are figures."""
    cells = [heads, *rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    for index, row in enumerate(cells):
        first, *rest = row
        yield f"| {' | '.join([first.ljust(widths[0]), *map(str.rjust, rest, widths[1:])])} |"
        if index == 0:
            yield f"|{'-' * (widths[0] + 2)}|{'|'.join('-' * (width + 1) + ':' for width in widths[1:])}|"


def comparison_lines(pairing: Pairing) -> Iterator[str]:
    """The table of a case that both reports have, by phase."""
    rows: list[Row] = []
    for ratio in pairing.ratios:
        interval = ratio.interval
        bounds = f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else NO_FIGURE
        medians = (milliseconds(ratio.first.p50), milliseconds(ratio.second.p50))
        rows.append((ratio.phase, *medians, f"{ratio.ratio:.3f}", bounds, ratio.verdict))
    yield f"## {pairing.settings.name}"
    yield ""
    yield from markdown_table(("medians, ms", "first", "second", "ratio", "between", "the second is"), rows)
    yield ""


def milliseconds(seconds: float | None) -> str:
    """Seconds as text in ms."""
    return NO_FIGURE if seconds is None else f"{seconds * 1000:.2f}"


def megabytes(count: int | None) -> str:
    """Bytes as text in MB."""
    return NO_FIGURE if count is None else f"{count / 1e6:.1f}"


def as_csv(report: Report) -> str:
    """The report as CSV: one row per case and phase, in seconds; unknown cells are empty."""
    file = io.StringIO()
    figures = tuple(field.name for field in fields(Summary))
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*IDENTITY, *SETTINGS, "phase", *figures])
    for case in report.cases:
        subject, machine = report.subject, report.machine
        identity = (report.date, subject.name, subject.sha256, report.engine, machine.processor, machine.gpu)
        settings = [getattr(case.settings, name) for name in SETTINGS]
        for phase, found in case.statistics.items():
            writer.writerow([*identity, verdict_of(case), *settings, phase, *asdict(found).values()])
    return file.getvalue()


def as_json(report: Report) -> str:
    """The whole report as JSON, samples included."""
    return json.dumps(document(report), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def as_jsonl(report: Report) -> str:
    """The report as JSON lines, one per case, each with the facts of the whole report."""
    common = {name: value for name, value in document(report).items() if name != "cases"}
    lines = ({**common, **case} for case in document(report)["cases"])
    return "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in lines)
