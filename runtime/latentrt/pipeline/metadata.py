"""Metadata in pictures: the text that AUTOMATIC1111's tools read, and one JSON object with all settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentrt.errors import RequestError
from latentrt.images import xmp
from latentrt.images.pillow import picture_bytes, save_picture
from latentrt.request.settings import Settings
from latentrt.sampling.samplers import SAMPLERS
from latentrt.sampling.samplers.names import curve_label, label
from latentrt.version import VERSION

if TYPE_CHECKING:
    from PIL.Image import Image

    from latentrt.lora.weights import Applied

PARAMETERS, LATENTRT = "parameters", "latentrt"
RNG = {"cpu": "CPU", "cuda": "NV"}
HIRES_NAMES = {"latent": "Latent", "lanczos": "Lanczos"}


@dataclass(frozen=True)
class Provenance:
    """The engine, the bundle's name and hash, and the LoRA files that made a picture."""

    engine: str
    bundle: str
    sha256: str
    loras: tuple[Applied, ...] = ()


def picture_text(
    settings: Settings, image: int, provenance: Provenance, *, metadata: bool = True, mark: bool = True
) -> dict[str, str]:
    """The texts for one image of a batch: see `texts_of`."""
    return texts_of(record_of(settings, image, provenance), metadata=metadata, mark=mark)


def save_with_text(image: Image, path: Path, text: Mapping[str, str]) -> None:
    """Writes a picture with these texts as metadata. Raises as `save_picture`."""
    save_picture(image, path, text, note_of(text))


def bytes_with_text(image: Image, kind: str, text: Mapping[str, str], **options: Any) -> bytes:
    """The file of a picture with these texts as metadata; see `picture_bytes`."""
    return picture_bytes(image, kind, text, note_of(text), **options)


def note_of(text: Mapping[str, str]) -> bytes:
    """The maker's note of files that have no text chunks."""
    return f"{LATENTRT}\0{text.get(LATENTRT)}".encode()


def texts_of(record: dict[str, Any], *, metadata: bool = True, mark: bool = True) -> dict[str, str]:
    """The texts of a record: "parameters" for people and other tools, "latentrt" for this package, and XMP.

    A picture that was enlarged in one call has no settings for the first. metadata: with the first two. mark: with the
    XMP, which says that the picture was generated.
    """
    told = {xmp.KEY: xmp.packet(source_type(record), f"latentrt {VERSION}")} if mark else {}
    if not metadata:
        return told
    written = json.dumps(record, ensure_ascii=False, allow_nan=False)
    sampled = {PARAMETERS: infotext(record)} if "sampler" in record else {}
    return {**sampled, LATENTRT: written, **told}


def source_type(record: dict[str, Any]) -> xmp.SourceType:
    """What IPTC calls a picture of these settings: made by a model alone, enlarged, or made of another picture."""
    if "tile" in record:
        return "algorithmicallyEnhanced"
    pictures = record.get("init") or record.get("controls") or record.get("references")
    return "compositeWithTrainedAlgorithmicMedia" if pictures else "trainedAlgorithmicMedia"


def record_of(settings: Settings, image: int, provenance: Provenance) -> dict[str, Any]:
    """The settings of one image of a batch.

    All keys except version, bundle, loras and engine are fields of `Request`, to make the same image again; input
    images are replaced by their hash and size.
    """
    fields = settings.of_image(image).record()
    [seed], variations, options = (fields.pop(key) for key in ("seeds", "variation_seeds", "options"))
    return {
        "version": VERSION,
        "bundle": {"name": provenance.bundle, "sha256": provenance.sha256},
        **({"loras": [lora.record() for lora in provenance.loras]} if provenance.loras else {}),
        "engine": provenance.engine,
        **fields,
        "seed": seed,
        "variation_seed": variations[0] if variations else None,
        **options,
    }


