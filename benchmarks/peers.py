"""Times this package and other packages on the same random weights of a published model's shape, interleaved.

    python -m benchmarks.peers [--model sd15|sdxl|klein-fifth|klein] [--work DIR] [--rounds 3] [--steps 4]
                               [--rows diffusers-fp32,...] [--json FILE] [--picture FILE.svg] [--prepare]

Every package has its own virtual environment and is used as its documentation shows, at 512x512 with the model's
guidance. A run is one process: it loads, generates a picture of one step, then a picture of --steps. Each round runs
every row once, so that other load on the machine affects all rows alike. Seconds per step are medians over all rounds,
between the ends of steps. Environments, checkpoints and exports stay in the work folder, about 40 GB for Stable
Diffusion 1.5, 45 for SDXL, 30 for klein-fifth; --prepare makes them and stops.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from benchmarks.export_sd15 import ROOT
from benchmarks.machine import machine, one_line
from benchmarks.peer_rows import MODELS, OURS, ROWS, Home, Row
from latentrt.report.document import picture
from latentrt.report.plots import Mark, bars

DRIVERS = Path(__file__).parent / "peer_drivers"


@dataclass(frozen=True)
class Sample:
    """One process, in seconds and bytes.

    ready: time to the end of a first picture of one step. steps: times between the ends of steps of a second picture,
    of --steps. picture: time of the second picture. peak: resident bytes.
    """

    ready: float
    steps: tuple[float, ...]
    picture: float
    peak: int


def driven(row: Row, python: Path, files: Path, guidance: float, steps: int) -> Sample:
    """Runs a row once. Raises RuntimeError if it fails or reports no steps."""
    command = [python, DRIVERS / f"{row.driver}_driver.py", files, row.variant, guidance, "1", steps]
    start = time.monotonic()
    with subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        printed = process.stdout.read().splitlines()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or not printed:
        raise RuntimeError(f"{row.key}: exit status {process.returncode}")
    first, last = json.loads(printed[-1])
    ends = last["steps"]
    if len(ends) < steps:
        raise RuntimeError(f"{row.key}: got {len(ends)} steps reported, expected {steps}")
    between = tuple(later - earlier for earlier, later in pairwise(ends))
    return Sample(first["end"] - start, between, last["end"] - last["start"], usage.ru_maxrss * 1024)


def table(samples: Mapping[Row, Sequence[Sample]], sizes: Mapping[Home, float | None], steps: int) -> str:
    """The rows in Markdown; ratios are to the shortest median step of the other packages."""
    peers = [statistics.median(steps_of(found)) for row, found in samples.items() if row.home is not OURS]
    best = min(peers) if peers else None
    lines = [
        f"| | precision | s per step, median (range) | ratio | s per picture, {steps} steps "
        "| s to the first picture, one step | peak GB | installed MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row, found in samples.items():
        steps_s, size = steps_of(found), sizes[row.home]
        cells = (
            row.name,
            row.precision,
            f"{statistics.median(steps_s):.2f} ({min(steps_s):.2f} to {max(steps_s):.2f})",
            f"{statistics.median(steps_s) / best:.2f}" if best else "",
            f"{middle(found, 'picture'):.1f}",
            f"{middle(found, 'ready'):.1f}",
            f"{max(one.peak for one in found) / 1e9:.1f}",
            f"{size:.0f}" if size is not None else "",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def steps_of(found: Sequence[Sample]) -> list[float]:
    """The seconds of all steps of all rounds."""
    return [step for one in found for step in one.steps]


def middle(found: Sequence[Sample], field: str) -> float:
    """The median of one figure."""
    return statistics.median(getattr(one, field) for one in found)


def chart(samples: Mapping[Row, Sequence[Sample]], model: str) -> str:
    """A bar per row, as SVG: seconds per step, latentrt in another colour."""
    rows = []
    for row, found in sorted(samples.items(), key=lambda item: statistics.median(steps_of(item[1]))):
        step = statistics.median(steps_of(found))
        title = f"{row.name}, {row.precision}: {step:.2f} s per step, {max(one.peak for one in found) / 1e9:.1f} GB"
        rows.append((title, [Mark(step, title, "one" if row.home is OURS else "quiet")]))
    plot = bars(rows, f"{model}, 512x512: median seconds per step")
    return picture(plot.replace("</svg>", f"{legend(plot)}</svg>"))


def legend(plot: str) -> str:
    """The colours' meaning, at the left foot of the plot, on the line of the axis name."""
    names = re.search(r'y="(\d+)" text-anchor="end"', plot)
    assert names is not None
    y = int(names[1])
    return "".join(
        f'<rect class="{style}" x="{x}" y="{y - 10}" width="11" height="11"/><text x="{x + 17}" y="{y}">{name}</text>'
        for x, style, name in ((46, "one", "latentrt"), (130, "quiet", "other package"))
    )


def main() -> None:
    """Installs and exports what is missing, runs the rounds, prints the table after each round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default=next(iter(MODELS)))
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "peers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rows", default=",".join(row.key for row in ROWS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path, metavar="FILE.svg")
    parser.add_argument("--prepare", action="store_true", help="install and export what is missing, and stop")
    given = parser.parse_args()
    work = given.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    rows = [row for row in ROWS if row.key in given.rows.split(",") and row.runs(given.model)]
    made = {row: (row.home.python(work), row.files(work, given.model)) for row in rows}
    if given.prepare:
        return
    sizes = {row.home: row.home.megabytes(work) for row in rows}
    samples: dict[Row, list[Sample]] = {row: [] for row in rows}
    about = machine()
    for number in range(given.rounds):
        for row in rows:
            samples[row].append(driven(row, *made[row], MODELS[given.model].guidance, given.steps))
            print(f"round {number + 1}: {row.key}: {samples[row][-1]}", file=sys.stderr, flush=True)
        text = f"{one_line(about)}; {number + 1} rounds\n\n{table(samples, sizes, given.steps)}\n"
        print(text, flush=True)
        if given.json:
            found = {row.key: [asdict(one) for one in every] for row, every in samples.items()}
            given.json.write_text(json.dumps({"machine": about, "samples": found}, indent=2) + "\n")
        if given.picture:
            given.picture.write_text(chart(samples, MODELS[given.model].name))


if __name__ == "__main__":
    main()
