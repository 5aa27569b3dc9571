"""Checkpoints given in place of bundles: which paths are checkpoints, and which of their files an export may read."""

from __future__ import annotations

import os
from pathlib import Path

WEIGHTS = ".safetensors"
INDEX = "model_index.json"
# Files of components that an export reads: weights, configs and shard indexes, vocabularies.
READ = (WEIGHTS, ".json", ".txt")


def is_checkpoint(path: Path) -> bool:
    """True for a .safetensors file, a diffusers folder, or a folder of an autoencoder alone; False for a bundle."""
    if path.is_file():
        return path.suffix.lower() == WEIGHTS
    if (path / "bundle.json").exists():
        return False
    return (path / INDEX).is_file() or ((path / "config.json").is_file() and any(path.glob(f"*{WEIGHTS}")))


def name_of(path: Path) -> str:
    """The name of a checkpoint: that of its file or folder; of a snapshot in a download cache, that of the model."""
    whole = Path(os.path.abspath(path))  # links are not resolved: in a download cache, the target is a hash
    if whole.parent.name == "snapshots":
        return whole.parents[1].name.rpartition("--")[2]
    return (whole.stem if whole.suffix.lower() == WEIGHTS else whole.name).lstrip(".") or "model"


def files_of(checkpoint: Path) -> list[Path]:
    """The file itself; of a folder, the files that decide what its export gives, sorted.

    Weights beside model_index.json are left out: they are the same model again, as a single file.
    """
    if checkpoint.is_file():
        return [checkpoint]
    whole = (checkpoint / INDEX).is_file()
    own = [path for path in checkpoint.iterdir() if path.suffix in READ and not (whole and path.suffix == WEIGHTS)]
    inner = [path for path in checkpoint.glob("*/*") if path.suffix in READ] if whole else []
    return sorted(path for path in (*own, *inner) if path.is_file())
