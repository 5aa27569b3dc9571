"""Subjects of pictures: what a model is asked to draw, as lines of text. A prompt, a class, or nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from latentrt.bundle.manifest import Classes, Manifest
from latentrt.prompt.file import read_prompts
from latentrt.request.settings import Settings

# Classes where none are given; as many as the evaluation prompts that ship.
CLASSES = 100
# Fractional part of the golden ratio: the first multiples of it, modulo 1, are spread evenly, whatever their number.
GOLDEN = 0.6180339887498949

Use = Literal["calibration", "evaluation"]


def subjects_of(manifest: Manifest, file: Path | None, shipped: Path, use: Use) -> tuple[str, ...]:
    """Returns the lines of `file`; without one, subjects that stand for all that the model draws.

    shipped: prompts for a model that takes prompts. A class model has labels spread over all classes, other ones for
    the evaluation than for the calibration; a model without any condition has one empty line.
    """
    if file is not None:
        return read_prompts(file)
    if manifest.classes is not None:
        return spread_labels(manifest.classes, use)
    return ("",) if manifest.text is None else read_prompts(shipped)


def spread_labels(classes: Classes, use: Use) -> tuple[str, ...]:
    """Labels spread evenly over all classes, as are the first few of them."""
    places = range(1 if use == "evaluation" else 0, 2 * CLASSES, 2)
    return tuple(str(int(place * GOLDEN % 1 * classes.count)) for place in places)


def subject_fields(manifest: Manifest, subject: str) -> dict[str, Any]:
    """The field of a request that asks for the subject."""
    if manifest.classes is None:
        return {"prompt": subject}
    return {"class_label": int(subject) if subject.isascii() and subject.isdecimal() else subject}


def subject_kind(manifest: Manifest) -> str:
    """The kind of the model's subjects, in the plural; empty for a model without any condition."""
    if manifest.classes is not None:
        return "classes"
    return "prompts" if manifest.text is not None else ""


def subject_text(settings: Settings) -> str:
    """The subject of a picture, for people; empty where there is none."""
    label = settings.model_inputs.class_label
    return settings.text.prompt if label is None else f"class {label}"
