"""Chooses the pictures: clear ones that stay apart from each other, in a fixed order; writes the index and a sheet.

    python -m emoji.pictures

A picture stays if its group is in, nobody left it out (choice.py), it leaves some background free, it stands out from
white, and no picture before it is closer than `APART` in the feature of features.py, mirrored or not. The few that
choice.py puts first may be a little closer, `APART_FIRST`, as a purple heart is to a blue one. Fewer pictures that stay
apart are worth more than many: a small model learns a picture by seeing it often.
"""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from emoji import choice, compose, index
from emoji.features import distances, feature
from emoji.fetch import FOLDER, NAMES, PICTURES
from emoji.index import INDEX, Row

Array = NDArray[np.float32]

SHEET = FOLDER / "pictures.png"
APART = 0.19  # the closest pairs above this can be told from a drawing; below it faces differ by an eyebrow
APART_FIRST = 0.14
PALEST = 0.15  # the same distance, from plain white
FULLEST = 0.73  # mean alpha: pictures in a filled rounded square have 0.74 and more, and no background to colour
SHARED = 3
CLOSEST_SHOWN = 12
COLUMNS, TILE, LINE = 24, 64, 12


def candidates() -> list[Row]:
    """Return every picture that has a name and that nobody left out: those to prefer first, then emojibase's order.

    Raises FileNotFoundError, naming the command that brings them, when the pictures are not there.
    """
    if not NAMES.is_file():
        raise FileNotFoundError(f"{NAMES}: no such file; run python -m emoji.fetch")
    files = {plain(path.stem): path.name for path in PICTURES.glob("*.webp")}
    left_out = {label for labels in choice.LEFT_OUT.values() for label in labels}
    rows = []
    for name in sorted(json.loads(NAMES.read_text(encoding="utf-8")), key=lambda name: name.get("order", 0)):
        label, group = name["label"], name.get("group")
        wanted = group in choice.GROUPS and (group != 1 or label in choice.PEOPLE)
        part = any(part in label for part in choice.LEFT_OUT_PARTS) and label != "crescent moon"
        if wanted and not part and label not in left_out and plain(name["hexcode"]) in files:
            file = files[plain(name["hexcode"])]
            rows.append(Row(file, label, tuple(name.get("tags", ())), choice.GROUPS[group]))
    ranks = {label: rank for rank, label in enumerate(choice.FIRST)}
    return sorted(rows, key=lambda row: ranks.get(row.label, len(ranks)))


def with_shared_tags(rows: list[Row]) -> list[Row]:
    """Return the rows with only those tags that `SHARED` of them have: they name kinds, the others are chat slang."""
    counts = Counter(tag for row in rows for tag in row.tags)
    return [
        replace(row, tags=tuple(tag for tag in row.tags if counts[tag] >= SHARED and tag.isalpha() and len(tag) > 2))
        for row in rows
    ]


def plain(code: str) -> str:
    """Return a code point sequence as both packages can be compared by: lower case, without the variation selector."""
    return code.lower().replace("-fe0f", "")


def chosen(pictures: Array, *, first: int) -> list[int]:
    """Return which cut-outs of a stack stay, in order; none too pale or too full.

    No two are closer than `APART_FIRST`; of those after the `first`, none is closer than `APART` to one before it.
    """
    straight = np.stack([feature(compose.on_background(picture)) for picture in pictures])
    pale = distances(straight, white_feature())[:, 0] < PALEST
    full = pictures[..., 3].mean(axis=(1, 2)) > FULLEST
    apart = closeness(pictures)
    kept: list[int] = []
    for number in np.flatnonzero(~pale & ~full):
        if not kept or apart[number, kept].min() >= (APART_FIRST if number < first else APART):
            kept.append(int(number))
    return kept


def closeness(pictures: Array) -> Array:
    """Return the distance of each pair of cut-outs on white, of the two ways to mirror one the smaller."""
    straight = np.stack([feature(compose.on_background(picture)) for picture in pictures])
    mirrored = np.stack([feature(compose.on_background(compose.mirror(picture))) for picture in pictures])
    return np.minimum(distances(straight, straight), distances(mirrored, straight))


def white_feature() -> Array:
    """Return the feature of an empty white picture as a stack of one."""
    return feature(np.ones((compose.SIDE, compose.SIDE, 3), dtype=np.float32))[None]


def closest(rows: list[Row], pictures: Array) -> list[str]:
    """Return a line each for the pairs that are closest to each other."""
    apart = np.triu(closeness(pictures), 1)
    apart[apart == 0] = np.inf
    pairs = np.column_stack(np.unravel_index(np.argsort(apart, axis=None)[:CLOSEST_SHOWN], apart.shape))
    return [f"{apart[a, b]:.3f}  {rows[a].label} | {rows[b].label}" for a, b in pairs]


def draw_sheet(rows: list[Row], path: Path = SHEET) -> None:
    """Write a sheet of all pictures, each above its label, for people to look through."""
    height = -(-len(rows) // COLUMNS) * (TILE + LINE)
    sheet = Image.new("RGB", (COLUMNS * (TILE + 4), height), "white")
    draw = ImageDraw.Draw(sheet)
    for place, row in enumerate(rows):
        left, top = place % COLUMNS * (TILE + 4), place // COLUMNS * (TILE + LINE)
        with Image.open(row.path) as image:
            small = image.convert("RGBA").resize((TILE, TILE), Image.Resampling.LANCZOS)
        sheet.paste(small, (left, top), small)
        draw.text((left, top + TILE), row.label[:13], fill="black", font_size=9)
    sheet.save(path)


def main() -> None:
    """Write the index and the sheet, and print what is in it."""
    try:
        rows = candidates()
    except FileNotFoundError as error:
        raise SystemExit(f"error: {error}") from error
    pictures = np.stack([compose.load(row.path) for row in rows])
    kept = chosen(pictures, first=sum(row.label in choice.FIRST for row in rows))
    # Those to prefer came first to be kept; the index goes by code point, which no later choice reorders.
    kept.sort(key=lambda number: rows[number].file)
    rows, pictures, seen = with_shared_tags([rows[number] for number in kept]), pictures[kept], len(rows)
    index.save(rows)
    draw_sheet(rows)
    print(f"{len(rows)} of {seen} pictures: {dict(Counter(row.group for row in rows))}")
    print(f"{sum(compose.may_mirror(row.label) for row in rows)} of them may be mirrored; the closest pairs:")
    print("\n".join(closest(rows, pictures)))
    print(f"index: {INDEX}, sheet: {SHEET}")


if __name__ == "__main__":
    main()
