"""The page at `/`: its files, and what it asks for beside jobs: choices, the place of a prompt's error, a recipe."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, get_args

from fastapi import APIRouter, Body, Depends
from fastapi import Request as HttpRequest
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from latentrt.errors import RequestError
from latentrt.lora.folder import files_in
from latentrt.pipeline.metadata import own_record
from latentrt.prompt import check, tags_of
from latentrt.prompt.errors import refuse
from latentrt.prompt.tags import blanked, first_tag
from latentrt.recipes import recipe_of
from latentrt.recipes.texts import texts_in
from latentrt.request.request import Request
from latentrt.request.rows import rows_of
from latentrt.sampling.curves import SigmasName
from latentrt.sampling.samplers import SAMPLERS
from latentrt.sampling.samplers.names import curve_label, label
from latentrt_serve.fields import IMAGES
from latentrt_serve.inputs import decoded_image
from latentrt_serve.refusal import Refusal
from latentrt_serve.schemas import body_of
from latentrt_serve.server import Server, server_of
from latentrt_serve.shelf import Model

router = APIRouter(tags=["Page"])

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Scripts, styles and calls of this server alone; pictures also from memory, where the page keeps them.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SAFETY = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
ROWS = rows_of(Request)
# Fields that hold images, which a picture's metadata names by their hash alone.
PICTURES = (*IMAGES, "references", "controls", "latents")
CHARACTER = re.compile(r"prompt: character (\d+): (.*)")
IN_A_TAG = re.compile(r"[^<>:\n]+")


@dataclass(frozen=True)
class Asset:
    """A file of the page. tag: its ETag."""

    data: bytes
    type: str
    tag: str


def assets() -> dict[str, Asset]:
    """The files of the page by name."""
    found = {}
    for file in files("latentrt_serve").joinpath("page").iterdir():
        if (kind := TYPES.get(Path(file.name).suffix)) is not None:
            data = file.read_bytes()
            found[file.name] = Asset(data, kind, f'"{hashlib.sha256(data).hexdigest()[:32]}"')
    return found


ASSETS = assets()


@router.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
def page(http: HttpRequest) -> Response:
    """The page."""
    return answered(http, "index.html")


@router.api_route("/page/{name}", methods=["GET", "HEAD"], include_in_schema=False)
def asset(name: str, http: HttpRequest) -> Response:
    """A file of the page. Raises Refusal for one that is not there."""
    return answered(http, name)


def answered(http: HttpRequest, name: str) -> Response:
    """A file of the page; an empty answer where the browser has it already."""
    found = ASSETS.get(name)
    if found is None:
        raise Refusal(404, "no_file", f"page: it has no file {name!r}")
    headers = {**SAFETY, "ETag": found.tag}
    known = [tag.strip().removeprefix("W/") for tag in http.headers.get("if-none-match", "").split(",")]
    if found.tag in known:
        return Response(status_code=304, headers=headers)
    return Response(found.data, media_type=found.type, headers=headers)


@router.get("/v1/choices")
def choices(server: Annotated[Server, Depends(server_of)]) -> dict[str, Any]:
    """What a request may choose from: samplers, curves, LoRA names, and the classes of each model that has them."""
    models = server.room.shelf.models
    return {
        "samplers": [{"id": name, "label": label(name), "flow": one.flow} for name, one in SAMPLERS.items()],
        "curves": [{"id": name, "label": curve_label(name)} for name in get_args(SigmasName)],
        "loras": lora_names(server.room.shelf.options.lora_dir),
        "flow": {name: model.flow for name, model in models.items()},
        "classes": {
            name: list(classes.names)
            for name, model in models.items()
            if (classes := model.bundle.manifest.classes) is not None
        },
    }


def lora_names(folder: Path | None) -> list[str]:
    """The names that prompts may give LoRA files: that of the file; with its folder where two files share one."""
    paths = sorted(files_in(folder)) if folder else []
    stems = [path.stem for path in paths]
    names = [
        path.stem if stems.count(path.stem) == 1 else path.relative_to(folder or "").with_suffix("").as_posix()
        for path in paths
    ]
    return [name for name in names if IN_A_TAG.fullmatch(name)]


@router.post("/v1/prompts/check")
def check_prompts(
    body: Annotated[dict[str, Any], Body()], server: Annotated[Server, Depends(server_of)]
) -> dict[str, Any]:
    """The syntax errors of `prompt` and `negative`: the field, the character from 1, and what is wrong there."""
    errors = []
    for name, checker in CHECKERS.items():
        text = body.get(name) or ""
        if not isinstance(text, str):
            raise RequestError(f"{name}: got {type(text).__name__}, expected text")
        if len(text) <= server.limits.prompt and (error := error_of(name, text, checker)):
            errors.append(error)
    return {"errors": errors}


def error_of(name: str, text: str, checker: Callable[[str], None]) -> dict[str, Any] | None:
    """The first error of a prompt's syntax, or None."""
    try:
        checker(text)
    except RequestError as error:
        line = str(error).partition("\n")[0]
        found = CHARACTER.match(line)
        return {
            "field": name,
            "character": int(found[1]) if found else None,
            "message": found[2] if found else line,
        }
    return None


