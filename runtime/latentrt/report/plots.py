"""Plots as inline SVG, without scripts: colours come from the page's style, and the pointer shows titles."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 480, 250
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 28, 40
LETTER = 6.5  # approximate width of a letter
SHADES = (0.0, 0.25, 0.5, 0.75, 1.0)
TICKS = 5
CELL_WIDTH, CELL_HEIGHT = 6, 14
BAR_HEIGHT, BAR_PITCH = 22, 52

Span = tuple[float, float]
Values = Sequence[float]


@dataclass(frozen=True)
class Frame:
    """The area of a plot: the ranges of values along x and y, its size with margins and its left margin in pixels."""

    across: Span
    upward: Span
    width: float = WIDTH
    height: float = HEIGHT
    left: float = LEFT

    def x(self, value: float) -> float:
        """x of a value, in pixels."""
        return round(self.left + position(value, self.across) * (self.width - self.left - RIGHT), 2)

    def y(self, value: float) -> float:
        """y of a value, in pixels from the top."""
        return round(self.height - BOTTOM - position(value, self.upward) * (self.height - TOP - BOTTOM), 2)


@dataclass(frozen=True)
class Line:
    """A curve and its name. style: the CSS class of its colour."""

    name: str
    values: Values
    style: str


@dataclass(frozen=True)
class Mark:
    """One value with the title that the pointer shows."""

    value: float
    title: str
    style: str = "one"


def lines(curves: Sequence[Line], x_name: str, y_name: str, *, percent: bool = False) -> str:
    """Curves over 1, 2, 3 ..., from zero up; the pointer shows each point's value."""
    count = len(curves[0].values)
    unit = "%" if percent else ""
    scaled = [
        Line(curve.name, [value * (100 if percent else 1) for value in curve.values], curve.style) for curve in curves
    ]
    frame = Frame((1, max(count, 2)), (0, ceiling(max(max(curve.values) for curve in scaled))))
    parts = [axes(frame, x_name, y_name, whole_ticks(1, count))]
    for curve in scaled:
        points = [(frame.x(index), frame.y(value)) for index, value in enumerate(curve.values, 1)]
        parts.append(f'<polyline class="{curve.style}" points="{" ".join(f"{x},{y}" for x, y in points)}"/>')
        for (x, y), value in zip(points, curve.values, strict=True):
            parts.append(dot(x, y, f"{curve.name}: {value:.3g}{unit}", curve.style))
    return svg(frame, parts, f"{y_name} over {x_name}") + legend((curve.name, curve.style) for curve in curves)


def dots(marks: Sequence[Mark], x_name: str, y_name: str, levels: Sequence[tuple[str, float]] = ()) -> str:
    """One dot per mark, in order. levels: horizontal lines, by name."""
    heights = [*(mark.value for mark in marks), *(value for _, value in levels)]
    # Names of levels are to the right of all dots, so that no dot is under a name.
    name_width = LETTER * max((len(name) + 2 for name, _ in levels), default=0)
    right = 0.5 + len(marks) / (1 - name_width / (WIDTH - LEFT - RIGHT))
    frame = Frame((0.5, right), padded(heights))
    parts = [axes(frame, x_name, y_name, whole_ticks(1, len(marks)))]
    for name, value in levels:
        parts.append(level(frame, name, value))
    for index, mark in enumerate(marks, 1):
        parts.append(dot(frame.x(index), frame.y(mark.value), mark.title, mark.style))
    return svg(frame, parts, f"{y_name} of each of {len(marks)}, {x_name}")


def columns(marks: Sequence[Mark | None], x_name: str, y_name: str, missing: Sequence[str]) -> str:
    """One column per mark, from zero up; None is a tick on the axis with the title from `missing`.

    The plot is as wide as its columns need, and scrolls.
    """
    width = max(WIDTH, LEFT + RIGHT + CELL_WIDTH * len(marks))
    heights = [mark.value for mark in marks if mark is not None]
    frame = Frame((0.5, len(marks) + 0.5), (min([0, *heights]), ceiling(max([0, *heights]))), width)
    thick = round((width - LEFT - RIGHT) / max(1, len(marks)) - 1, 2)
    parts = [axes(frame, x_name, y_name, whole_ticks(1, len(marks)))]
    foot = frame.y(0)
    for index, mark in enumerate(marks):
        x = frame.x(index + 0.5)
        if mark is None:
            parts.append(box(x, foot - 5, thick, 10, "quiet", missing[index]))
            continue
        top = frame.y(mark.value)
        parts.append(box(x, min(top, foot), thick, abs(foot - top), mark.style, mark.title))
    return scrolled(svg(frame, parts, f"{y_name} of {len(marks)} {x_name}", fixed=True))


