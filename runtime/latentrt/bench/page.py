"""A report as one HTML page: verdicts, where the time goes, every step, every sample, and all figures."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from latentrt.bench import tables
from latentrt.bench.report import REST, TOTAL, Case, Report, Sample, verdict_of
from latentrt.report import plots
from latentrt.report.document import html
from latentrt.report.markup import folded, paragraph, section, table, tiles

# The parts of a bar and their colours; a phase that is in none prepares prompt and timesteps.
PARTS = {"UNet": "one", "prompt and timesteps": "two", "decoding": "three", "sampler": "four", "rest": "quiet"}
PART_OF = {"unet": "UNet", "sampler": "sampler", "vae_decoder": "decoding", "image": "decoding", REST: "rest"}


def page_of(report: Report) -> str:
    """The page; the same report gives the same text."""
    alone = len(report.cases) == 1
    content = (
        paragraph(f"{report.machine.name}. {tables.versions(report)}. {report.date}."),
        *((case_verdict(report.cases[0]), tiles(case_tiles(report, report.cases[0]))) if alone else ()),
        section("Where the time of a request goes", time_bars(report), *overview(report)),
        *(section(case.settings.name, *case_content(case, verdict=not alone)) for case in report.cases),
        section("Loading", loading(report)),
        section("Loss", figures(*tables.parts(report)), paragraph(tables.pictures_lost(report))),
        section("Machine", table(("", ""), machine_rows(report), numbers=0)),
    )
    return html(f"{report.title}: {whole_verdict(report)}", content)


def whole_verdict(report: Report) -> str:
    """One verdict for all cases."""
    invalid = sum(not case.valid for case in report.cases)
    if len(report.cases) == 1:
        return verdict_of(report.cases[0])
    return "all VALID" if not invalid else f"{invalid} of {len(report.cases)} INVALID"


def case_verdict(case: Case) -> str:
    """A line that says whether the figures can be trusted, and why not."""
    if case.valid:
        return paragraph("\u2713 VALID.", "good")
    return paragraph(f"\u2717 INVALID: {'; '.join(reason.said for reason in case.reasons)}.", "bad")


def case_tiles(report: Report, case: Case) -> list[tuple[str, str, str]]:
    """The figures to see first."""
    total, step = case.statistics[TOTAL], tables.step_of(case)
    loss = report.subject.loss
    counted = [found for found in case.energy if found.per_picture_j is not None]
    energy = f"{counted[0].per_picture_j:.3g} J" if counted else tables.NO_FIGURE
    lost = "none" if loss is None else "equal" if loss.psnr_db is None else f"{loss.psnr_db:.1f} dB"
    return [
        ("A request, median", seconds(total.p50), interval(case)),
        ("A UNet step, median", seconds(step.p50), f"{step.n} samples, least {seconds(step.min)}"),
        ("Memory, peak", f"{tables.megabytes(case.memory.peak)} MB", "resident"),
        ("Energy a picture", energy, counted[0].source if counted else "no counter that can be read"),
        ("Loss of pictures", lost, "the UNet is not quantized" if loss is None else "PSNR against the float bundle"),
    ]


def interval(case: Case) -> str:
    """The median's interval in a few words."""
    total = case.statistics[TOTAL]
    if total.low is None or total.high is None:
        return f"{total.n} samples, too few for an interval"
    return f"{seconds(total.low)} to {seconds(total.high)} at 95 %"


def seconds(value: float) -> str:
    """A time in the unit that suits it."""
    return f"{value:.3g} s" if value >= 1 else f"{1000 * value:.3g} ms"


def parts_of(sample: Sample) -> dict[str, float]:
    """The seconds of a sample by the parts of a bar."""
    found = dict.fromkeys(PARTS, 0.0)
    for phase, taken in {**sample.phases, REST: sample.total - sum(sample.phases.values())}.items():
        found[PART_OF.get(phase, "prompt and timesteps")] += taken
    return found


def time_bars(report: Report) -> str:
    """A bar a case: the median seconds of each part."""
    rows = []
    for case in report.cases:
        samples = [parts_of(sample) for sample in case.samples]
        medians = {part: median(sample[part] for sample in samples) for part in PARTS}
        whole = sum(medians.values())
        marks = [
            plots.Mark(taken, f"{part}: {seconds(taken)}, {taken / whole:.1%}", PARTS[part])
            for part, taken in medians.items()
        ]
        rows.append((f"{case.settings.name}: {seconds(case.statistics[TOTAL].p50)}", marks))
    return plots.bars(rows, "seconds, medians") + plots.legend(PARTS.items())


def overview(report: Report) -> Iterator[str]:
    """A sweep in figures."""
    if len(report.cases) > 1:
        yield figures(*tables.overview(report))


def figures(heads: tables.Row, rows: list[tables.Row]) -> str:
    """A table of which all but the first column are figures."""
    return table(heads, rows, numbers=len(heads) - 1)


def case_content(case: Case, *, verdict: bool) -> Iterator[str]:
    """The plots of a case, its figures and its facts; its verdict where that is not said above."""
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
        (str(place), str(sample.seed), f"{sample.total:.4f}", *(f"{taken:.4f}" for taken in sample.phases.values()))
        for place, sample in enumerate(case.samples, 1)
    ]
    yield folded(f"All {len(rows)} requests, seconds", table(heads, rows, numbers=len(heads)))


def loading(report: Report) -> str:
    """What loading took, cold and warm, by part; of the first case."""
    own = report.cases[0].loading
    rows: list[tables.Row] = [
        (name, tables.milliseconds(cold), tables.milliseconds(min(own.warm[name]))) for name, cold in own.cold.items()
    ]
    state = "" if own.emptied else " The disk's cache could not be emptied before, so the cold load is none."
    said = "Once with the files out of the disk's cache, then again. The bundle's own part is reading and hashing it."
    return figures(("ms", "cold", "warm, the least"), rows) + paragraph(said + state)


def machine_rows(report: Report) -> list[tuple[str, str]]:
    """The machine and what ran on it; what is not known is not there."""
    own = report.machine
    entries = {
        "processor": f"{own.processor}, {own.cores} of {own.all_cores} cores",
        "memory": own.memory_bytes and f"{own.memory_bytes / 1e9:.1f} GB",
        "governor": own.governor,
        "board": own.board,
        "JetPack": own.jetpack,
        "power mode": own.power_mode,
        "GPU": own.gpu,
        "driver": own.driver,
        "system": f"{own.system}, Python {own.python}",
        "packages": tables.versions(report),
        "bundle": f"{report.subject.name}, {report.subject.family}, sha256 {report.subject.sha256}",
    }
    return [(name, value) for name, value in entries.items() if value]