def infotext(record: dict[str, Any]) -> str:
    """AUTOMATIC1111's layout: the prompt, the negative prompt, then a line of settings under A1111's names.

    As in A1111, settings at their default are left out, but "RNG" is always written: without it, A1111 assumes torch on
    a GPU. "CFG Rescale" is an extension's name. A1111 ignores lists in fields of numbers.
    """
    settings = {
        "Steps": record["steps"],
        "Sampler": label(record["sampler"]),
        "Schedule type": curve_label(record["sigmas"])
        if isinstance(record["sigmas"], str)
        else listed(record["sigmas"]),
        "CFG scale": listed(record["guidance"]),
        "Seed": record["seed"],
        "Size": f"{record['width']}x{record['height']}",
        "Model hash": record["bundle"]["sha256"][:10],
        "Model": record["bundle"]["name"],
        "Class": record.get("class_label"),
        "LoRA": ", ".join(f"{one['file']} {scales(one)} {one['sha256'][:10]}" for one in record.get("loras", ()))
        or None,
        "Variation seed": record["variation_seed"],
        "Variation seed strength": record["variation_strength"] or None,
        "Denoising strength": record.get("strength", record.get("hires_strength")),
        "Hires upscale": record.get("hires"),
        "Hires steps": record.get("hires_steps"),
        "Hires upscaler": HIRES_NAMES.get(record.get("hires_upscaler", "")),
        "Clip skip": record["clip_skip"] if record["clip_skip"] > 1 else None,
        "RNG": RNG[record["noise"]],
        "Eta DDIM" if record["sampler"] == "ddim" else "Eta": changed_eta(record),
        "Image CFG scale": record.get("image_guidance"),
        "CFG Rescale": record["guidance_rescale"] or None,
        "Tiling": True if record["seamless"] == "xy" else None,
        "Mask blur": record.get("mask_blur") or None,
        **inpaint_area(record),
        "Version": f"latentrt {record['version']}",
    }
    lines = [record["prompt"]]
    if record["negative"]:
        lines.append(f"Negative prompt: {record['negative']}")
    known = (f"{key}: {quoted(str(value))}" for key, value in settings.items() if value is not None)
    return "\n".join([*lines, ", ".join(known)])


def scales(lora: dict[str, Any]) -> str:
    """A LoRA's scale as text; two scales with a colon if the text encoders' differs from the UNet's."""
    return ":".join(f"{lora[key]:g}" for key in ("scale", "text_scale") if key in lora)


def inpaint_area(record: dict[str, Any]) -> dict[str, Any]:
    """A1111's settings for a run that painted only the masked part."""
    padding = record.get("mask_padding")
    return {} if padding is None else {"Inpaint area": "Only masked", "Masked area padding": padding}


def listed(value: Any) -> Any:
    """A list of numbers as text, separated by commas; any other value unchanged."""
    return ", ".join(map(str, value)) if isinstance(value, tuple) else value


def changed_eta(record: dict[str, Any]) -> float | None:
    """The sampler's eta; None if it is the default."""
    option = SAMPLERS[record["sampler"]].options.get("eta")
    eta: float | None = record.get("eta")
    return None if option is None or eta == option.default else eta


def quoted(value: str) -> str:
    """`value`, in JSON quotes if it contains a separator of settings."""
    return json.dumps(value, ensure_ascii=False) if any(mark in value for mark in ',:\n"') else value


def read_png(path: Path) -> dict[str, Any]:
    """Returns a picture's metadata: this package's JSON object, or {"parameters": text} from another tool.

    Reads a PNG's chunks, or the EXIF of a JPEG or a WebP. Raises RequestError if the file is not a picture or has no
    metadata; `latentrt.recipes.read_recipe` reads other tools' formats.
    """
    from latentrt.recipes.texts import read_texts  # here: a picture that is drawn reads none, and it takes 20 ms

    texts = read_texts(path)
    record = own_record(path, texts)
    if record is not None:
        return record
    if PARAMETERS in texts:
        return {PARAMETERS: texts[PARAMETERS]}
    raise RequestError(f"{path}: holds no generation data; images saved with --no-metadata have none")


def own_record(path: Path, texts: Mapping[str, str]) -> dict[str, Any] | None:
    """This package's JSON object among a picture's texts; None if there is none.

    Raises RequestError for a damaged one.
    """
    note = texts.get("MakerNote", "")
    from_note = note.removeprefix(f"{LATENTRT}\0") if note.startswith(f"{LATENTRT}\0") else "null"
    try:
        record = json.loads(texts.get(LATENTRT, from_note))
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{path}: its {LATENTRT!r} text is not valid JSON ({error})") from error
    return record if isinstance(record, dict) else None
