"""Loading of a bundle, by its folder, its name or its checkpoint, as a pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from latentrt.bundle.catalog import folder_of
from latentrt.bundle.folder import MANIFEST, REMEDY, Bundle, open_bundle
from latentrt.bundle.manifest import Manifest, TokenizerSpec
from latentrt.bundle.tasks import DECODER, ENCODER
from latentrt.conditioning.image_embedding import embedding_components
from latentrt.conditioning.request_values import check_request_values
from latentrt.engines import AUTO, choose, engine_kind, open_engines
from latentrt.errors import BundleError, RequestError
from latentrt.pipeline.memory import Budget, memory_models
from latentrt.pipeline.pipeline import Pipeline
from latentrt.prompt.tokenizer import Tokenizer
from latentrt.request.request import Request
from latentrt.request.rows import changed
from latentrt.request.settings import resolve


def load(
    bundle: str | Path,
    *,
    engine: str = AUTO,
    verify: bool = True,
    split_guidance: bool = False,
    memory_budget: int | None = None,
    lora_dir: str | Path | None = None,
    loras: Mapping[str | Path, float | tuple[float, float]] | None = None,
) -> Pipeline:
    """Returns a pipeline for a bundle: its folder, a built-in model's name ("emoji"), or a name in `latentrt models`.

    A checkpoint, a .safetensors file or a diffusers folder, is exported into the user's cache first, unless its content
    was exported before. This takes minutes, needs the packages of the extra `export`, and runs in a process of its own,
    which logs its stages to the logger "latentrt". `latentrt export` offers a choice of options, where this has none.

    engine: a name in `latentrt.engines.ENGINES`, whose package must be installed; "cpu", which is ONNX Runtime; or
    "auto", the fastest installed engine for a CPU, measured once per model if several are installed, or the engine in
    the environment variable LATENTRT_ENGINE. verify: check the hash of every file first, to find damage before an
    engine reads it. Graphs are read at first use: do not change the folder while the pipeline is open.
    split_guidance: one UNet call per prompt of a step, not one for all prompts: less memory, more time. memory_budget:
    memory limit of the whole process in bytes, on a CPU; runs are planned to fit, or refused before they start, and
    runs of several threads take turns. lora_dir: the folder of the LoRA files that prompts name, `<lora:NAME:0.8>`;
    default: the environment variable LATENTRT_LORAS. loras: LoRA files and their scales for every prompt, as in
    `Pipeline.with_loras`. With either, "auto" is ONNX Runtime. A pipeline may be
    used from several threads. Of an autoencoder alone, the pipeline serves `latentrt.Codec`. Raises BundleError or
    EngineError; CheckpointError for checkpoints and LoRA files; OutputError if the cache cannot be written, and
    FidelityError if an export loses too much.
    """
    engine_kind(engine)
    opened = open_bundle(folder_of(bundle), verify=verify)
    check_complete(opened)
    low_memory = memory_budget is not None
    name = choose(engine, opened, low_memory=low_memory, takes_weights=bool(loras))
    engines = open_engines(name, opened, low_memory=low_memory)
    budget = None if memory_budget is None else Budget(memory_budget, memory_models(name, engines))
    tokenizer, chosen = load_tokenizer(opened), engine == AUTO
    pipeline = Pipeline(
        opened,
        tokenizer,
        engines,
        name,
        split_guidance=split_guidance,
        budget=budget,
        lora_dir=lora_dir,
        chosen=chosen,
    )
    return pipeline.with_loras(loras) if loras else pipeline


def check_complete(bundle: Bundle) -> None:
    """Raises BundleError unless the bundle can generate pictures with its own defaults.

    An autoencoder alone, which generates none, must have both halves.
    """
    where = bundle.folder / MANIFEST
    denoisers, alone = bundle.manifest.of_role("denoiser"), bundle.manifest.schedule is None
    if len(denoisers) != (0 if alone else 1):
        expected = "none without a schedule" if alone else "one"
        raise BundleError(f"{where}: got {len(denoisers)} of the role 'denoiser', expected {expected}; {REMEDY}")
    if alone:
        check_there(bundle, {DECODER, ENCODER}, "an autoencoder")
        return
    needed = {DECODER, *bundle.manifest.text_encoders, *([ENCODER] if bundle.manifest.encodes_extra_channels else [])}
    needed |= embedding_components(bundle.manifest)
    fed = (denoisers | bundle.manifest.hoisted).values()
    sources = [source for one in fed for source in one.sources.values() if source.kind == "component"]
    check_there(bundle, needed | {source.name for source in sources}, "a picture")
    check_request_values(bundle.manifest, where)
    try:
        resolve(least_request(bundle.manifest), bundle.manifest)
    except RequestError as error:
        raise BundleError(f"{where}: its defaults cannot be run: {error}; {REMEDY}") from error


def check_there(bundle: Bundle, names: set[str], purpose: str) -> None:
    """Raises BundleError unless the bundle has all of these components. purpose: what needs them."""
    if missing := names - bundle.manifest.components.keys():
        where, listed = bundle.folder / MANIFEST, ", ".join(sorted(missing))
        raise BundleError(f"{where}: got no {listed}, which {purpose} needs; {REMEDY}")


def least_request(manifest: Manifest) -> Request:
    """A request that states only what the model asks of every request."""
    defaults, factor = manifest.defaults, manifest.latents.factor
    wanted: dict[str, Any] = {"class_label": 0} if manifest.classes else {}
    if manifest.segmentation:
        wanted["segmentation"] = np.zeros((defaults.height, defaults.width), np.int64)
    if manifest.layout:
        wanted["layout"] = ()
    if manifest.vector_width:
        wanted["vectors"] = np.ones((1, manifest.vector_width), np.float32)
    if manifest.varies_images:
        from PIL import Image

        wanted["image"] = Image.new("RGB", (defaults.width, defaults.height))
    if manifest.upscales:
        from PIL import Image

        wanted["init"] = Image.new("RGB", (defaults.width // factor, defaults.height // factor))
    return Request(**wanted)


def completed(request: Request, manifest: Manifest) -> Request:
    """The request with all that the model asks of every request and that it does not state."""
    least = least_request(manifest)
    missing = [one.name for one in fields(Request) if changed(least, one.name) and not changed(request, one.name)]
    return replace(request, **{name: getattr(least, name) for name in missing})


def load_tokenizer(bundle: Bundle) -> Tokenizer | None:
    """The bundle's tokenizer, with those of text encoders that have another; None for a model without prompts."""
    spec, text = bundle.manifest.tokenizer, bundle.manifest.text
    if spec is None or text is None:
        return None
    others = {name: tokenizer_at(bundle, one, padded=True) for name, one in spec.others.items()}
    return replace(tokenizer_at(bundle, spec, padded=text.padded), others=others)


def tokenizer_at(bundle: Bundle, spec: TokenizerSpec, *, padded: bool) -> Tokenizer:
    """One tokenizer of the bundle. padded: as in `Tokenizer`."""
    return Tokenizer.load(
        bundle.path(spec.file),
        length=spec.length,
        bos=spec.bos,
        eos=spec.eos,
        pad=spec.pad,
        embeddings=spec.embeddings,
        padded=padded,
        before=spec.before,
        after=spec.after,
    )
