"""A small line chart drawn with Pillow: one curve with its noise behind it, axes, ticks and a title.

Everything is laid out in points, drawn at four pixels a point and halved, which is all the smoothing that lines need.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from latentrt.report.plots import ticks

Array = NDArray[np.float64]
Number = TypeVar("Number", float, Array)

WIDTH, HEIGHT = 420, 230  # points
LEFT, RIGHT, TOP, BOTTOM = 44, 40, 34, 36  # around the area of the curve
DRAWN, KEPT = 4, 2  # pixels a point
FONT, TITLE = 10, 12
START = 0.01  # of the whole: values before it may be far off and do not count for the range that is shown
INK, QUIET, GRID, RAW, CURVE = (40, 40, 40), (120, 120, 120), (228, 228, 228), (188, 208, 236), (31, 90, 180)


@dataclass(frozen=True)
class Chart:
    """What to draw: `raw` thin and `smooth` over it, both at the places `x`; the end of `smooth` is written out."""

    title: str
    note: str
    x_name: str
    x: Array
    raw: Array
    smooth: Array


def draw(chart: Chart) -> Image.Image:
    """Return the chart: RGB, 2 pixels a point."""
    paper = Image.new("RGB", (WIDTH * DRAWN, HEIGHT * DRAWN), "white")
    pen = ImageDraw.Draw(paper)
    across = 0.0, float(chart.x[-1])
    upward = span(chart.raw[chart.x >= START * chart.x[-1]])
    text(pen, (LEFT, 8), chart.title, "la", TITLE)
    text(pen, (WIDTH - RIGHT, 10), chart.note, "ra", ink=QUIET)
    text(pen, ((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4), chart.x_name, "md", ink=QUIET)
    axes(pen, across, upward)
    curves(paper, chart, across, upward)
    end = float(chart.smooth[-1])
    text(pen, (WIDTH - RIGHT + 5, height(end, upward)), f"{end:.3g}", "lm", ink=CURVE)
    return paper.resize((WIDTH * KEPT, HEIGHT * KEPT), Image.Resampling.LANCZOS)


def axes(pen: ImageDraw.ImageDraw, across: tuple[float, float], upward: tuple[float, float]) -> None:
    """Draw the lower axis with its ticks, and a line across for each tick of the other."""
    foot = HEIGHT - BOTTOM
    for value in ticks(*upward):
        y = height(value, upward)
        line(pen, [(LEFT, y), (WIDTH - RIGHT, y)], GRID)
        text(pen, (LEFT - 5, y), f"{value:,g}", "rm")
    line(pen, [(LEFT, foot), (WIDTH - RIGHT, foot)], INK)
    for value in ticks(*across):
        x = LEFT + share(value, across) * (WIDTH - LEFT - RIGHT)
        line(pen, [(x, foot), (x, foot + 3)], INK)
        text(pen, (x, foot + 5), f"{value:,g}", "ma")


def height(value: float, upward: tuple[float, float]) -> float:
    """Return how far down the chart a value is, in points."""
    return HEIGHT - BOTTOM - share(value, upward) * (HEIGHT - TOP - BOTTOM)


def curves(paper: Image.Image, chart: Chart, across: tuple[float, float], upward: tuple[float, float]) -> None:
    """Draw both curves; what is outside of the area is cut off."""
    left, top, right, bottom = (edge * DRAWN for edge in (LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM))
    area = paper.crop((left, top, right, bottom))
    pen = ImageDraw.Draw(area)
    for values, colour, width in ((chart.raw, RAW, 1.0), (chart.smooth, CURVE, 1.75)):
        x, y = share(chart.x, across) * area.width, (1 - share(values, upward)) * area.height
        pen.line(list(zip(x.tolist(), y.tolist(), strict=True)), colour, round(width * DRAWN), joint="curve")
    paper.paste(area, (left, top))


def span(values: Array) -> tuple[float, float]:
    """Return the range to show: that of the values, and some air."""
    low, high = float(values.min()), float(values.max())
    air = 0.06 * (high - low) or 1.0
    return low - air, high + air


def share(value: Number, ends: tuple[float, float]) -> Number:
    """Return where between the ends a value is, 0 to 1."""
    return (value - ends[0]) / (ends[1] - ends[0])


def line(pen: ImageDraw.ImageDraw, places: list[tuple[float, float]], ink: tuple[int, int, int]) -> None:
    """Draw a thin line; places are in points."""
    pen.line([(x * DRAWN, y * DRAWN) for x, y in places], ink, DRAWN // 2)


def text(
    pen: ImageDraw.ImageDraw,
    place: tuple[float, float],
    words: str,
    anchor: str,
    size: int = FONT,
    *,
    ink: tuple[int, int, int] = INK,
) -> None:
    """Write words; the place and the size are in points, the anchor is Pillow's."""
    pen.text((place[0] * DRAWN, place[1] * DRAWN), words, ink, anchor=anchor, font_size=size * DRAWN)
