"""Classes and layouts of checkpoints without prompts: the names and numbers that requests may use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from latentrt.bundle.manifest import Classes, Layout
from latentrt.errors import CheckpointError
from latentrt.validate import shown
from latentrt_export.networks.component import Config

NAMES = Path(__file__).parents[1] / "classes" / "imagenet.txt"
IMAGENET = 1000


def classes_of(config: Config) -> Classes:
    """The classes of a table of class embeddings.

    Entries of its config: names, one per class, synonyms divided by ", "; unconditional, the row that stands for none.
    Without them, a table of one more than ImageNet's ends with the unconditional class (Rombach et al. 2022,
    cin256-v2), and tables of other sizes have neither. Raises CheckpointError for entries that do not fit the table.
    """
    count = int(config["num_embeddings"])
    if "names" in config or "unconditional" in config:
        return named_classes(count, config.get("names", []), config.get("unconditional"))
    if count not in (IMAGENET, IMAGENET + 1):
        return Classes(count)
    return Classes(IMAGENET, IMAGENET if count > IMAGENET else None, imagenet_names())


def named_classes(rows: int, names: Any, unconditional: Any) -> Classes:
    """The classes of a table with that many rows. The last row is no class where it stands for none."""
    if unconditional is not None and (type(unconditional) is not int or not 0 <= unconditional < rows):
        raise CheckpointError(
            f"the config of class_embedding has unconditional {unconditional!r}, expected a row from 0 to {rows - 1}; "
            "correct it"
        )
    count = rows - (unconditional == rows - 1)
    if not isinstance(names, list) or not all(isinstance(one, str) and one for one in names):
        raise CheckpointError(f"the config of class_embedding has names {shown(names)}, expected a list of texts")
    if names and len(names) != count:
        raise CheckpointError(
            f"the config of class_embedding has {len(names)} names, expected {count}, one per class; correct it"
        )
    return Classes(count, unconditional, tuple(names))


def imagenet_names() -> tuple[str, ...]:
    """The names of ImageNet's classes, synonyms divided by ", "."""
    lines = NAMES.read_text(encoding="utf-8").splitlines()
    return tuple(line for line in lines if not line.startswith("#"))


def layout_of(config: Config) -> Layout:
    """The layouts of an encoder of tokens: three tokens per object, and two for the crop."""
    return Layout(int(config["vocab_size"]), (int(config["max_position_embeddings"]) - 2) // 3)
