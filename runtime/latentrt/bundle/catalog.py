"""Bundles by name or path: the models that ship with the package, folders, checkpoints, and bundles in the cache."""

from __future__ import annotations

from pathlib import Path

from latentrt.bundle.cached import CachedBundle, cached_bundles
from latentrt.bundle.checkpoint import is_checkpoint
from latentrt.errors import BundleError, CheckpointError

MODELS = Path(__file__).parents[1] / "models"
CHECKPOINT = "a checkpoint (a .safetensors file or a diffusers folder)"


def folder_of(bundle: str | Path, *, export: bool = True) -> Path:
    """The folder of a bundle given by its path, a built-in model's name, a name in the cache, or its checkpoint.

    export: export a checkpoint into the user's cache, if it is not there yet; without, raise BundleError then. Raises
    BundleError if there is nothing of that name, and the errors of `auto_export.exported`.
    """
    if isinstance(bundle, str) and bundle in built_in():
        return MODELS / bundle
    path = Path(bundle)
    if is_checkpoint(path):
        return folder_of_checkpoint(path, export=export)
    if path.is_file():
        raise not_a_bundle(path)
    if path.exists():
        return path
    found = next((one.folder for one in cached() if one.name == str(bundle)), None)
    if found is None:
        raise BundleError(
            f"{bundle}: got neither a folder nor the name of a built-in model ({', '.join(built_in())}), expected one "
            f"of these, {CHECKPOINT}, or a name in `latentrt models`; make a bundle with `latentrt export`"
        )
    return found


def folder_of_checkpoint(path: Path, *, export: bool) -> Path:
    """The folder of a checkpoint's bundle in the cache, as `folder_of`."""
    from latentrt.bundle import auto_export  # imports NumPy, and `latentrt models` does not

    if export:
        return auto_export.exported(path)
    found = auto_export.already_exported(path)
    if found is None:
        raise BundleError(
            f"{path}: got a checkpoint that was not exported yet, expected a bundle; run `latentrt export {path} OUT`, "
            f"or draw with it first: `latentrt generate PROMPT --bundle {path}`"
        )
    return found


def not_a_bundle(file: Path) -> BundleError | CheckpointError:
    """The error for a file that is no checkpoint which can be exported without further options."""
    from latentrt.storage.safetensors import PICKLES

    if file.suffix.lower() in PICKLES:
        return CheckpointError(
            f"{file}: got a pickle, which can run code on loading; run `latentrt export {file} OUT --allow-pickle`, "
            "which reads its tensors in a separate process and runs none of its code, and give OUT as the bundle"
        )
    return BundleError(
        f"{file}: got a file, expected the folder of a bundle, {CHECKPOINT}, or a name in `latentrt models`; make a "
        "bundle with `latentrt export`"
    )


def built_in() -> list[str]:
    """The names of the models that ship with the package."""
    return sorted(path.name for path in MODELS.iterdir() if (path / "bundle.json").is_file())


def cached() -> list[CachedBundle]:
    """The bundles in the user's cache, by names that no built-in model has."""
    return cached_bundles(built_in())
