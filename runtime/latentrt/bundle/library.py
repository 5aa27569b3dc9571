"""The list of models that are there by name, with what each can do.

bundle.json is read as plain JSON and not checked, so that the list takes a few milliseconds: a damaged bundle is an
entry as well, and `open_bundle` says what is wrong with it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from latentrt.bundle.cached import CachedBundle
from latentrt.bundle.catalog import MODELS, built_in, cached
from latentrt.errors import BundleError

Place = Literal["built-in", "cache", "folder"]


@dataclass(frozen=True)
class Model:
    """A model that can be given as a bundle.

    name: the value of `--bundle`. precision: of the denoiser, or of an autoencoder alone. bytes: of all files in its
    folder. step_cache: the shallow UNet's boundary, 0 without. quantized: part of it is in 8 bits. source: the
    checkpoint's path, or its name. problem: why it cannot be read; the rest is empty then.
    """

    name: str
    place: Place
    folder: Path
    bytes: int
    family: str = ""
    precision: str = ""
    width: int | None = None
    height: int | None = None
    multiple: int | None = None
    tasks: tuple[str, ...] = ()
    step_cache: int = 0
    presets: tuple[str, ...] = ()
    quantized: bool = False
    source: str | None = None
    problem: str | None = None

    def record(self) -> dict[str, Any]:
        """The facts as plain values for JSON."""
        return {**asdict(self), "folder": str(self.folder)}

    def cells(self) -> tuple[str, ...]:
        """The facts as the cells of a line: name, family, precision, size on disk, pictures, abilities, source."""
        size = f"{self.bytes / 1e6:.1f} MB"
        if self.problem:
            return self.name, "damaged", "", size, "", self.problem, str(self.folder)
        side = f"{self.width}x{self.height}" if self.width else ""
        source = "built in" if self.place == "built-in" else self.source or str(self.folder)
        return self.name, self.family, self.precision, size, side, ", ".join(self.abilities()), source

    def abilities(self) -> list[str]:
        """What the model can do, as words."""
        more = [
            *(["step cache"] if self.step_cache else []),
            *([f"{len(self.presets)} presets"] if self.presets else []),
            *(["INT8"] if self.quantized else []),
        ]
        return [*self.tasks, *more]


def listed(folders: Iterable[Path] = ()) -> list[Model]:
    """The built-in models, those in the cache, and the bundles in these folders or directly below them."""
    patterns = ("bundle.json", "[!.]*/bundle.json")  # a hidden folder is one that a killed export has left
    inside = [path.parent for folder in folders for pattern in patterns for path in folder.glob(pattern)]
    return [
        *(model_in(MODELS / name, name, "built-in") for name in built_in()),
        *(model_in(one.folder, one.name, "cache", one.source) for one in cached()),
        *(model_in(folder, str(folder), "folder") for folder in sorted(inside)),
    ]


def model_in(folder: Path, name: str, place: Place, source: str | None = None) -> Model:
    """The model of a bundle's folder. source: the checkpoint's path, where it is known."""
    size = bytes_in(folder)
    try:
        manifest = json.loads((folder / "bundle.json").read_bytes())
        return Model(name, place, folder, size, **facts_of(manifest, source))
    except OSError as error:
        return Model(name, place, folder, size, problem=f"bundle.json cannot be read ({error.strerror})")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return Model(name, place, folder, size, problem="bundle.json is damaged")


def facts_of(manifest: Mapping[str, Any], source: str | None) -> dict[str, Any]:
    """The facts in a bundle.json. Raises KeyError, TypeError or AttributeError for one of another form."""
    components: Mapping[str, Any] = manifest["components"]
    roles = {str(one.get("role", name)): one for name, one in components.items()}
    main = roles.get("denoiser") or roles.get("unet") or roles["vae_decoder"]
    latents, defaults = manifest["latents"], manifest["defaults"]
    return {
        "family": str(manifest["family"]),
        "precision": str(main["precision"]),
        "width": int(defaults["width"]),
        "height": int(defaults["height"]),
        "multiple": int(latents.get("factor", latents.get("pixels", 1))) * int(latents.get("multiple", 1)),
        "tasks": tuple(map(str, manifest["tasks"])),
        "step_cache": int(roles.get("shallow_denoiser", {}).get("boundary", 0)),
        "presets": tuple(manifest.get("presets", ())),
        "quantized": any(one.get("quantization") for one in components.values()),
        "source": source or manifest["provenance"].get("source"),
    }


def bytes_in(folder: Path) -> int:
    """The size of all files in a folder and below; links are not followed, and what cannot be read counts nothing."""
    total = 0
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            inner = entry.is_dir(follow_symlinks=False)
            total += bytes_in(Path(entry.path)) if inner else entry.stat(follow_symlinks=False).st_size
    return total


def to_remove(name: str) -> CachedBundle:
    """The bundle of that name in the cache. Raises BundleError for any other, with the names that may be removed."""
    known = cached()
    found = next((one for one in known if one.name == name), None)
    if found is None:
        names = ", ".join(one.name for one in known) or "there is none"
        what = "a model that ships with latentrt" if name in built_in() else f"no model in the cache ({names})"
        raise BundleError(
            f"{name}: got {what}, expected a name in the cache; only those are removed. See `latentrt models`"
        )
    return found
