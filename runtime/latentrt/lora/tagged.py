"""The LoRA files that a request's prompts name, with their scales."""

from __future__ import annotations

import os
from pathlib import Path

from latentrt.errors import RequestError
from latentrt.lora.folder import find
from latentrt.prompt.errors import refuse
from latentrt.prompt.tags import Tag, tags_of
from latentrt.request.settings import Settings

FOLDER = "LATENTRT_LORAS"  # environment variable: the folder if none is given

Scales = dict[Path, tuple[float, float]]


def scales_in(settings: Settings, folder: str | Path | None) -> Scales:
    """Returns the UNet's and the text encoders' scale of each file that the prompt and its blend name.

    Scales of a file named twice add up. Scales are blended as the prompts are. Files with both scales at 0 are left
    out. Raises RequestError, pointing at the tag, if it is malformed or names no file.
    """
    spec = settings.text
    if spec.syntax == "plain":
        return {}
    strength = spec.blend_strength if spec.blend is not None else 0.0
    found: Scales = {}
    for text, part, where in ((spec.prompt, 1 - strength, ""), (spec.blend or "", strength, "blend: ")):
        try:
            for tag in tags_of(text, spec.lora_tags, strict=spec.syntax == "strict"):
                found = summed_scales(found, {file_of(tag, text, folder): (part * tag.unet, part * tag.text)})
        except RequestError as error:
            raise RequestError(f"{where}{error}") from error
    return {file: scales for file, scales in found.items() if scales != (0, 0)}


def summed_scales(scales: Scales, more: Scales) -> Scales:
    """The sum of both scales of each file."""
    found = dict(scales)
    for file, (unet, text) in more.items():
        before = found.get(file, (0.0, 0.0))
        found[file] = before[0] + unet, before[1] + text
    return found


def version_of(file: str | Path) -> tuple[int, int] | None:
    """A file's modification time in ns and its size; None if it does not exist."""
    try:
        status = os.stat(file)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def file_of(tag: Tag, text: str, folder: str | Path | None) -> Path:
    """The file that a tag names. Raises RequestError, pointing at the tag, if there is none."""
    where = folder or os.environ.get(FOLDER)
    if not where:
        refuse(text, tag.index, f"got the LoRA {tag.name!r}, expected a folder of LoRA files; name it with --lora-dir "
               f"(load(..., lora_dir=) in Python) or {FOLDER}")  # fmt: skip
    try:
        return find(Path(where), tag.name)
    except LookupError as error:
        refuse(text, tag.index, f"got the LoRA {tag.name!r}, {error.args[0]}")
