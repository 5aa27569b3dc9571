"""Checkpoints that are one .safetensors file in the original CompVis layout, without configs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from latentrt.errors import first_few
from latentrt_export.checkpoint.config_defaults import completed
from latentrt_export.checkpoint.family import Family
from latentrt_export.checkpoint.folder import name_of
from latentrt_export.checkpoint.layouts import Shape
from latentrt_export.checkpoint.ldm_layouts import EMA_PREFIX, averaged
from latentrt_export.checkpoint.markers import MARKERS, Declared, declared_by, with_declarations
from latentrt_export.checkpoint.match import ComponentSource
from latentrt_export.checkpoint.opened import OpenedCheckpoint
from latentrt_export.checkpoint.paths import check_configs, found_configs
from latentrt_export.checkpoint.recognition import (
    FIRST_LAYER,
    Configs,
    config_differences,
    likeness,
    other_kind_of,
    recognise,
    shape_differences,
)
from latentrt_export.checkpoint.stored import Stored, header, notes, read_tensors, under
from latentrt_export.checkpoint.weight_files import read_json

# The buffer of a model that measured the deviation of its latents.
SCALE_FACTOR = "scale_factor"


def open_file(path: Path, configs: Path | None, overrides: Declared) -> OpenedCheckpoint:
    """Returns the sources of a single file. overrides: declarations that override those of the file and its configs."""
    if configs is not None:
        check_configs(configs)
    tensors = header(path)
    declared = declared_by(f"{path}", tensors, notes(path), overrides)
    shapes = {key: stored.shape for key, stored in tensors.items()}

    def differences(family: Family) -> list[str]:
        if not family.mark:
            return ["it is a single file, expected a diffusers folder"]
        folder = configs_folder(family, configs, shapes, declared)
        absent = [file for file in map("{}.json".format, (*family.slots, "scheduler")) if not (folder / file).is_file()]
        if absent:
            return [f"{folder} has no {first_few(absent)}"]
        known = configs_in(folder, family, shapes)
        return config_differences(family, known) + shape_differences(family, shapes, known)

    other_kind = other_kind_of(shapes)
    family = recognise(name_of(path), differences, look=likeness(shapes), other_kind=other_kind)
    known = configs_in(configs_folder(family, configs, shapes, declared), family, shapes)
    weights, notices = (averaged(tensors), average_notice(tensors)) if family.averaged else (tensors, {})
    known = {**known, "vae": {**known["vae"], **stored_scaling(tensors)}}
    sources = {
        name: ComponentSource(
            f"{path} ({slot.prefix}*)", known[name], under(slot.prefix, weights), slot.convert, slot.unread
        )
        for name, slot in family.slots.items()
    }
    scheduler, declarations = with_declarations(known["scheduler"], declared)
    held = {key for source in sources.values() for key in source.tensors}
    others = tuple(key for key in weights if key not in held and key not in MARKERS)
    return OpenedCheckpoint(family, sources, scheduler, {}, family.zero_negative, notices | declarations, others)


def average_notice(tensors: Mapping[str, Stored]) -> dict[str, str]:
    """Returns the line about moving averages, for a file that has them."""
    found = any(key.startswith(EMA_PREFIX) for key in tensors)
    return {"weights": f"the moving averages ({EMA_PREFIX}*), as the original samples from them"} if found else {}


def stored_scaling(tensors: Mapping[str, Stored]) -> dict[str, float]:
    """Returns the latents' factor, for a file that has measured it: LDM's `scale_by_std`."""
    stored = tensors.get(SCALE_FACTOR)
    return {"scaling_factor": float(read_tensors({SCALE_FACTOR: stored})[SCALE_FACTOR])} if stored else {}


def configs_folder(family: Family, configs: Path | None, shapes: Mapping[str, Shape], declared: Declared) -> Path:
    """Returns the folder of the configs for a file."""
    stock = (
        family.configs_by_channels.get(channels_of(shapes) or 0)
        or family.configs_by_prediction.get(declared.prediction or "")
        or family.configs_by_width.get(width_of(shapes) or 0)
    )
    return found_configs(configs or stock or family.configs)


def configs_in(folder: Path, family: Family, shapes: Mapping[str, Shape]) -> Configs:
    """Returns the configs of a folder, with the input channels of the file's UNet."""
    known = {name: completed(name, read_json(folder / f"{name}.json")) for name in (*family.slots, "scheduler")}
    channels = channels_of(shapes)
    if channels is not None:  # the same configs serve models with extra channels
        known["unet"]["in_channels"] = channels
    return known


def width_of(shapes: Mapping[str, Shape]) -> int | None:
    """Returns the channels of a single file's UNet at its first level; None if they are unknown."""
    shape = shapes.get(FIRST_LAYER, ())
    return shape[0] if len(shape) == 4 else None


def channels_of(shapes: Mapping[str, Shape]) -> int | None:
    """Returns the input channels of a single file's UNet; None if they are unknown."""
    shape = shapes.get(FIRST_LAYER, ())
    return shape[1] if len(shape) == 4 else None
