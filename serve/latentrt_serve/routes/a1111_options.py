"""AUTOMATIC1111's options and lists: models, samplers, schedulers, LoRA files; and the data in a picture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends
from fastapi import Request as HttpRequest

from latentrt.device.meminfo import MEMINFO, memory
from latentrt.errors import RequestError
from latentrt.lora.folder import files_in
from latentrt.recipes import infotext, recipe_of
from latentrt.recipes.texts import texts_in
from latentrt.sampling.samplers import SAMPLERS
from latentrt.sampling.samplers.names import CURVE_NAMES
from latentrt.validate import shown
from latentrt_serve.inputs import image_of
from latentrt_serve.routes.a1111_fields import OVERRIDES, UPSCALERS, read, refused
from latentrt_serve.routes.a1111_schemas import OPTIONS, PNG_INFO
from latentrt_serve.schemas import A1111_ERROR, body_of, refusals
from latentrt_serve.server import Server, client_of, server_of
from latentrt_serve.shelf import Model, Shelf

router = APIRouter(prefix="/sdapi/v1", tags=["AUTOMATIC1111"], responses=refusals(A1111_ERROR))

Served = Annotated[Server, Depends(server_of)]
MODEL = "sd_model_checkpoint"
DEFAULTS: dict[str, Any] = {"CLIP_stop_at_last_layers": 1, "randn_source": "CPU", "samples_format": "png"}
HASH_DIGITS = 10
# Lists of what this server has none of, and what its commands do not change.
FIXED: dict[str, Any] = {
    "upscalers": [{"name": name} for name in UPSCALERS if name != "Latent"],
    "latent-upscale-modes": [{"name": "Latent"}],
    "cmd-flags": {"api": True},
    "sd-vae": [],
    "hypernetworks": [],
    "face-restorers": [],
    "realesrgan-models": [],
    "prompt-styles": [],
    "embeddings": {"loaded": {}, "skipped": {}},
    "scripts": {"txt2img": [], "img2img": []},
    "script-info": [],
}


def title_of(model: Model) -> str:
    """A model's name with the beginning of its hash, as AUTOMATIC1111 lists it."""
    return f"{model.name} [{model.bundle.sha256[:HASH_DIGITS]}]"


def model_named(name: Any, shelf: Shelf) -> Model:
    """The model of a name, a title or a hash. Raises Refusal for none, RequestError for what is no text."""
    if not isinstance(name, str):
        raise RequestError(f"{MODEL}: got {shown(name)}, expected a name of those at /sdapi/v1/sd-models")
    for model in shelf.models.values():
        if name in (title_of(model), model.bundle.sha256, model.bundle.sha256[:HASH_DIGITS]):
            return model
    return shelf.find(name)


@router.get("/options")
def options(http: HttpRequest, server: Served) -> dict[str, Any]:
    """The client's options: the model of its requests, and those of AUTOMATIC1111's that have an effect here."""
    chosen = server.options.of(client_of(http))
    model = server.room.shelf.find(chosen.pop(MODEL, None))
    return {MODEL: title_of(model), "sd_checkpoint_hash": model.bundle.sha256, **DEFAULTS, **chosen}


@router.post("/options", openapi_extra=body_of(OPTIONS))
def change_options(http: HttpRequest, body: Annotated[dict[str, Any], Body()], server: Served) -> None:
    """Keeps the client's options for its later requests; those without an effect here are ignored."""
    chosen = {name: body[name] for name in OVERRIDES if body.get(name) is not None}
    try:
        read(chosen, OVERRIDES)
        if body.get(MODEL):
            chosen[MODEL] = model_named(body[MODEL], server.room.shelf).name
    except RequestError as error:
        raise refused(error) from error
    server.options.change(client_of(http), chosen)


@router.get("/sd-models")
def sd_models(server: Served) -> list[dict[str, Any]]:
    """The models."""
    return [
        {
            "title": title_of(model),
            "model_name": model.name,
            "hash": model.bundle.sha256[:HASH_DIGITS],
            "sha256": model.bundle.sha256,
            "filename": model.name,
            "config": None,
        }
        for model in server.room.shelf.models.values()
    ]


@router.get("/samplers")
def samplers(http: HttpRequest, server: Served) -> list[dict[str, Any]]:
    """The samplers that fit the client's model."""
    model = server.room.shelf.find(server.options.of(client_of(http)).get(MODEL))
    return [
        {"name": one.names[0], "aliases": [name, *one.names[1:]], "options": {}}
        for name, one in SAMPLERS.items()
        if one.flow == model.flow
    ]


@router.get("/schedulers")
def schedulers() -> list[dict[str, Any]]:
    """The curves of noise levels; "Automatic" is the model's."""
    known = {"automatic": ("Automatic",), **CURVE_NAMES}
    return [
        {
            "name": name,
            "label": labels[0],
            "aliases": list(labels[1:]) or None,
            "default_rho": -1.0,
            "need_inner_model": False,
        }
        for name, labels in known.items()
    ]


@router.get("/loras")
def loras(server: Served) -> list[dict[str, Any]]:
    """The LoRA files that prompts may name, by their place in the operator's folder."""
    folder = server.room.shelf.options.lora_dir
    files = sorted(file.relative_to(folder) for file in files_in(folder)) if folder else []
    return [{"name": file.stem, "alias": file.stem, "path": file.as_posix(), "metadata": {}} for file in files]


@router.get("/memory")
def memory_of_machine() -> dict[str, Any]:
    """The machine's memory in bytes."""
    found = memory(MEMINFO)
    if found is None:
        return {"ram": {"error": "unknown"}, "cuda": {"error": "unknown"}}
    free, total = found["available_bytes"], found["total_bytes"]
    return {"ram": {"free": free, "used": total - free, "total": total}, "cuda": {"error": "unknown"}}


@router.post("/png-info", openapi_extra=body_of(PNG_INFO))
def png_info(body: Annotated[dict[str, Any], Body()], server: Served) -> dict[str, Any]:
    """The generation data in a picture, of this server's or of another tool's."""
    try:
        if not body.get("image"):
            raise RequestError("image: got none, expected a data URL or base64 text")
        texts = texts_in(image_of("image", body["image"], server.limits.image_pixels))
    except RequestError as error:
        raise refused(error) from error
    written = next((texts[key] for key in infotext.KEYS if key in texts), "")
    return {"info": written, "items": texts, "parameters": parameters_of(written, texts)}


def parameters_of(written: str, texts: dict[str, str]) -> dict[str, Any]:
    """The settings under AUTOMATIC1111's names; those of another layout under latentrt's."""
    if (found := infotext.parsed(written)) is None:
        recipe = recipe_of(texts)
        return dict(recipe.settings) if recipe else {}
    prompt, negative, pairs = found
    return {"Prompt": prompt, "Negative prompt": negative, **pairs}


@router.post("/refresh-checkpoints")
@router.post("/refresh-loras")
def refresh() -> None:
    """Does nothing: models are those that the server began with, and LoRA files are looked up for each request."""


def fixed(name: str) -> Callable[[], Any]:
    """The route of a list that never changes."""

    def route() -> Any:
        return FIXED[name]

    route.__name__ = name.replace("-", "_")
    route.__doc__ = f"AUTOMATIC1111's list `{name}`, as far as this server has it."
    return route


for one in FIXED:
    router.add_api_route(f"/{one}", fixed(one), methods=["GET"])
