"""What a PNG says of its making: the text that AUTOMATIC1111's tools read, and one JSON object with all of it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from latentrt.errors import RequestError
from latentrt.result import Result
from latentrt.settings import with_seed

PARAMETERS, LATENTRT = "parameters", "latentrt"


def png_text(result: Result, image: int) -> dict[str, str]:
    """The text chunks for one image of a result: "parameters" for people and other tools, "latentrt" for this one."""
    settings = asdict(with_seed(result.settings, image))
    record = {
        "version": version(),
        "bundle": {"name": result.bundle, "sha256": result.sha256},
        "engine": result.engine,
        **{key: value for key, value in settings.items() if key != "seeds"},
        "seed": settings["seeds"][0],
    }
    return {PARAMETERS: infotext(record), LATENTRT: json.dumps(record, ensure_ascii=False)}


def infotext(record: dict[str, Any]) -> str:
    """AUTOMATIC1111's layout: the prompt, the negative prompt, then a line of settings."""
    settings = {
        "Steps": record["steps"],
        "Sampler": record["sampler"],
        "Schedule type": record["sigmas"],
        "CFG scale": record["guidance"],
        "Seed": record["seed"],
        "Size": f"{record['width']}x{record['height']}",
        "Model hash": record["bundle"]["sha256"][:10],
        "Model": quoted(record["bundle"]["name"]),
        "Version": f"latentrt {record['version']}",
    }
    lines = [record["prompt"]]
    if record["negative"]:
        lines.append(f"Negative prompt: {record['negative']}")
    return "\n".join([*lines, ", ".join(f"{key}: {value}" for key, value in settings.items())])


def quoted(value: str) -> str:
    """`value`, in JSON quotes where it holds what separates settings."""
    return json.dumps(value, ensure_ascii=False) if any(mark in value for mark in ',:\n"') else value


def read_png(path: Path) -> dict[str, Any]:
    """What a PNG says of its making: the JSON object of this package, or {"parameters": text} of another tool's.

    Raises RequestError when the file is no PNG or says nothing.
    """
    from PIL import Image

    try:
        with Image.open(path, formats=["PNG"]) as image:
            image.load()  # text may follow the pixels
            text = dict(image.info)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise RequestError(f"{path}: not a readable PNG ({error})") from error
    try:
        record = json.loads(text.get(LATENTRT, "null"))
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{path}: its {LATENTRT!r} text is not valid JSON ({error})") from error
    if isinstance(record, dict):
        return record
    if PARAMETERS in text:
        return {PARAMETERS: text[PARAMETERS]}
    raise RequestError(f"{path}: holds no generation data; images saved with --no-metadata have none")


def version() -> str:
    """The installed version of latentrt."""
    from importlib.metadata import version as installed

    return installed("latentrt")
