"""Checkpoints and components that are diffusers folders."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from latentrt.errors import CheckpointError
from latentrt_export.checkpoint.config_defaults import completed
from latentrt_export.checkpoint.families import FOLDERS, OPTIONAL
from latentrt_export.checkpoint.family import PRIOR_ENCODER, Family
from latentrt_export.checkpoint.image_processor import check_image_processor
from latentrt_export.checkpoint.layouts import folder_keys
from latentrt_export.checkpoint.markers import Declared, with_declarations
from latentrt_export.checkpoint.match import ComponentSource
from latentrt_export.checkpoint.opened import OpenedCheckpoint
from latentrt_export.checkpoint.pickles import PICKLES
from latentrt_export.checkpoint.recognition import config_differences, pipeline_names, recognise
from latentrt_export.checkpoint.stored import header
from latentrt_export.checkpoint.weight_files import chosen, found_in, read_json
from latentrt_export.networks.image_embedding import EMBEDDER, NOISE

# Components whose weights have diffusers' stem; those of all others have transformers', "model".
DIFFUSERS = ("unet", "transformer", "vae", "controlnet", "t2i_adapter", "noise_augmentor", "prior")
STEMS = dict.fromkeys(DIFFUSERS, "diffusion_pytorch_model")
# diffusers' name of a VQ model's folder.
OTHER_FOLDERS = {"vae": "vqvae"}
# Entry of model_index.json: zeros stand for a negative prompt that is not given.
ZERO_NEGATIVE = "force_zeros_for_empty_prompt"
# Values of entries that a model_index.json leaves out.
INDEX = {"is_distilled": False}
# The tower of CLIP that a component needs. A folder saved from the whole of CLIP has a config per tower.
TOWERS: Mapping[str, str] = {
    **dict.fromkeys(("text_encoder", "text_encoder_2", PRIOR_ENCODER), "text"),
    **dict.fromkeys(("image_encoder", "image_embedder"), "vision"),
}


def open_folder(path: Path, configs: Path | None, variant: str | None, overrides: Declared) -> OpenedCheckpoint:
    """Returns the sources of a diffusers folder. overrides: declarations that override its scheduler_config.json."""
    if configs is not None:
        raise CheckpointError(
            f"got --configs {configs} (configs= in Python) for the folder {path}, which has its own: leave it out"
        )
    if not (path / "model_index.json").is_file():
        state = "has no model_index.json" if any(path.iterdir()) else "is empty"
        raise CheckpointError(
            f"{path} {state}: expected a diffusers folder (model_index.json, unet, vae, …), or one of an AutoencoderKL "
            "or a VQModel alone. Give that"
        )
    index = read_json(path / "model_index.json")
    family = recognise(name_of(path), lambda family: differences(path, index, family))
    tokenizers = {encoder.tokenizer: path / encoder.tokenizer for encoder in family.readers.values()}
    for name, folder in tokenizers.items():
        if not folder.is_dir():
            raise CheckpointError(f"{path} has no {name} folder: expected {folder}, fetch it as well")
    folders = {name: folder_in(path, family, name) for name in family.slots}
    if variant is not None and not any(variant in found_in(one, stem_of(name)) for name, one in folders.items()):
        raise CheckpointError(f"--variant {variant}: no component in {path} has files of that variant; leave it out")
    sources = {
        name: replace(
            folder_source(one, name, variant),
            config=component_config(path, family, name),
            unread=unread_of(family, name),
        )
        for name, one in folders.items()
    }
    if EMBEDDER in sources:
        check_image_processor(path / "feature_extractor", sources[EMBEDDER].config)
    scheduler, declarations = with_declarations(read_json(path / "scheduler" / "scheduler_config.json"), overrides)
    return OpenedCheckpoint(
        family, sources, scheduler, tokenizers, index.get(ZERO_NEGATIVE, family.zero_negative), declarations
    )


def differences(path: Path, index: Mapping[str, Any], family: Family) -> list[str]:
    """Returns the reasons against a family, for a folder whose model_index.json is `index`."""
    got = index.get("_class_name")
    if got not in family.pipelines:
        return [f"_class_name in its model_index.json is {got!r}, expected {pipeline_names(family)}"]
    folders = {name: folder_in(path, family, name) for name in family.slots}
    names = [folder.name for folder in folders.values()]
    telling = [name for name in FOLDERS if name in names or name not in OPTIONAL]
    listed = [name for name in telling if isinstance(part := index.get(name), list) and any(part)]
    if not any(isinstance(part, list) for part in index.values()):  # written by hand
        listed = [name for name in telling if (path / name).is_dir()]
    if {*listed} != {*names}:
        return [f"its model_index.json names {', '.join(listed)}, expected {', '.join(names)}"]
    for key, value in family.index.items():
        if (got := index.get(key, INDEX.get(key))) != value:
            return [f"{key} in its model_index.json is {got!r}, expected {value!r}"]
    if index.get("is_cosxl_edit"):  # whose images are latents of unit variance, and whose schedule is EDM's
        return ["is_cosxl_edit in its model_index.json is true, expected false"]
    return config_differences(family, {name: component_config(path, family, name) for name in family.slots})


def folder_in(path: Path, family: Family, component: str) -> Path:
    """Returns a component's folder: the family's, or the one of OTHER_FOLDERS if only that is there."""
    usual, other = path / family.folder(component), path / OTHER_FOLDERS.get(component, component)
    return other if other.is_dir() and not usual.is_dir() else usual


def component_config(path: Path, family: Family, name: str) -> dict[str, Any]:
    """Returns a component's config, with that of its schedule if it has one."""
    config = config_in(folder_in(path, family, name), name)
    if name in family.schedules:
        config[NOISE] = read_json(path / family.schedules[name] / "scheduler_config.json")
    return {**family.readers[name].read_of(config)} if name in family.readers else config


