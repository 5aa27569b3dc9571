"""Pictures as text that a terminal draws: kitty's graphics protocol, sixels, or half blocks in true colour.

Sources: https://sw.kovidgoyal.net/kitty/graphics-protocol/ (direct transmission of a PNG, in chunks of 4096 bytes), and
DEC's VT330/340 Programmer Reference Manual, chapter 14 (sixels).
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

    from latentrt.tensors import Array

ESCAPE, END = "\x1b", "\x1b\\"
CHUNK = 4096
SIXEL_COLOURS, SIXEL_ROWS = 255, 6
# Pixels per column of a usual terminal, for the width of a picture that is not drawn in blocks.
PIXELS_PER_COLUMN = 8
UPPER_HALF, RESET = "\N{UPPER HALF BLOCK}", f"{ESCAPE}[0m"
KITTY_PROGRAMS = ("WezTerm", "ghostty")
SIXEL_TERMINALS = ("sixel", "mlterm", "foot", "contour")


def form_for(environment: Mapping[str, str]) -> str:
    """The form that a terminal with these environment variables draws: "kitty", "sixel" or "blocks"."""
    terminal, program = environment.get("TERM", ""), environment.get("TERM_PROGRAM", "")
    if "KITTY_WINDOW_ID" in environment or "kitty" in terminal or program in KITTY_PROGRAMS:
        return "kitty"
    return "sixel" if any(name in terminal for name in SIXEL_TERMINALS) else "blocks"


def drawn(image: Image, form: str, columns: int) -> str:
    """Returns the text that draws a picture, at most `columns` wide, without a line break at its end.

    form: a key of `FORMS`. Pictures that are too wide are reduced, none is enlarged.
    """
    return FORMS[form](image.convert("RGB"), columns)


def kitty(image: Image, columns: int) -> str:
    """A PNG in kitty's protocol."""
    content = io.BytesIO()
    fitted(image, columns * PIXELS_PER_COLUMN).save(content, "PNG")
    data = base64.standard_b64encode(content.getvalue()).decode()
    chunks = [data[at : at + CHUNK] for at in range(0, len(data), CHUNK)]
    last = len(chunks) - 1
    keys = ["f=100,a=T,", *[""] * last]
    return "".join(
        f"{ESCAPE}_G{key}m={int(number < last)};{chunk}{END}"
        for number, (key, chunk) in enumerate(zip(keys, chunks, strict=True))
    )


def sixel(image: Image, columns: int) -> str:
    """A picture of 255 colours, in bands of six rows; a band is drawn once per colour that it has."""
    reduced = fitted(image, columns * PIXELS_PER_COLUMN).quantize(SIXEL_COLOURS)
    indices, palette = np.asarray(reduced), np.array(reduced.getpalette() or [], np.int64).reshape(-1, 3)
    height, width = indices.shape
    colours = [
        f"#{number};2;{';'.join(str((value * 100 + 127) // 255) for value in colour)}"
        for number, colour in enumerate(palette)
    ]
    bands = [indices[top : top + SIXEL_ROWS] for top in range(0, height, SIXEL_ROWS)]
    return f'{ESCAPE}Pq"1;1;{width};{height}{"".join(colours)}{"-".join(map(band_text, bands))}{END}'


def band_text(band: Array) -> str:
    """The sixels of a band: each colour from the left edge; "$" returns to it."""
    weights = (1 << np.arange(len(band)))[:, np.newaxis]
    return "$".join(f"#{colour}{runs(((band == colour) * weights).sum(axis=0) + 63)}" for colour in np.unique(band))


def runs(codes: Array) -> str:
    """Characters of these codes; equal ones in a row as "!COUNT"."""
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    counts = np.diff(starts, append=len(codes))
    parts = (
        f"!{count}{chr(code)}" if count > 3 else chr(code) * count
        for code, count in zip(codes[starts], counts, strict=True)
    )
    return "".join(parts)


def blocks(image: Image, columns: int) -> str:
    """Half blocks in true colour: each character is a pixel over another."""
    pixels = np.asarray(fitted(image, columns))
    if len(pixels) % 2:
        pixels = np.concatenate([pixels, pixels[-1:]])
    lines = []
    for upper, lower in zip(pixels[::2], pixels[1::2], strict=True):
        cells = (
            f"{ESCAPE}[38;2;{r};{g};{b};48;2;{red};{green};{blue}m{UPPER_HALF}"
            for (r, g, b), (red, green, blue) in zip(upper.tolist(), lower.tolist(), strict=True)
        )
        lines.append("".join(cells) + RESET)
    return "\n".join(lines)


def fitted(image: Image, width: int) -> Image:
    """The picture, reduced to a width if it is wider."""
    if image.width <= width:
        return image
    return image.resize((width, max(1, round(image.height * width / image.width))))


FORMS: Mapping[str, Callable[[Image, int], str]] = {"kitty": kitty, "sixel": sixel, "blocks": blocks}
