"""Checks of the paths that an export is given: existence and kind of file. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from latentrt.errors import CheckpointError
from latentrt_export.checkpoint.pickles import PICKLES, refusal

CONFIGS = Path(__file__).parents[1] / "configs"
NOTHING = "nothing is downloaded here"


@dataclass(frozen=True)
class Kind:
    """A kind of input. folder, file: it may be a folder, or a file. expected: text for the error, with advice."""

    name: str
    expected: str
    folder: bool = True
    file: bool = True


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "checkpoint",
            "a diffusers folder or a .safetensors file. Nothing is downloaded here, so fetch it first, for example "
            "with: hf download OWNER/NAME --local-dir FOLDER",
        ),
        Kind("VAE", f"a diffusers VAE folder or a .safetensors file; {NOTHING}"),
        Kind("tiny decoder", f"an AutoencoderTiny folder or a .safetensors file; {NOTHING}"),
        Kind("LoRA", f"a .safetensors file; {NOTHING}"),
        Kind("embedding", f"a .safetensors file; {NOTHING}", folder=False),
        Kind("ControlNet", f"a folder with config.json or a .safetensors file; {NOTHING}"),
        Kind("T2I-Adapter", f"a folder of diffusers' T2IAdapter, with its config.json; {NOTHING}", file=False),
        Kind("IP-Adapter", f"a .safetensors file; {NOTHING}", folder=False),
        Kind(
            "image encoder",
            f"a folder of CLIPVisionModelWithProjection; name it with --image-encoder DIR. {NOTHING.capitalize()}",
            file=False,
        ),
        Kind(
            "tokenizer",
            f"a folder with tokenizer.json, or vocab.json and merges.txt, or BERT's vocab.txt; {NOTHING}",
            file=False,
        ),
    )
}


def check_there(name: str, path: Path, *, allow_pickle: bool = False) -> None:
    """Raises CheckpointError unless `path` may be an input of that kind. name: a key of KINDS.

    >>> check_there("VAE", Path("vae.safetensors"))  # doctest: +SKIP
    """
    kind = KINDS[name]
    if not ((kind.folder and path.is_dir()) or (kind.file and path.is_file())):
        raise CheckpointError(f"no {kind.name} at {path}: expected {kind.expected}")
    if path.is_file():
        check_type(path, allow_pickle=allow_pickle)


def check_type(file: Path, *, allow_pickle: bool = False) -> None:
    """Raises CheckpointError for a file whose name does not end in .safetensors.

    allow_pickle: accept pickles too.
    """
    suffix = file.suffix.lower()
    if suffix == ".safetensors" or (allow_pickle and suffix in PICKLES):
        return
    if suffix in PICKLES:
        raise CheckpointError(refusal(file))
    if suffix == ".gguf":
        raise CheckpointError(f"{file} is of type '.gguf', which is quantized: fetch the model as .safetensors")
    raise CheckpointError(f"{file} is of type {file.suffix!r}: expected a .safetensors file or a diffusers folder")


def found_configs(folder: Path) -> Path:
    """Returns the folder of configs that `folder` names: itself, or one that ships with the package."""
    return folder if folder.is_dir() else CONFIGS / folder


def check_configs(folder: Path) -> None:
    """Raises CheckpointError unless `folder` is a folder, or the name of configs that ship with the package."""
    if not found_configs(folder).is_dir():
        shipped = ", ".join(sorted(one.name for one in CONFIGS.iterdir()))
        raise CheckpointError(
            f"no configs at {folder}: expected a folder with unet.json, vae.json, …, or a name of those that ship: "
            f"{shipped}; give it with --configs DIR (configs= in Python)"
        )