def bars(rows: Sequence[tuple[str, Sequence[Mark]]], x_name: str) -> str:
    """One stacked bar per row, from zero: its marks one after another, its name above it."""
    longest = max(sum(mark.value for mark in marks) for _, marks in rows)
    frame = Frame((0, ceiling(longest)), (0, 1), 2 * WIDTH, TOP + BOTTOM + BAR_PITCH * len(rows))
    foot = frame.height - BOTTOM
    parts = []
    for value in ticks(*frame.across):
        x = frame.x(value)
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{TOP}" y2="{foot}"/>')
        parts.append(words(x, foot + 16, f"{value:g}", "middle"))
    for row, (name, marks) in enumerate(rows):
        top, start = TOP + BAR_PITCH * row + BAR_PITCH - BAR_HEIGHT, 0.0
        parts.append(words(LEFT, top - 6, name, "start"))
        for mark in marks:
            left, start = frame.x(start), start + mark.value
            parts.append(box(left, top, max(0.0, frame.x(start) - left), BAR_HEIGHT, mark.style, mark.title))
    parts.append(words(frame.width - RIGHT, foot + 33, x_name, "end"))
    return scrolled(svg(frame, parts, f"{len(rows)} bars, {x_name}", fixed=True))


def heat(
    rows: Sequence[Values], titles: Sequence[Sequence[str]], x_name: str, y_names: Sequence[str], scale: str
) -> str:
    """A heat map of values from 0 to 1. rows: from the top, all of the same length. scale: the legend's label."""
    count = len(rows[0])
    left = max(LEFT, 6 + LETTER * max(map(len, y_names)))
    cell = max(CELL_WIDTH, (WIDTH - left - RIGHT) / count)
    frame = Frame((0, count), (0, len(rows)), left + RIGHT + cell * count, TOP + BOTTOM + CELL_HEIGHT * len(rows), left)
    parts = []
    for row, (values, names) in enumerate(zip(rows, titles, strict=True)):
        y = TOP + row * CELL_HEIGHT
        parts.append(words(left - 6, y + CELL_HEIGHT - 3, y_names[row], "end"))
        for index, (value, name) in enumerate(zip(values, names, strict=True)):
            shape = f'x="{frame.x(index)}" y="{y}" width="{round(cell - 1, 2)}" height="{CELL_HEIGHT - 1}"'
            parts.append(f'<rect class="one" fill-opacity="{value:.2f}" {shape}><title>{escape(name)}</title></rect>')
    parts.append(words(left, frame.height - BOTTOM + 18, x_name, "start"))
    parts.append(words(left, TOP - 10, "\u2193 timesteps", "start"))
    return scrolled(svg(frame, parts, x_name, fixed=True)) + shades(scale)


def shades(name: str) -> str:
    """Colour scale of a heat map."""
    keys = "".join(f'<span><i class="one" style="opacity: {shade:g}"></i>{shade:g}</span>' for shade in SHADES)
    return f'<p class="legend">{escape(name)}: {keys}</p>'


def band(lows: Values, highs: Values, clip: Span | None, names: Sequence[str], x_name: str, y_name: str) -> str:
    """The area between two curves. names: labels of the x positions. clip: two horizontal lines."""
    frame = Frame((1, max(len(lows), 2)), padded([*lows, *highs, *(clip or ())]), width=320, height=170)
    upper = [(frame.x(index), frame.y(value)) for index, value in enumerate(highs, 1)]
    lower = [(frame.x(index), frame.y(value)) for index, value in enumerate(lows, 1)]
    outline = " ".join(f"{x},{y}" for x, y in (*upper, *reversed(lower)))
    positions = [int(tick) for tick in whole_ticks(1, len(lows))]
    labels = {float(position): names[position - 1] for position in positions}
    parts = [axes(frame, x_name, y_name, positions, labels), f'<polygon class="one" points="{outline}"/>']
    parts += [level(frame, "", value) for value in clip or ()]
    return svg(frame, parts, f"range over {x_name}")


