"""Copies of a small checkpoint in a single file, with tensors or notes that are not in the first."""

from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.export.tiny_families import Tiny, save_tokenizer
from tests.export.tiny_families import save_file as save_single


def saved_single(family: Tiny, folder: Path) -> Path:
    """Writes a family's single file, its configs and its tokenizers into `folder`; returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    save_single(family, folder / "single.safetensors")
    for name, pad in family.pads.items():
        save_tokenizer(folder / name, pad)
    return folder / "single.safetensors"


def copied(
    file: Path,
    path: Path,
    extra: Mapping[str, Tensor] | None = None,
    notes: Mapping[str, str] | None = None,
    change: Callable[[str, Tensor], Tensor] = lambda key, tensor: tensor,
) -> Path:
    """Writes a copy of `file` with tensors and notes besides, each of its own changed; returns its path."""
    tensors = {key: change(key, tensor) for key, tensor in load_file(file).items()}
    save_file({key: one.contiguous() for key, one in {**tensors, **(extra or {})}.items()}, path, dict(notes or {}))
    return path
