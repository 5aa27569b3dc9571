"""Pieces of HTML that reports share: tables, tiles, pictures, numbers with units."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np
from PIL import Image

from latentrt.tensors import Array

AMPLIFIED = 8
UNIT = re.compile(r"(?<=\d) (?=(?:%|dB|ms|s|[kMG]?B|J|mJ|W)(?!\w))")
LARGEST_PX = 512  # longest side of a picture: three pictures of 1024 pixels would be 6 MB


def section(title: str, *content: str) -> str:
    """A heading and its content, which is markup; nothing if there is no content."""
    body = "".join(content)
    return f"<section><h2>{escape(title)}</h2>{body}</section>" if body else ""


def paragraph(text: str, style: str = "soft") -> str:
    """A paragraph of plain text."""
    return f'<p class="{style}">{escape(text)}</p>'


def folded(summary: str, content: str) -> str:
    """Content that is hidden until its summary is clicked."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def tiles(entries: Iterable[tuple[str, str, str]]) -> str:
    """Tiles of key numbers: the name, the value and a note of each, in plain text."""
    items = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(unbroken(value))}<small>{escape(unbroken(note))}</small></dd></div>"
        for name, value, note in entries
    )
    return f'<dl class="tiles">{items}</dl>'


def unbroken(text: str) -> str:
    """The text without line breaks between a number and its unit."""
    return UNIT.sub("\u00a0", text)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: int, highlighted: int | None = None) -> str:
    """A table of plain text. numbers: the number of last columns with numbers. highlighted: the row to highlight."""
    left = len(heads) - numbers
    body = []
    for index, row in enumerate([heads, *rows]):
        tag = "td" if index else "th"
        cells = (
            f'<{tag} class="{"words" if column < left else "number"}">{escape(text)}</{tag}>'
            for column, text in enumerate(row)
        )
        stress = ' class="own"' if highlighted is not None and index == highlighted + 1 else ""
        body.append(f"<tr{stress}>{''.join(cells)}</tr>")
    return f'<div class="table"><table>{"".join(body)}</table></div>'


def picture(pixels: Array, name: str) -> str:
    """An RGB picture, (height, width, 3) uint8, embedded in the page; scaled down if a side is over LARGEST_PX."""
    file = io.BytesIO()
    image = Image.fromarray(pixels)
    image.thumbnail((LARGEST_PX, LARGEST_PX), Image.Resampling.LANCZOS)
    image.save(file, format="PNG", optimize=True)
    data = base64.b64encode(file.getvalue()).decode()
    return f'<div><span>{escape(name)}</span><img alt="{escape(name)}" src="data:image/png;base64,{data}"></div>'


def difference(one: Array, other: Array) -> Array:
    """Absolute difference of two pictures times AMPLIFIED, black where they are equal; uint8."""
    amplified = np.abs(one.astype(np.int16) - other) * AMPLIFIED
    clipped: Array = np.minimum(amplified, 255).astype(np.uint8)
    return clipped


def decibels(value: float | None) -> str:
    """A ratio in dB; None stands for no difference."""
    return "equal" if value is None else f"{value:.1f} dB"


def megabytes(count: int) -> str:
    """A number of bytes as text, in MB or GB."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
