"""AUTOMATIC1111's layout, which many tools write: the prompt, the negative prompt, a line of settings.

The settings are read as in its `parse_generation_parameters`: `name: value`, separated by commas; values with commas
are in quotes.
"""

from __future__ import annotations

import json
import re
from typing import Any

from latentrt.recipes.recipe import Reader, Recipe, curve, read, real, sampler, size, text, whole

KEYS = ("parameters", "UserComment", "comment", "Description")  # names of the texts that hold it
NEGATIVE = "Negative prompt:"
PAIR = re.compile(r'\s*(\w[\w \-/]{1,60}):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
FEWEST = 3  # the fewest `name: value` pairs of a line of settings
VERSIONS = (
    (re.compile(r"latentrt\b"), "latentrt"),
    (re.compile(r"f\d|forge|neo\b|classic", re.IGNORECASE), "Forge"),
    (re.compile(r"v?\d+\.\d+\.\d+"), "AUTOMATIC1111"),
    (re.compile(r"stable-diffusion\.cpp"), "stable-diffusion.cpp"),
    (re.compile(r"fooocus", re.IGNORECASE), "Fooocus"),
    (re.compile(r"comfyui", re.IGNORECASE), "ComfyUI"),
)


def noise(value: Any) -> str | None:
    """The `noise` setting for A1111's "RNG"; None for a generator that latentrt does not have."""
    return {"cpu": "cpu", "nv": "cuda", "cuda": "cuda"}.get(str(value).lower())


def tiling(value: Any) -> str | None:
    """The `seamless` setting for A1111's "Tiling"."""
    return "xy" if str(value) == "True" else None


WORDS: dict[str, tuple[str, Reader]] = {
    "Steps": ("steps", whole),
    "Sampler": ("", sampler),
    "Schedule type": ("sigmas", curve),
    "Scheduler": ("sigmas", curve),
    "CFG scale": ("guidance", real),
    "Seed": ("seed", whole),
    "Size": ("", size),
    "Model": ("model", text),
    "Model hash": ("model_hash", text),
    "Class": ("class_label", whole),
    "Variation seed": ("variation_seed", whole),
    "Variation seed strength": ("variation_strength", real),
    "Denoising strength": ("strength", real),
    "Hires upscale": ("hires", real),
    "Hires steps": ("hires_steps", whole),
    "Clip skip": ("clip_skip", whole),
    "RNG": ("noise", noise),
    "Eta": ("eta", real),
    "Eta DDIM": ("eta", real),
    "Image CFG scale": ("image_guidance", real),
    "CFG Rescale": ("guidance_rescale", real),
    "Tiling": ("seamless", tiling),
    "Mask blur": ("mask_blur", real),
    "Masked area padding": ("mask_padding", whole),
}


def recipe_of(texts: dict[str, str]) -> Recipe | None:
    """Recipe in texts of this layout; None if no text has it."""
    for key in KEYS:
        found = parsed(texts[key]) if key in texts else None
        if found or (key == "parameters" and key in texts):
            prompt, negative, pairs = found or (texts[key], "", {})
            return translated(prompt, negative, pairs, texts.get("Software", ""))
    return None


def translated(prompt: str, negative: str, pairs: dict[str, str], software: str = "") -> Recipe:
    """The layout's parts as a recipe, in the fields of `Request`."""
    settings, other = read(pairs, WORDS)
    if "hires" in settings and "strength" in settings:
        settings["hires_strength"] = settings.pop("strength")
    return Recipe(tool_of(pairs, software), {"prompt": prompt, "negative": negative, **settings}, other)


def tool_of(pairs: dict[str, str], software: str) -> str:
    """The name of the tool that wrote the settings."""
    if "App" in pairs:
        return pairs["App"]
    if any(key.startswith("Civitai") for key in pairs):
        return "Civitai"
    version = pairs.get("Version", software)
    found = next((name for pattern, name in VERSIONS if pattern.match(version)), None)
    return found or "AUTOMATIC1111, or a tool that writes as it does"


def parsed(written: str) -> tuple[str, str, dict[str, str]] | None:
    """The prompt, the negative prompt and the settings; None for a text without settings."""
    lines = written.strip().split("\n")
    last = next((index for index in range(len(lines) - 1, -1, -1) if is_settings(lines[index])), None)
    if last is None:
        return None
    pairs = {key: unquoted(value) for key, value in PAIR.findall(lines[last])}
    texts = lines[:last]
    cut = next((index for index, line in enumerate(texts) if line.startswith(NEGATIVE)), len(texts))
    prompt, negative = "\n".join(texts[:cut]), "\n".join(texts[cut:]).removeprefix(NEGATIVE)
    return prompt.strip(), negative.strip(), pairs


def is_settings(line: str) -> bool:
    """True for a line of settings."""
    return line.startswith("Steps: ") or len(PAIR.findall(line)) >= FEWEST


def unquoted(value: str) -> str:
    """A value without its quotes."""
    try:
        return str(json.loads(value)) if value.startswith('"') and value.endswith('"') else value.strip()
    except ValueError:
        return value
