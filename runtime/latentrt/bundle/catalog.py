"""Bundles by name: the models that ship with the package, or a folder."""

from __future__ import annotations

from pathlib import Path

from latentrt.errors import BundleError

MODELS = Path(__file__).parents[1] / "models"


def folder_of(bundle: str | Path) -> Path:
    """The folder of a bundle given by its path or a built-in model's name. Raises BundleError if there is neither."""
    if isinstance(bundle, str) and bundle in built_in():
        return MODELS / bundle
    if not Path(bundle).exists():
        raise BundleError(
            f"{bundle}: got neither a folder nor the name of a built-in model ({', '.join(built_in())}); "
            "make a bundle with `latentrt export`"
        )
    return Path(bundle)


def built_in() -> list[str]:
    """The names of the models that ship with the package."""
    return sorted(path.name for path in MODELS.iterdir() if (path / "bundle.json").is_file())
