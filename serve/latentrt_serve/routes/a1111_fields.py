"""AUTOMATIC1111's fields of a picture, and what each is here: tables, and readers of its values.

Fields that are not listed are ignored, as AUTOMATIC1111 ignores them: clients send those of its many forks. What is not
given is the model's default and not AUTOMATIC1111's, except where a table says otherwise.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from latentrt.bundle.manifest import Manifest
from latentrt.errors import RequestError
from latentrt.recipes import recipe_of
from latentrt.recipes.recipe import real as real_in
from latentrt.recipes.recipe import whole as whole_in
from latentrt.request.request import RANDOM
from latentrt.request.rows import depending_on
from latentrt.sampling.samplers import SAMPLERS
from latentrt.sampling.samplers.names import curve_of, found_as
from latentrt.validate import shown, text
from latentrt_serve.fields import FIELDS, ROWS
from latentrt_serve.refusal import Refusal

Body = Mapping[str, Any]
# A reader's None leaves the field out.
Reader = Callable[[str, Any], Any]
Table = Mapping[str, tuple[str, Reader]]

LARGEST_DRAWN = 32  # bits of a seed that is drawn here
AUTOMATIC = "automatic"
UPSCALERS = {"Latent": "latent", "Lanczos": "lanczos", "None": "lanczos"}
FITS = {0: "stretch", 1: "crop", 2: "stretch"}  # 2 fills the border: the image is brought to size before
GENERATORS = {"CPU": "cpu", "GPU": "cuda", "NV": "cuda"}


def word(name: str, value: Any) -> str:
    """Text."""
    return text(name, value)


def real(name: str, value: Any) -> float:
    """A number, also from text."""
    found = real_in(value)
    if found is None:
        raise RequestError(f"{name}: got {shown(value)}, expected a number")
    return found


def whole(name: str, value: Any) -> int:
    """A whole number, also from text."""
    found = whole_in(value)
    if found is None:
        raise RequestError(f"{name}: got {shown(value)}, expected a whole number")
    return found


def some(name: str, value: Any) -> int | None:
    """A whole number, where 0 stands for none."""
    return whole(name, value) or None


def flag(name: str, value: Any) -> bool:
    """True or False, also as 0 and 1."""
    if value not in (True, False):
        raise RequestError(f"{name}: got {shown(value)}, expected true or false")
    return bool(value)


def seed(name: str, value: Any) -> int | None:
    """A seed; None for one that is to be drawn."""
    found = RANDOM if value == "" else whole(name, value)
    return None if found == RANDOM else found


def drawn_seed(name: str, value: Any) -> int:
    """A seed, drawn here for -1, so that the answer can tell it."""
    found = seed(name, value)
    return secrets.randbits(LARGEST_DRAWN) if found is None else found


def sampler(name: str, value: Any) -> str | None:
    """A sampler's name, AUTOMATIC1111's or another. Raises Refusal with status 404 for an unknown one."""
    if word(name, value) and found_as(value) is None:
        known = ", ".join(one.names[0] for one in SAMPLERS.values())
        raise Refusal(404, "sampler_not_found", f"{name}: got {value!r}, expected one of {known}", param=name)
    return value or None


def curve(name: str, value: Any) -> str | None:
    """A scheduler's curve; None for "Automatic"."""
    if word(name, value).lower() in ("", AUTOMATIC):
        return None
    found = curve_of(value)
    if found is None:
        raise RequestError(f"{name}: got {value!r}, expected one of those at /sdapi/v1/schedulers")
    return found


def axes(name: str, value: Any) -> str | None:
    """The edges that meet."""
    return "xy" if flag(name, value) else None


def one_of(words: Mapping[Any, str], *, number: bool = False) -> Reader:
    """A reader of a table's words."""

    def read(name: str, value: Any) -> str:
        key = whole(name, value) if number else word(name, value)
        if key not in words:
            raise RequestError(f"{name}: got {shown(value)}, expected one of {', '.join(map(str, words))}")
        return words[key]

    return read


SHARED: Table = {
    "prompt": ("prompt", word),
    "negative_prompt": ("negative", word),
    "seed": ("seed", seed),
    "steps": ("steps", whole),
    "cfg_scale": ("guidance", real),
    "width": ("width", whole),
    "height": ("height", whole),
    "tiling": ("seamless", axes),
    "eta": ("eta", real),
    "sampler_index": ("sampler", sampler),
    "sampler_name": ("sampler", sampler),  # where both are given, this one counts
    "scheduler": ("sigmas", curve),
}
VARIATION: Table = {"subseed": ("variation_seed", drawn_seed), "subseed_strength": ("variation_strength", real)}
HIRES: Table = {
    "hr_scale": ("hires", real),
    "hr_second_pass_steps": ("hires_steps", some),
    "hr_upscaler": ("hires_upscaler", one_of(UPSCALERS)),
    "denoising_strength": ("hires_strength", real),
}
IMAGE: Table = {
    "denoising_strength": ("strength", real),
    "resize_mode": ("fit", one_of(FITS, number=True)),
    "image_cfg_scale": ("image_guidance", real),
}
OVERRIDES: Table = {
    "CLIP_stop_at_last_layers": ("clip_skip", whole),
    "randn_source": ("noise", one_of(GENERATORS)),
}
# Fields that cannot be honoured, and the values at which they ask for nothing.
NOTHING: tuple[Any, ...] = (None, "", 0, False, "None", "none")
HARMLESS: Mapping[str, tuple[Any, ...]] = {
    "restore_faces": NOTHING,
    "seed_resize_from_w": (*NOTHING, -1),
    "seed_resize_from_h": (*NOTHING, -1),
    "s_min_uncond": NOTHING,
    "s_churn": NOTHING,
    "s_noise": (None, 1),
    "refiner_checkpoint": NOTHING,
    "disable_extra_networks": NOTHING,
    "firstphase_width": NOTHING,
    "firstphase_height": NOTHING,
    "firstpass_image": NOTHING,
    "script_name": NOTHING,
}
HARMLESS_HIRES: Mapping[str, tuple[Any, ...]] = {
    "hr_resize_x": NOTHING,
    "hr_resize_y": NOTHING,
    "hr_checkpoint_name": (*NOTHING, "Use same checkpoint"),
    "hr_sampler_name": (*NOTHING, "Use same sampler"),
    "hr_scheduler": (*NOTHING, "Use same scheduler"),
    "hr_prompt": NOTHING,
    "hr_negative_prompt": NOTHING,
}
HARMLESS_IMAGE: Mapping[str, tuple[Any, ...]] = {
    "inpainting_fill": (None, 0, 1),
    "initial_noise_multiplier": (None, 1),
    "latent_mask": NOTHING,
}
PASTED = "infotext"
# The values of fields that are not given, where the model has none and AUTOMATIC1111's is not latentrt's.
USUAL_VARIATION = {"subseed": RANDOM}
USUAL_HIRES = {"hr_scale": 2.0}


