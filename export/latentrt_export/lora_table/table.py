"""The table of weights that LoRA files may change, written into a bundle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from latentrt.bundle.folder import Bundle
from latentrt.bundle.manifest import Manifest
from latentrt.lora.places import QUANTIZED, Place, changed_components, row_of
from latentrt.storage.atomic import new_file
from latentrt_export.lora_table.places import copies_of, places_of, twins_of, unread_of

LORA_WEIGHTS = "lora_weights.json"


def with_table(folder: Path, manifest: Manifest) -> Manifest:
    """Writes the table of a bundle whose graphs are in `folder`; returns the manifest that names it.

    The manifest's `files` is not changed. A bundle with a quantized graph, or without one of the graphs, takes no LoRA
    files and gets no table. Raises BundleError for graphs that do not fit together.
    """
    if not takes_loras(manifest):
        return replace(manifest, lora_weights="")
    content = json.dumps(table_of(Bundle(folder, manifest, "")), separators=(",", ":"), ensure_ascii=False) + "\n"
    with new_file(folder / LORA_WEIGHTS) as temporary:
        temporary.write_bytes(content.encode())
    return replace(manifest, lora_weights=LORA_WEIGHTS)


def takes_loras(manifest: Manifest) -> bool:
    """True if the bundle has all graphs that LoRA files change, in float."""
    if manifest.schedule is None:  # an autoencoder alone
        return False
    found = [manifest.components.get(name) for name in changed_components(manifest)]
    return all(one is not None and one.precision not in QUANTIZED for one in found)


def table_of(bundle: Bundle) -> dict[str, object]:
    """Returns the table of a bundle, in the form of `latentrt.lora.places.Table`, for json.dumps."""
    places = places_of(bundle)
    unread = unread_of(bundle, places)
    weights = rows_of(bundle, places)
    copies = {"copies": rows_of(bundle, copies_of(bundle))} if bundle.manifest.shallow else {}
    return {"weights": weights, "unread": unread, "twins": twins_of(places, unread), **copies}


def rows_of(bundle: Bundle, places: Mapping[str, Mapping[str, Place]]) -> dict[str, dict[str, list[Any]]]:
    """The places as rows, by component and key."""
    return {
        component: {key: row_of(place, bundle.folder) for key, place in found.items()}
        for component, found in places.items()
    }