def unread_of(family: Family, name: str) -> str | None:
    """Returns the pattern of a component's keys that nothing reads; None for none."""
    return family.readers[name].unread if name in family.readers else None


def folder_source(folder: Path, name: str, variant: str | None = None) -> ComponentSource:
    """Returns the source of a component in a diffusers folder. Raises CheckpointError for missing files."""
    config = config_in(folder, name)
    found = found_in(folder, stem_of(name))
    if not found:
        raise CheckpointError(no_weights(folder, stem_of(name)))
    files = chosen(folder, found, variant).shards
    tensors = {key: stored for file in files for key, stored in header(file).items()}
    return ComponentSource(f"{folder}", config, tensors, folder_keys)


def stem_of(name: str) -> str:
    """Returns the stem of a component's weight files."""
    return STEMS.get(name, "model")


def config_in(folder: Path, name: str) -> dict[str, Any]:
    """Returns a component's config; that of its tower if the folder was saved from the whole of CLIP."""
    config, tower = read_json(folder / "config.json"), TOWERS.get(name)
    nested = config.get(f"{tower}_config")
    if isinstance(nested, dict):
        kept = {"projection_dim": config["projection_dim"]} if "projection_dim" in config else {}
        config = {**nested, **kept, "model_type": f"clip_{tower}_model"}
    return completed(name, config)


def no_weights(folder: Path, stem: str) -> str:
    """The message about a folder without weights that can be opened."""
    pickles = [file.name for file in sorted(folder.iterdir()) if file.suffix in PICKLES]
    if not pickles:
        return f"{folder} has no weights: expected {stem}.safetensors, fetch the checkpoint again"
    return (
        f"{folder} has only {pickles[0]}, a pickle, which can run code on loading: expected {stem}.safetensors. Add "
        "--allow-pickle, which reads its tensors in a separate process and runs none of its code, or convert the "
        "folder first:\n"
        "  from diffusers import DiffusionPipeline\n"
        f"  DiffusionPipeline.from_pretrained({str(folder.parent)!r}).save_pretrained({str(folder.parent) + '-safe'!r})"
    )


def name_of(path: Path) -> str:
    """Returns the name of a file or folder without resolving links: in a download cache, the target is a hash."""
    return Path(os.path.abspath(path)).name
