"""Prompts in a picture's text, in AUTOMATIC1111's layout: what is written is what is read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import strategies as st

import latentrt
from latentrt.pipeline.metadata import read_png, record_of, save_with_text, texts_of
from latentrt.recipes.infotext import NEGATIVE, recipe_of
from latentrt.recipes.texts import read_texts
from torture.generated import for_each
from torture.tally import Given, Tally

MARKS = [
    "Negative prompt: ",
    "Steps: 20",
    ", ",
    '"',
    "\\",
    ":",
    "\n",
    "\r\n",
    "\t",
    "\N{RED APPLE}",
    "é",
    "a",
    "{",
    "<lora:a:1>",
]
TEXTS = st.lists(
    st.sampled_from(MARKS) | st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=5), max_size=8
)


def run(asked: Given) -> Tally:
    """As many pairs of a prompt and a negative prompt."""
    tally = Tally()
    with latentrt.load("emoji", engine="onnxruntime", verify=False) as pipeline:
        result = pipeline.generate("a red apple", steps=1, width=64, height=64, seed=0)

    def case(prompt: str, negative: str) -> None:
        own, texts = written(result, prompt, negative, asked.scratch / "picture.png")
        same = (own["prompt"], own["negative"]) == (prompt, negative)
        tally.add("our own record", fault="" if same else f"{(prompt, negative)!r} became {own!r}"[:300])
        found = recipe_of(texts)
        read = (found.settings.get("prompt"), found.settings.get("negative", "")) if found else None
        alike = read == (prompt, negative)
        tally.add(
            "their layout" if alike else "their layout, ambiguous",
            fault="" if alike or is_ambiguous(prompt, negative) else f"{(prompt, negative)!r} became {read!r}"[:300],
        )

    for_each(case, TEXTS.map("".join), TEXTS.map("".join), count=asked.count, at=asked.seed)
    return tally


def written(result: Any, prompt: str, negative: str, path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Saves a picture with these prompts; its own record and its texts, as read from the file."""
    record = {**record_of(result.settings, 0, result.provenance()), "prompt": prompt, "negative": negative}
    save_with_text(result.images[0], path, texts_of(record))
    return read_png(path), read_texts(path)


def is_ambiguous(prompt: str, negative: str) -> bool:
    """Whether AUTOMATIC1111's layout cannot tell these from others: it marks neither ends nor lines of a text."""
    trimmed = any(text != text.strip() for text in (prompt, negative))
    return trimmed or "\r" in prompt + negative or any(line.startswith(NEGATIVE) for line in prompt.split("\n"))
