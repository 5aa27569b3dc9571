"""AUTOMATIC1111's layout, which many tools write: the prompt, the negative prompt, a line of settings.

The settings are read as its own `parse_generation_parameters` does: `name: value` with commas between, values in
quotes where they hold commas.
"""

from __future__ import annotations

import json
import re
from typing import Any

from latentrt.recipes.recipe import Reading, Recipe, curve, read, real, sampler, size, text, whole

PLACES = ("parameters", "UserComment", "comment", "Description")  # where tools put it
NEGATIVE = "Negative prompt:"
PAIR = re.compile(r'\s*(\w[\w \-/]{1,60}):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
FEWEST = 3  # settings that make a line one of settings
VERSIONS = (
    (re.compile(r"latentrt\b"), "latentrt"),
    (re.compile(r"f\d|forge|neo\b|classic", re.IGNORECASE), "Forge"),
    (re.compile(r"v?\d+\.\d+\.\d+"), "AUTOMATIC1111"),
    (re.compile(r"stable-diffusion\.cpp"), "stable-diffusion.cpp"),
    (re.compile(r"fooocus", re.IGNORECASE), "Fooocus"),
    (re.compile(r"comfyui", re.IGNORECASE), "ComfyUI"),
)


def noise(value: Any) -> str | None:
    """Whose random numbers they are; None for torch's on a GPU, as latentrt has torch's on the CPU and on CUDA."""
    return {"cpu": "cpu", "nv": "cuda", "cuda": "cuda"}.get(str(value).lower())


def tiling(value: Any) -> str | None:
    """The edges that meet."""
    return "xy" if str(value) == "True" else None


WORDS: dict[str, tuple[str, Reading]] = {
    "Steps": ("steps", whole),
    "Sampler": ("", sampler),
    "Schedule type": ("sigmas", curve),
    "Scheduler": ("sigmas", curve),
    "CFG scale": ("guidance", real),
    "Seed": ("seed", whole),
    "Size": ("", size),
    "Model": ("model", text),
    "Model hash": ("model_hash", text),
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
    """Recipe in texts of this layout; None if no text is in it."""
    for place in PLACES:
        found = parsed(texts[place]) if place in texts else None
        if found or (place == "parameters" and place in texts):
            prompt, negative, pairs = found or (texts[place], "", {})
            return translated(prompt, negative, pairs, texts.get("Software", ""))
    return None


def translated(prompt: str, negative: str, pairs: dict[str, str], software: str = "") -> Recipe:
    """The layout's parts in the words of a request."""
    settings, other = read(pairs, WORDS)
    if "hires" in settings and "strength" in settings:
        settings["hires_strength"] = settings.pop("strength")
    return Recipe(tool_of(pairs, software), {"prompt": prompt, "negative": negative, **settings}, other)


def tool_of(pairs: dict[str, str], software: str) -> str:
    """The tool that wrote the settings, if they name it."""
    if "App" in pairs:
        return pairs["App"]
    if any(key.startswith("Civitai") for key in pairs):
        return "Civitai"
    version = pairs.get("Version", software)
    found = next((name for pattern, name in VERSIONS if pattern.match(version)), None)
    return found or "AUTOMATIC1111, or a tool that writes as it does"


def parsed(written: str) -> tuple[str, str, dict[str, str]] | None:
    """The prompt, the negative prompt and the settings; None for a text without any settings."""
    lines = written.strip().split("\n")
    places = [place for place in range(len(lines) - 1, -1, -1) if is_settings(lines[place])]
    if not places:
        return None
    pairs = {key: unquoted(value) for key, value in PAIR.findall(lines[places[0]])}
    texts = lines[: places[0]]
    cut = next((place for place, line in enumerate(texts) if line.startswith(NEGATIVE)), len(texts))
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
