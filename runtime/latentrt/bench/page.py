"""A report as one HTML page: verdicts, time by phase, every step, every sample, and all figures."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from latentrt.bench import tables
from latentrt.bench.report import REST, TOTAL, Case, Report, Sample, verdict_of
from latentrt.report import plots
from latentrt.report.document import html
from latentrt.report.markup import folded, paragraph, section, table, tiles

# The parts of a bar and their colours. Phases not in PART_OF belong to "prompt and timesteps".
PARTS = {"UNet": "one", "prompt and timesteps": "two", "decoding": "three", "sampler": "four", "rest": "quiet"}
PART_OF = {
    **{"unet": "UNet", "unet_shallow": "UNet", "sampler": "sampler"},
    **{"vae_decoder": "decoding", "image": "decoding", REST: "rest"},
}


def page_of(report: Report) -> str:
    """The page of a report, as HTML."""
    alone = len(report.cases) == 1
    content = (
        paragraph(f"{report.machine.name}. {tables.versions(report)}. {report.date}."),
        *((case_verdict(report.cases[0]), tiles(case_tiles(report, report.cases[0]))) if alone else ()),
        section("Time of a request by phase", time_bars(report), *overview(report)),
        *(section(case.settings.name, *case_content(case, verdict=not alone)) for case in report.cases),
        section("Loading", loading(report)),
        section("Loss", figures(*tables.component_table(report)), paragraph(tables.pictures_lost(report))),
        section("Machine", table(("", ""), machine_rows(report), numbers=0)),
    )
    return html(f"{report.title}: {whole_verdict(report)}", content)


def whole_verdict(report: Report) -> str:
    """The verdict on all cases, in a few words."""
    invalid = sum(not case.valid for case in report.cases)
    if len(report.cases) == 1:
        return verdict_of(report.cases[0])
    return "all VALID" if not invalid else f"{invalid} of {len(report.cases)} INVALID"


def case_verdict(case: Case) -> str:
    """The verdict on one case with its reasons, as a paragraph."""
    if case.valid:
        return paragraph("\u2713 VALID.", "good")
    return paragraph(f"\u2717 INVALID: {'; '.join(reason.said for reason in case.reasons)}.", "bad")


def case_tiles(report: Report, case: Case) -> list[tuple[str, str, str]]:
    """The main figures of a case: title, figure and note of each tile."""
    total, step = case.statistics[TOTAL], tables.step_of(case)
    loss = report.subject.loss
    counted = [found for found in case.energy if found.per_picture_j is not None]
    energy = f"{counted[0].per_picture_j:.3g} J" if counted else tables.NO_FIGURE
    lost = "none" if loss is None else "equal" if loss.psnr_db is None else f"{loss.psnr_db:.1f} dB"
    return [
        ("Request, median", seconds(total.p50), interval(case)),
        ("UNet step, median", seconds(step.p50), f"{step.n} samples, least {seconds(step.min)}"),
        ("Memory, peak", f"{tables.megabytes(case.memory.peak)} MB", "resident"),
        ("Energy per picture", energy, counted[0].source if counted else "no readable counter"),
        (
            "Loss of pictures",
            lost,
            "the UNet is not quantized" if loss is None else "PSNR compared with the float bundle",
        ),
    ]


def interval(case: Case) -> str:
    """The 95 % interval of the median request, as text."""
    total = case.statistics[TOTAL]
    if total.low is None or total.high is None:
        return f"{total.n} samples, too few for an interval"
    return f"{seconds(total.low)} to {seconds(total.high)} at 95 %"


def seconds(value: float) -> str:
    """A time as text, in s or ms."""
    return f"{value:.3g} s" if value >= 1 else f"{1000 * value:.3g} ms"


def parts_of(sample: Sample) -> dict[str, float]:
    """The seconds of a sample by part of a bar."""
    found = dict.fromkeys(PARTS, 0.0)
    for phase, spent in {**sample.phases, REST: sample.total - sum(sample.phases.values())}.items():
        found[PART_OF.get(phase, "prompt and timesteps")] += spent
    return found


def time_bars(report: Report) -> str:
    """One bar per case: the median seconds of each part."""
    rows = []
    for case in report.cases:
        samples = [parts_of(sample) for sample in case.samples]
        medians = {part: median(sample[part] for sample in samples) for part in PARTS}
        total = sum(medians.values())
        marks = [
            plots.Mark(spent, f"{part}: {seconds(spent)}, {spent / total:.1%}", PARTS[part])
            for part, spent in medians.items()
        ]
        rows.append((f"{case.settings.name}: {seconds(case.statistics[TOTAL].p50)}", marks))
    return plots.bars(rows, "seconds, medians") + plots.legend(PARTS.items())


def overview(report: Report) -> Iterator[str]:
    """The table of a sweep; nothing for a single case."""
    if len(report.cases) > 1:
        yield figures(*tables.overview(report))


def figures(heads: tables.Row, rows: list[tables.Row]) -> str:
    """A table with figures in all columns but the first."""
    return table(heads, rows, numbers=len(heads) - 1)


def case_content(case: Case, *, verdict: bool) -> Iterator[str]:
    """The plots, figures and facts of a case. verdict: start with its verdict."""
    if verdict:
        yield case_verdict(case)
    steps = list(zip(*(sample.unet for sample in case.samples), strict=True))
    by_step = plots.lines(
        [
            plots.Line("median", [1000 * median(times) for times in steps], "one"),
            plots.Line("slowest", [1000 * max(times) for times in steps], "two"),
        ],
        "step",
        "UNet, ms",
    )
    marks = [plots.Mark(sample.total, f"seed {sample.seed}: {seconds(sample.total)}", "one") for sample in case.samples]
    by_sample = plots.dots(marks, "request, in order", "seconds", [("median", case.statistics[TOTAL].p50)])
    yield f'<div class="plots"><figure>{by_step}</figure><figure>{by_sample}</figure></div>'
    yield figures(tables.HEADS, tables.rows_of(case))
    yield table(("", ""), list(tables.facts(case)), numbers=0)
    heads = ("request", "seed", "s", *case.samples[0].phases)
    rows = [
        (str(number), str(sample.seed), f"{sample.total:.4f}", *(f"{spent:.4f}" for spent in sample.phases.values()))
        for number, sample in enumerate(case.samples, 1)
    ]
    yield folded(f"All {len(rows)} requests, seconds", table(heads, rows, numbers=len(heads)))


def loading(report: Report) -> str:
    """The loading times of the first case by component, cold and warm."""
    times = report.cases[0].loading
    rows: list[tables.Row] = [
        (name, tables.milliseconds(cold), tables.milliseconds(min(times.warm[name])))
        for name, cold in times.cold.items()
    ]
    note = "Cold: the files were dropped from the disk cache first. The row bundle is reading and hashing the files."
    failed = "" if times.emptied else " Here they could not be dropped, so the cold load was warm too."
    return figures(("ms", "cold", "warm, least"), rows) + paragraph(note + failed)


def machine_rows(report: Report) -> list[tuple[str, str]]:
    """Facts of the machine, its software and the bundle, without unknown ones."""
    machine = report.machine
    entries = {
        "processor": f"{machine.processor}, {machine.cores} of {machine.all_cores} cores",
        "memory": machine.memory_bytes and f"{machine.memory_bytes / 1e9:.1f} GB",
        "governor": machine.governor,
        "board": machine.board,
        "JetPack": machine.jetpack,
        "power mode": machine.power_mode,
        "GPU": machine.gpu,
        "driver": machine.driver,
        "system": f"{machine.system}, Python {machine.python}",
        "packages": tables.versions(report),
        "bundle": f"{report.subject.name}, {report.subject.family}, sha256 {report.subject.sha256}",
    }
    return [(name, value) for name, value in entries.items() if value]