def axes(
    frame: Frame, x_name: str, y_name: str, x_ticks: Iterable[float], labels: Mapping[float, str] | None = None
) -> str:
    """The grid lines of the y ticks, the x axis, and the names of both axes; the y axis's name is above the plot.

    labels: texts of x ticks in place of their numbers.
    """
    texts = labels or {}
    parts = []
    for value in ticks(*frame.upward):
        y = frame.y(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{frame.width - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(words(LEFT - 6, y + 4, f"{value:g}", "end"))
    foot = frame.height - BOTTOM
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{frame.width - RIGHT}" y1="{foot}" y2="{foot}"/>')
    parts += [words(frame.x(value), foot + 16, texts.get(value, f"{value:g}"), "middle") for value in x_ticks]
    parts.append(words(frame.width - RIGHT, foot + 33, x_name, "end"))
    parts.append(words(6, 14, f"\u2191 {y_name}", "start"))
    return "".join(parts)


def level(frame: Frame, name: str, value: float) -> str:
    """A dashed horizontal line with its name above its right end."""
    y = frame.y(value)
    line = f'<line class="level" x1="{LEFT}" x2="{frame.width - RIGHT}" y1="{y}" y2="{y}"/>'
    return line + (words(frame.width - RIGHT, y - 5, name, "end") if name else "")


def dot(x: float, y: float, title: str, style: str) -> str:
    """A small dot with a larger transparent one around it, which is easy to point at."""
    visible = f'<circle class="{style}" cx="{x}" cy="{y}" r="3.5"/>'
    return f'<g>{visible}<circle class="reach" cx="{x}" cy="{y}" r="9"/><title>{escape(title)}</title></g>'


def box(x: float, y: float, width: float, height: float, style: str, title: str) -> str:
    """A filled rectangle."""
    shape = f'x="{round(x, 2)}" y="{round(y, 2)}" width="{round(width, 2)}" height="{round(height, 2)}"'
    return f'<rect class="{style}" {shape}><title>{escape(title)}</title></rect>'


def words(x: float, y: float, text: str, anchor: str) -> str:
    """A text at (x, y). anchor: SVG's text-anchor."""
    return f'<text x="{round(x, 2)}" y="{round(y, 2)}" text-anchor="{anchor}">{escape(text)}</text>'


def svg(frame: Frame, parts: Iterable[str], label: str, *, fixed: bool = False) -> str:
    """The SVG element; it scales to the page's width unless `fixed`."""
    width, height = round(frame.width, 2), round(frame.height, 2)
    size = f' width="{width}" height="{height}"' if fixed else ""
    return f'<svg viewBox="0 0 {width} {height}"{size} role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'


def scrolled(picture: str) -> str:
    """The picture in a frame that scrolls sideways if the page is narrower."""
    return f'<div class="scrolled">{picture}</div>'


def legend(entries: Iterable[tuple[str, str]]) -> str:
    """Legend of the colours."""
    keys = "".join(f'<span><i class="{style}"></i>{escape(name)}</span>' for name, style in entries)
    return f'<p class="legend">{keys}</p>'


def ticks(low: float, high: float, most: int = TICKS) -> list[float]:
    """At most `most` + 1 round numbers from `low` to `high`: multiples of 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(step for step in (power, 2 * power, 5 * power, 10 * power) if (high - low) / step <= most)
    return [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def whole_ticks(low: int, high: int) -> list[float]:
    """The first and the last whole number, and round numbers between them at a distance from both."""
    if high <= low:
        return [float(low)]
    gap = (high - low) / 12
    between = [value for value in ticks(low, high) if value.is_integer() and low + gap < value < high - gap]
    return [float(low), *between, float(high)]


def ceiling(value: float) -> float:
    """An upper end for an axis from zero to a value that may be zero."""
    return value * 1.08 if value > 0 else 1.0


def padded(values: Values) -> Span:
    """The range of the values with a margin."""
    margin = 0.08 * (max(values) - min(values)) or 1.0
    return min(values) - margin, max(values) + margin


def position(value: float, ends: Span) -> float:
    """Position of a value between the ends, 0 to 1."""
    return (value - ends[0]) / (ends[1] - ends[0])
