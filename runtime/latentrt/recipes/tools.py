"""Tools that write their settings as JSON or in their own PNG chunks: one table for each."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from latentrt.recipes import infotext
from latentrt.recipes.recipe import (
    Reader,
    Recipe,
    curve,
    items,
    mapping_of,
    model,
    read,
    real,
    sampler,
    size,
    text,
    whole,
)

Texts = dict[str, str]
Words = Mapping[str, tuple[str, Reader]]


def prompts(value: Any) -> str | None:
    """The prompt in a text, or in a list of texts with weights."""
    parts = [one.get("prompt") for one in items(value) if isinstance(one, dict)]
    return ", ".join(part for part in parts if isinstance(part, str)) or text(value)


def loras(value: Any) -> list[dict[str, Any]] | None:
    """The LoRAs in a list of objects with a name and a weight, or of lists that begin with a name and a weight."""
    found = []
    for one in items(value):
        if isinstance(one, dict):
            named = next((one[key] for key in ("lora", "model", "name", "file") if one.get(key)), None)
            entry = model(named), real(one.get("weight", one.get("scale")))
        else:
            entry = (text(one[0]), real(one[1])) if isinstance(one, list) and len(one) > 1 else (None, None)
        if entry[0] is not None:
            found.append({"file": entry[0], "scale": entry[1]})
    return found or None


def tiled(axis: str) -> Reader:
    """A reader of a flag for seamless edges: the `seamless` setting `axis`, or None."""
    return lambda value: axis if value is True else None


INVOKE: Words = {
    "positive_prompt": ("prompt", text),
    "prompt": ("prompt", prompts),
    "negative_prompt": ("negative", text),
    "steps": ("steps", whole),
    "cfg_scale": ("guidance", real),
    "seed": ("seed", whole),
    "width": ("width", whole),
    "height": ("height", whole),
    "scheduler": ("", sampler),
    "sampler": ("", sampler),
    "model": ("model", model),
    "model_weights": ("model", text),
    "loras": ("loras", loras),
    "strength": ("strength", real),
    "cfg_rescale_multiplier": ("guidance_rescale", real),
    "seamless": ("seamless", tiled("xy")),
}
NOVEL: Words = {
    "prompt": ("prompt", text),
    "uc": ("negative", text),
    "steps": ("steps", whole),
    "scale": ("guidance", real),
    "cfg_rescale": ("guidance_rescale", real),
    "seed": ("seed", whole),
    "width": ("width", whole),
    "height": ("height", whole),
    "sampler": ("", sampler),
    "noise_schedule": ("sigmas", curve),
    "strength": ("strength", real),
}
FOOOCUS: Words = {
    "prompt": ("prompt", text),
    "negative_prompt": ("negative", text),
    "steps": ("steps", whole),
    "guidance_scale": ("guidance", real),
    "seed": ("seed", whole),
    "resolution": ("", size),
    "sampler": ("", sampler),
    "scheduler": ("sigmas", curve),
    "base_model": ("model", text),
    "loras": ("loras", loras),
    "clip_skip": ("clip_skip", whole),
}
SWARM: Words = {
    "prompt": ("prompt", text),
    "negativeprompt": ("negative", text),
    "steps": ("steps", whole),
    "cfgscale": ("guidance", real),
    "seed": ("seed", whole),
    "width": ("width", whole),
    "height": ("height", whole),
    "sampler": ("", sampler),
    "scheduler": ("sigmas", curve),
    "model": ("model", text),
}
DRAW_THINGS: Words = {
    "c": ("prompt", text),
    "uc": ("negative", text),
    "steps": ("steps", whole),
    "scale": ("guidance", real),
    "seed": ("seed", whole),
    "size": ("", size),
    "sampler": ("", sampler),
    "model": ("model", text),
    "strength": ("strength", real),
    "lora": ("loras", loras),
}
EASY: Words = {
    "prompt": ("prompt", text),
    "negative_prompt": ("negative", text),
    "num_inference_steps": ("steps", whole),
    "guidance_scale": ("guidance", real),
    "seed": ("seed", whole),
    "width": ("width", whole),
    "height": ("height", whole),
    "sampler_name": ("", sampler),
    "use_stable_diffusion_model": ("model", text),
    "prompt_strength": ("strength", real),
}
# The old InvokeAI's command line.
DREAM: Words = {
    "s": ("steps", whole),
    "S": ("seed", whole),
    "W": ("width", whole),
    "H": ("height", whole),
    "C": ("guidance", real),
    "A": ("", sampler),
    "f": ("strength", real),
}
DREAMED = re.compile(r'\s*"(?P<prompt>(?:\\.|[^"\\])*)"(?P<options>.*)', re.DOTALL)
OPTION = re.compile(r"-(\w)\s*(\S+)")
UNWANTED = re.compile(r"\[([^\]]*)\]")


def recipe_of(texts: Texts) -> Recipe | None:
    """Recipe in texts of one of these layouts; None if they are in another."""
    return next((found for reader in TOOLS if (found := reader(texts)) is not None), None)


def by_words(tool: str, entries: Mapping[str, Any], words: Words) -> Recipe:
    """Recipe from a tool's entries, read by its table."""
    return Recipe(tool, *read(entries, words))


