"""Write docs/options.md, the reference of a request's fields: python docs/make_options.py."""

import re
from dataclasses import MISSING, Field, fields
from pathlib import Path

from latentrt.cli.request_options import AFTER_SIZE, BEFORE_SIZE, HEADINGS
from latentrt.request.request import Request
from latentrt.request.rows import Choice, Flag, Kind, Number, Whole, row_of

PAGE = Path(__file__).parent / "options.md"
START = """# Options of a request

<!-- python docs/make_options.py -->

Every field of `latentrt.Request`, which `pipe.generate` takes as keyword arguments too, and its option of
`latentrt generate`. The groups are those of `latentrt generate --help`, which also lists the options that are not part
of a request: `--bundle`, `--engine`, `--lora`, `--refiner`, `--frames`, `--out` and others.

```python
import latentrt

with latentrt.load("emoji") as pipe:
    result = pipe.generate("a red apple", steps=20, seed=7, sampler="dpmpp_2m", sigmas="karras")
    result.save("apple.png")
```
```
latentrt generate "a red apple" --steps 20 --seed 7 --sampler dpmpp_2m --sigmas karras --out apple.png
```

A field marked *needs* is an error without the other field. A default of "the bundle's" is in `bundle.json`;
`latentrt inspect BUNDLE` shows it. More on each: [prompts](prompts.md), [samplers, curves, noise and
guidance](samplers.md), [images, control and sizes](tasks.md).
"""
HEADER = "| field | option | value | default | meaning |\n|---|---|---|---|---|"
TITLES = {**HEADINGS, "python": "Python alone"}
FIRST = ("prompt", *BEFORE_SIZE, *AFTER_SIZE, "width", "height")
OPTIONS = {"prompt": "`PROMPT`", "width": "`--size WxH`", "height": "`--size WxH`"}  # fields without an own option
VALUES = {
    "sampler": "[a sampler's name](samplers.md#samplers)",
    "sigmas": "[a curve's name](samplers.md#curves), or falling numbers",
    "init": "an image file, or a Pillow image",
    "mask": "an image file, or a Pillow image",
    "controls": "a list of `latentrt.Control`",
    "latents": "an array (batch, channels, rows, columns)",
    "eta": "a number, 0 to 1",
    "gamma": "a number, 0 to 1",
    "order": "a whole number, 1 to 4",
    "solver": "`midpoint`, `heun`, `bh1` or `bh2`",
}
DEFAULTS = {
    "prompt": "has to be given",
    "width": "the bundle's, or the image's",
    "height": "the bundle's, or the image's",
    **dict.fromkeys(("eta", "gamma", "order", "solver"), "the sampler's"),
}


def main() -> None:
    """Writes the page."""
    PAGE.write_text(page(), encoding="utf-8")


def page() -> str:
    """The text of the page."""
    parts = [START]
    for heading, title in TITLES.items():
        lines = [line(one) for one in fields(Request) if heading_of(one) == heading]
        parts.append("\n".join([f"## {title}", "", HEADER, *lines, ""]))
    return "\n".join(parts)


def heading_of(one: Field) -> str:
    """The heading of a field's option in the help."""
    return "first" if one.name in FIRST else row_of(one).group


def line(one: Field) -> str:
    """The table's row of a field."""
    row = row_of(one)
    needs = f" *Needs* `{row.only_with}`." if row.only_with else ""
    cells = (f"`{one.name}`", option_of(one), value_of(one), default_of(one), row.help + needs)
    return "| " + " | ".join(re.sub(r"([|<])", r"\\\1", cell) for cell in cells) + " |"


def option_of(one: Field) -> str:
    """The option of `latentrt generate`, with the form of its value."""
    row = row_of(one)
    if row.option is None:
        return OPTIONS.get(one.name, "")
    return f"`--{row.option or one.name.replace('_', '-')} {metavar_of(one)}".rstrip() + "`"


def metavar_of(one: Field) -> str:
    """The form of an option's value; nothing for a flag."""
    row = row_of(one)
    if row.metavar or isinstance(row.kind, Flag):
        return row.metavar
    return "N" if isinstance(row.kind, Whole) or one.name == "order" else "F"


def value_of(one: Field) -> str:
    """The values that a field takes."""
    described = VALUES.get(one.name) or kind_in_words(row_of(one).kind)
    if "Sequence[float]" in one.type and one.name not in VALUES:
        return f"{described}, or one per step"
    plural = described.replace("a whole number", "whole numbers").replace("a number", "numbers")
    if one.type.startswith("tuple"):
        return f"two {plural}"
    return f"four {plural}" if one.name == "extend" else described


def kind_in_words(kind: Kind) -> str:
    """A kind of value with its bounds."""
    if isinstance(kind, Choice):
        *others, last = (f"`{value}`" for value in kind.values)
        return f"{', '.join(others)} or {last}"
    if isinstance(kind, Whole):
        return "a whole number" + bounds(kind.lowest, kind.highest)
    if isinstance(kind, Number):
        return "a number" + bounds(*(None if abs(end) == float("inf") else end for end in (kind.lowest, kind.highest)))
    return "yes or no" if isinstance(kind, Flag) else "text"


def bounds(lowest: float | None, highest: float | None) -> str:
    """A range in words; nothing for none."""
    if lowest is None:
        return ""
    if highest == 2**64 - 1:
        return f", {lowest} to 2^64 - 1"
    return f", {lowest} and above" if highest is None else f", {lowest} to {highest}"


def default_of(one: Field) -> str:
    """The default: in words where None stands for one, else the field's own."""
    row = row_of(one)
    if one.name in DEFAULTS or row.usual:
        return DEFAULTS.get(one.name) or row.usual
    if one.default in (None, MISSING, "", ()):
        return "none"
    if isinstance(one.default, bool):
        return "yes" if one.default else "no"
    return f"`{one.default}`" if isinstance(one.default, str) else f"{one.default:g}"


if __name__ == "__main__":
    main()
