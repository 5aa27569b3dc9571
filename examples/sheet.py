"""Sheets of pictures with captions, and tables of pictures with names of rows and columns."""

import textwrap
from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw

FONT, LINE, GAP = 12, 15, 12
LETTER = 6.2  # mean width of a letter in pixels, for breaking lines
PAPER, INK = "white", (40, 40, 40)


def sheet(pictures: Sequence[Image.Image], captions: Sequence[str], columns: int) -> Image.Image:
    """Return a sheet of equally large pictures in rows, each with its caption below, wrapped to its width."""
    width, height = pictures[0].size
    texts = [broken(caption, width + GAP // 2) for caption in captions]
    rows = [slice(start, start + columns) for start in range(0, len(pictures), columns)]
    heights = [height + LINE * max(map(lines, texts[row])) + GAP for row in rows]
    paper, draw = new((width + GAP) * columns + GAP, sum(heights) + GAP)
    top = GAP
    for row, used in zip(rows, heights, strict=True):
        for column, (picture, text) in enumerate(zip(pictures[row], texts[row], strict=True)):
            left = GAP + column * (width + GAP)
            paper.paste(picture, (left, top))
            write(draw, (left + width / 2, top + height + 3), text, "ma")
        top += used
    return paper


def table(rows: Mapping[str, Sequence[Image.Image]], columns: Sequence[str]) -> Image.Image:
    """Return a sheet with a row of pictures per name; row names are at the left, column names at the top."""
    width, height = next(iter(rows.values()))[0].size
    titles = [broken(name, width + GAP // 2) for name in columns]
    names = [broken(name, width * 2 // 3) for name in rows]
    left = GAP + round(LETTER * max(len(line) for name in names for line in name.splitlines())) + GAP
    top = GAP + LINE * max(map(lines, titles))
    paper, draw = new(left + len(columns) * (width + GAP), top + len(rows) * (height + GAP))
    for column, title in enumerate(titles):
        write(draw, (left + column * (width + GAP) + width / 2, top - 3), title, "md")
    for name, pictures in zip(names, rows.values(), strict=True):
        write(draw, (left - GAP, top + height / 2), name, "rm")
        for column, picture in enumerate(pictures):
            paper.paste(picture, (left + column * (width + GAP), top))
        top += height + GAP
    return paper


def broken(text: str, width: float) -> str:
    """Return the text wrapped to lines of about `width` pixels: as few lines as possible, about equally long."""
    letters = max(1, int(width / LETTER))
    fewest = lines(filled(text, letters))
    while letters > 1 and lines(filled(text, letters - 1)) == fewest:
        letters -= 1
    return filled(text, letters)


def filled(text: str, letters: int) -> str:
    """Return the text wrapped to lines of at most that many letters, except for longer words."""
    return textwrap.fill(text, letters, break_long_words=False, break_on_hyphens=False)


def lines(text: str) -> int:
    """Return the number of lines."""
    return text.count("\n") + 1


def new(width: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """Return an empty sheet and a drawing object for it."""
    paper = Image.new("RGB", (width, height), PAPER)
    return paper, ImageDraw.Draw(paper)


def write(draw: ImageDraw.ImageDraw, place: tuple[float, float], text: str, anchor: str) -> None:
    """Draw lines of text at a position, with an anchor as in Pillow."""
    draw.multiline_text(place, text, INK, anchor=anchor, align="center", spacing=LINE - FONT, font_size=FONT)


def small(picture: Image.Image) -> Image.Image:
    """Return the picture with every value rounded to a multiple of 5: invisible, and half the bytes as PNG.

    A palette of 256 colours would take less, but over two dozen pictures its steps show.
    """
    return picture.point([round(value / 5) * 5 for value in range(256)] * 3)