def fields_of(body: Body, manifest: Manifest) -> dict[str, Any]:
    """The fields of a request for those of txt2img, without the image's.

    Raises RequestError for a wrong value and for one that cannot be honoured, Refusal for an unknown sampler.
    """
    given = {name: value for name, value in body.items() if value is not None}
    refuse(given, HARMLESS)
    refuse_scripts(given.get("alwayson_scripts", {}))
    found = read(given, SHARED)
    if real("subseed_strength", given.get("subseed_strength", 0)):
        found |= read({**USUAL_VARIATION, **given}, VARIATION)
    if flag("enable_hr", given.get("enable_hr", False)):
        refuse(given, HARMLESS_HIRES)
        found |= read({**USUAL_HIRES, **given}, HIRES)
    found |= read(overrides_of(given), OVERRIDES)
    found["batch"] = whole("batch_size", given.get("batch_size", 1)) * whole("n_iter", given.get("n_iter", 1))
    return fitting({**pasted(given), **found, "syntax": "lenient"}, manifest)


def read(given: Body, table: Table) -> dict[str, Any]:
    """The fields of a request for those of a table that are given."""
    known = ((ours, reader(name, given[name])) for name, (ours, reader) in table.items() if name in given)
    return {ours: value for ours, value in known if value is not None}


def refuse(given: Body, harmless: Mapping[str, tuple[Any, ...]]) -> None:
    """Raises RequestError for a field that asks for what cannot be done here."""
    for name in harmless.keys() & given.keys():
        if given[name] not in harmless[name]:
            raise RequestError(f"{name}: got {shown(given[name])}, which this server cannot do; leave it out")


def refuse_scripts(scripts: Any) -> None:
    """Raises RequestError for a script that is to run; one that is empty, or that is turned off, is none."""
    if not isinstance(scripts, Mapping):
        raise RequestError(f"alwayson_scripts: got {shown(scripts)}, expected an object")
    for name, script in scripts.items():
        arguments = script.get("args", []) if isinstance(script, Mapping) else script
        if not is_idle(arguments):
            raise RequestError(f"alwayson_scripts: got {shown(name)}, which this server cannot run; leave it out")


def is_idle(arguments: Any) -> bool:
    """Whether the arguments of a script ask for nothing."""
    entries: Iterable[Any] = arguments if isinstance(arguments, (list, tuple)) else [arguments]
    return all(
        one in NOTHING or one in ([], {}) or (isinstance(one, Mapping) and one.get("enabled") is False)
        for one in entries
    )


def overrides_of(given: Body) -> dict[str, Any]:
    """The options that hold for one request."""
    found = given.get("override_settings", {})
    if not isinstance(found, Mapping):
        raise RequestError(f"override_settings: got {shown(found)}, expected an object")
    return {name: value for name, value in found.items() if value is not None}


def pasted(given: Body) -> dict[str, Any]:
    """The fields in a pasted text of AUTOMATIC1111's; fields of the request itself count more."""
    recipe = recipe_of({"parameters": word(PASTED, given[PASTED])}) if given.get(PASTED) else None
    needing_more = {*depending_on("init", ROWS), *depending_on("mask", ROWS)}
    settings = recipe.settings if recipe else {}
    return {name: value for name, value in settings.items() if name in FIELDS and name not in needing_more}


def pasted_model(given: Body) -> str | None:
    """The name of the model in a pasted text."""
    recipe = recipe_of({"parameters": word(PASTED, given[PASTED])}) if given.get(PASTED) else None
    found = recipe.settings.get("model") if recipe else None
    return found if isinstance(found, str) else None


def fitting(fields: dict[str, Any], manifest: Manifest) -> dict[str, Any]:
    """The fields without an eta that the sampler has no use for, which AUTOMATIC1111 ignores too."""
    named = found_as(fields.get("sampler", manifest.defaults.sampler))
    if named is not None and "eta" not in SAMPLERS[named.sampler].options:
        fields.pop("eta", None)
    return fields


TABLES = (SHARED, VARIATION, HIRES, IMAGE, OVERRIDES, {"batch_size": ("batch", whole)})
THEIRS = {ours: name for table in TABLES for name, (ours, _reader) in table.items()}


def refused(error: RequestError) -> Refusal:
    """The refusal of a request that is wrong, which names AUTOMATIC1111's field."""
    name, colon, rest = str(error).partition(":")
    theirs = THEIRS.get(name, name)
    return Refusal(422, "invalid_value", f"{theirs}{colon}{rest}", param=theirs if colon else None)