def check_prompt(text: str) -> None:
    """Raises RequestError, which points at a character, for a malformed prompt."""
    tags_of(text)
    check(blanked(text))


def check_negative(text: str) -> None:
    """Raises RequestError, which points at a character, for a malformed negative prompt."""
    if (index := first_tag(text)) is not None:
        refuse(text, index, "got a tag in a negative prompt; expected it in the prompt")
    check(text, compose=False)


CHECKERS: dict[str, Callable[[str], None]] = {"prompt": check_prompt, "negative": check_negative}


@router.post("/v1/recipes", openapi_extra=body_of({"type": "string", "format": "binary"}, "image/png"))
async def recipe(http: HttpRequest, server: Annotated[Server, Depends(server_of)]) -> dict[str, Any]:
    """The settings in the file of a picture, this project's or another tool's. The body is the file."""
    return await run_in_threadpool(recipe_in, await http.body(), server)


def recipe_in(data: bytes, server: Server) -> dict[str, Any]:
    """The recipe in a picture's file. Raises RequestError for no picture, and for one without settings.

    tool: what made the picture. settings: fields of a request, and `model`. needs: fields that held an image.
    other: what no field stands for.
    """
    image = decoded_image("picture", data, server.limits.image_pixels)
    texts = texts_in(image)
    record = own_record(Path("picture"), texts)
    if record is not None:
        return {"tool": "latentrt", **read_record(record, server.room.shelf.models), "other": {}}
    found = recipe_of(texts)
    if found is None:
        raise RequestError("picture: it holds no settings; sites and editors often remove them")
    settings = {name: exact(name, value) for name, value in found.settings.items()}
    return {"tool": found.tool, "settings": settings, "needs": [], "other": dict(found.other)}


def read_record(record: Mapping[str, Any], models: Mapping[str, Model]) -> dict[str, Any]:
    """Settings and needs of a picture of our own; what equals a default is left out."""
    needs = [name for name in PICTURES if record.get(name)]
    plain = {one.name: one for one in fields(Request) if one.name in record and one.name not in PICTURES}
    bundle = record.get("bundle")
    name = bundle.get("name") if isinstance(bundle, Mapping) else None
    model = next((one for one in models.values() if one.bundle.manifest.name == name), None)
    usual = usual_of(record.get("sampler"), model)
    settings = {
        name: exact(name, record[name])
        for name, one in plain.items()
        if record[name] not in (None, one.default, usual.get(name))
    }
    kept = {name: value for name, value in settings.items() if is_useful(name, settings, needs)}
    return {"settings": {**kept, **({"model": model.name if model else name} if name else {})}, "needs": needs}


def usual_of(sampler: Any, model: Model | None) -> dict[str, Any]:
    """The values that fields have where a request leaves them out, of the sampler and of the model."""
    options = SAMPLERS[sampler].options if isinstance(sampler, str) and sampler in SAMPLERS else {}
    spacing = {"spacing": model.bundle.manifest.noise_schedule.spacing} if model else {}
    return {name: option.default for name, option in options.items()} | spacing


def is_useful(name: str, settings: Mapping[str, Any], needs: list[str]) -> bool:
    """Whether a field has an effect: the one that it depends on is there."""
    owner = ROWS[name].only_with
    return not owner or owner in settings or owner in needs


def exact(name: str, value: Any) -> Any:
    """A value as JSON that a browser reads without loss: seeds, which may have 64 bits, as text."""
    return str(value) if name in ("seed", "variation_seed") and value is not None else value
