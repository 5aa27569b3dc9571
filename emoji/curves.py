"""Draws how training went, from its logs: one chart for each stage and value.

    python -m emoji.curves [--logs FOLDER] [--out FILE]

Stages that have no log yet are left out.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from emoji import chart
from emoji.chart import Chart
from emoji.fetch import FOLDER

Array = NDArray[np.float64]
Line = dict[str, float]

LOGS = FOLDER / "training"
OUT = Path("emoji-training.png")
COLUMNS = 2
SMOOTHING = 0.025  # of all steps: the standard deviation of the weights that a mean is taken with


@dataclass(frozen=True)
class Curve:
    """A value of a stage's log, the title it gets, and what it is multiplied by."""

    stage: str
    value: str
    title: str
    scale: float = 1.0


CURVES = (
    Curve("autoencoder", "psnr", "Autoencoder: PSNR in dB"),
    Curve("text", "right", "Text encoder: labels named right, %", 100.0),
    Curve("diffusion", "loss", "Diffusion: loss"),
    Curve("diffusion", "nearest", "Diffusion: samples nearest to their label, %", 100.0),
)


def main() -> None:
    """Draw the charts of the stages that have a log."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logs", type=Path, default=LOGS)
    parser.add_argument("--out", type=Path, default=OUT, help=f"[default: {OUT} in this folder]")
    given = parser.parse_args()
    logs = {path.stem: load(path) for path in sorted(given.logs.glob("*.jsonl"))}
    charts = [chart_of(curve, logs[curve.stage]) for curve in CURVES if has(logs.get(curve.stage, []), curve.value)]
    if not charts:
        raise SystemExit(f"error: {given.logs}: no log of a stage; run python -m emoji.autoencoder")
    tiled([chart.draw(one) for one in charts]).quantize(64).save(given.out, optimize=True)
    print(given.out)


def load(path: Path) -> list[Line]:
    """Return the lines of a log."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def has(lines: Sequence[Line], value: str) -> bool:
    """Return whether a log has a value anywhere."""
    return any(value in line for line in lines)


def chart_of(curve: Curve, lines: Sequence[Line]) -> Chart:
    """Return the chart of one value over the steps; lines without the value do not count."""
    valued = [line for line in last_run(lines) if curve.value in line]
    steps = np.array([line["step"] for line in valued])
    values = np.array([line[curve.value] for line in valued]) * curve.scale
    took = f"{hours(lines):.1f} h" if hours(lines) >= 1 else f"{60 * hours(lines):.1f} min"
    note = f"{lines[-1]['step']:,} steps, {took}"
    return Chart(curve.title, note, "step", steps, values, smooth(steps, values))


def last_run(lines: Sequence[Line]) -> list[Line]:
    """Return the lines without those that a run which was cut and went on from its last saved state did again."""
    kept: list[Line] = []
    for line in lines:
        while kept and kept[-1]["step"] >= line["step"]:
            kept.pop()
        kept.append(line)
    return kept


def hours(lines: Sequence[Line]) -> float:
    """Return how long all runs of a stage took together; their clocks each begin at 0."""
    ends = [line for line, after in zip(lines, lines[1:], strict=False) if after["seconds"] < line["seconds"]]
    return sum(line["seconds"] for line in [*ends, lines[-1]]) / 3600


def smooth(steps: Array, values: Array) -> Array:
    """Return at each step the mean of the values around it, weighted by a Gaussian."""
    width = SMOOTHING * (steps[-1] - steps[0]) or 1.0
    weights = np.exp(-0.5 * ((steps[:, None] - steps) / width) ** 2)
    means: Array = weights @ values / weights.sum(axis=1)
    return means


def tiled(pictures: Sequence[Image.Image]) -> Image.Image:
    """Return pictures of one size in rows."""
    width, height = pictures[0].size
    columns = min(COLUMNS, len(pictures))
    paper = Image.new("RGB", (columns * width, -(-len(pictures) // columns) * height), "white")
    for place, picture in enumerate(pictures):
        paper.paste(picture, (place % columns * width, place // columns * height))
    return paper


if __name__ == "__main__":
    main()
