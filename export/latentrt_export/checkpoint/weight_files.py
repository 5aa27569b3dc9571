"""Weight files of a component's folder: plain or of a variant, whole or in shards."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentrt.errors import CheckpointError

# Variants with the same weights in other floats, most precise first; "" is the plain file.
FLOATS = ("", "fp32", "fp16", "bf16")
SHARD = re.compile(r"-\d{5}-of-\d{5}")


@dataclass(frozen=True)
class WeightFiles:
    """A component's weight files, and the index of shards if there are several."""

    shards: tuple[Path, ...]
    index: Path | None = None


def found_in(folder: Path, stem: str, ending: str = "safetensors") -> dict[str, Path]:
    """Returns the file or the index of each variant in a folder; "" for the plain file."""
    variant = r"(?:\.([\w-]+))?"
    whole = re.compile(rf"{re.escape(stem)}{variant}\.{ending}")
    index = re.compile(rf"{re.escape(stem)}\.{ending}\.index{variant}\.json")
    found = {}
    for kind in (index, whole):  # a whole file wins
        for file in sorted(folder.iterdir()) if folder.is_dir() else ():
            match = kind.fullmatch(file.name)
            if match and not SHARD.search(file.name):
                found[match[1] or ""] = file
    return found


def chosen(folder: Path, found: Mapping[str, Path], variant: str | None) -> WeightFiles:
    """Returns the files of the requested variant, else of the most precise one.

    Order without a request: plain, fp32, the only variant, fp16, bf16. Raises CheckpointError for several others.
    """
    order = [variant, *FLOATS[:2], *(found if len(found) == 1 else ()), *FLOATS[2:]]
    name = next((name for name in order if name in found), None)
    if name is None:
        raise CheckpointError(f"{folder} has several variants, {', '.join(found)}: choose one with --variant NAME")
    file = found[name]
    return WeightFiles(shards_of(file), file) if file.suffix == ".json" else WeightFiles((file,))


def shards_of(index: Path) -> tuple[Path, ...]:
    """Returns the files in an index. Raises CheckpointError for a damaged index, and for files that are not there."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise CheckpointError(f"{index} has weight_map {weight_map!r}: expected an object, fetch the checkpoint again")
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if Path(name).name != name or not (index.parent / name).is_file():
            raise CheckpointError(f"{index} names {name!r}: expected a file beside it, fetch the checkpoint again")
    return tuple(index.parent / name for name in names)


def read_json(file: Path) -> dict[str, Any]:
    """Returns the object in a JSON file. Raises CheckpointError for anything else."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} cannot be read ({error}): expected a json file, fetch it again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{file} holds {type(value).__name__}: expected a json object, fetch it again")
    return value