def invoke(texts: Texts) -> Recipe | None:
    """InvokeAI 3 and later."""
    entries = mapping_of(texts.get("invokeai_metadata"))
    return by_words("InvokeAI", entries, INVOKE) if entries else None


def old_invoke(texts: Texts) -> Recipe | None:
    """InvokeAI 2."""
    entries = mapping_of(texts.get("sd-metadata"))
    if not entries:
        return None
    image = entries.pop("image", None)
    recipe = by_words("InvokeAI", entries | (image if isinstance(image, dict) else {}), INVOKE)
    prompt = recipe.settings.get("prompt", "")
    return Recipe(recipe.tool, {**recipe.settings, **divided(prompt)}, recipe.other) if prompt else recipe


def dream(texts: Texts) -> Recipe | None:
    """The predecessors of InvokeAI: a command line."""
    found = DREAMED.fullmatch(texts.get("Dream", ""))
    if not found:
        return None
    settings, other = read(dict(OPTION.findall(found["options"])), DREAM)
    return Recipe("InvokeAI", {**divided(found["prompt"]), **settings}, other)


def divided(prompt: str) -> dict[str, str]:
    """The settings in a prompt of InvokeAI 2, which has the negative prompt in square brackets."""
    return {"prompt": UNWANTED.sub("", prompt).strip(), "negative": ", ".join(UNWANTED.findall(prompt))}


def novel(texts: Texts) -> Recipe | None:
    """NovelAI: PNG chunks, or the same as JSON in a WebP's comment."""
    inner = mapping_of(texts.get("UserComment"))
    if inner and isinstance(inner.get("Comment"), str):
        texts = {key: value for key, value in inner.items() if isinstance(value, str)}
    entries = mapping_of(texts.get("Comment"))
    if not entries or not (texts.get("Software", "").startswith("NovelAI") or "uc" in entries):
        return None
    described = {"prompt": texts["Description"]} if "Description" in texts else {}
    recipe = by_words("NovelAI", described | entries, NOVEL)
    model_name = {"model": texts["Source"]} if "Source" in texts else {}
    return Recipe(recipe.tool, {**recipe.settings, **model_name}, recipe.other)


def fooocus(texts: Texts) -> Recipe | None:
    """Fooocus, in either of its layouts."""
    written = texts.get("parameters", texts.get("UserComment", ""))
    scheme = texts.get("fooocus_scheme", texts.get("MakerNote"))
    entries = mapping_of(written)
    is_fooocus = scheme == "fooocus" or texts.get("Software", "").startswith("Fooocus")
    if entries and (is_fooocus or str(entries.get("version", "")).startswith("Fooocus") or "base_model" in entries):
        return by_words("Fooocus", entries, FOOOCUS)
    found = infotext.parsed(written) if scheme == "a1111" else None
    if found is None:
        return None
    recipe = infotext.translated(*found)
    return Recipe("Fooocus", recipe.settings, recipe.other)


def swarm(texts: Texts) -> Recipe | None:
    """SwarmUI."""
    entries = mapping_of(texts.get("parameters", texts.get("UserComment")))
    inner = entries.get("sui_image_params") if entries else None
    return by_words("SwarmUI", inner, SWARM) if isinstance(inner, dict) else None


def draw_things(texts: Texts) -> Recipe | None:
    """Draw Things."""
    entries = mapping_of(texts.get("UserComment"))
    return by_words("Draw Things", entries, DRAW_THINGS) if entries and {"c", "steps"} <= entries.keys() else None


def easy(texts: Texts) -> Recipe | None:
    """Easy Diffusion."""
    return by_words("Easy Diffusion", texts, EASY) if {"prompt", "num_inference_steps"} <= texts.keys() else None


TOOLS: tuple[Callable[[Texts], Recipe | None], ...] = (
    invoke,
    old_invoke,
    dream,
    novel,
    fooocus,
    swarm,
    draw_things,
    easy,
)
