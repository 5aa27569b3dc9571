"""The table of weights that LoRA files may change, written into a bundle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from latentrt.bundle.folder import Bundle
from latentrt.bundle.manifest import Manifest
from latentrt.lora.places import FIXED, Decoded, Place, changed_components, row_of
from latentrt.storage.atomic import new_file
from latentrt_export.lora_table import transformers
from latentrt_export.lora_table.initializers import decoded_in
from latentrt_export.lora_table.places import copies_of, places_of, twins_of, unread_of

LORA_WEIGHTS = "lora_weights.json"
# How `latentrt_export.graph` ends the name of what a weight in few bits is decoded to.
DECODED = ".decoded"


def with_table(folder: Path, manifest: Manifest) -> Manifest:
    """Writes the table of a bundle whose graphs are in `folder`; returns the manifest that names it.

    The manifest's `files` is not changed. A bundle with a graph in INT8, or without one of the graphs, takes no LoRA
    files and gets no table. Neither does one in few bits of version 0.2, whose weights have lost their names. Raises
    BundleError for graphs that do not fit together.
    """
    if not takes_loras(manifest) or not has_names(folder, manifest):
        return replace(manifest, lora_weights="")
    content = json.dumps(table_of(Bundle(folder, manifest, "")), separators=(",", ":"), ensure_ascii=False) + "\n"
    with new_file(folder / LORA_WEIGHTS) as temporary:
        temporary.write_bytes(content.encode())
    return replace(manifest, lora_weights=LORA_WEIGHTS)


def takes_loras(manifest: Manifest) -> bool:
    """True if the bundle has all graphs that LoRA files change, none with activations in 8 bits."""
    if manifest.schedule is None:  # an autoencoder alone
        return False
    found = [manifest.components.get(name) for name in changed_components(manifest)]
    return all(one is not None and one.precision not in FIXED for one in found)


def has_names(folder: Path, manifest: Manifest) -> bool:
    """True if all weights in few bits have the names of the checkpoint's."""
    graphs = [folder / manifest.components[name].file for name in changed_components(manifest)]
    return all(name.endswith(DECODED) for graph in graphs for name in decoded_in(graph))


def table_of(bundle: Bundle) -> dict[str, object]:
    """Returns the table of a bundle, in the form of `latentrt.lora.places.Table`, for json.dumps."""
    if bundle.manifest.denoiser == transformers.DENOISER:
        places = transformers.places_of(bundle)
        unread: dict[str, dict[str, tuple[int, ...]]] = {name: {} for name in places}
        twins = transformers.twins_of(bundle, places)
    else:
        places = places_of(bundle)
        unread = unread_of(bundle, places)
        twins = twins_of(places, unread)
    copies = copies_of(bundle)
    decoded = decoded_rows(bundle, places, copies)
    more = {"copies": rows_of(bundle, copies) if copies else {}, "decoded": decoded}
    filled = {name: rows for name, rows in more.items() if any(rows.values())}
    return {"weights": rows_of(bundle, places), "unread": unread, "twins": twins, **filled}


def rows_of(bundle: Bundle, places: Mapping[str, Mapping[str, Place]]) -> dict[str, dict[str, list[Any]]]:
    """The places of float weights as rows, by component and key."""
    return {
        component: {
            key: row_of(place, bundle.folder)
            for key, place in found.items()
            if not isinstance(place.initializer, Decoded)
        }
        for component, found in places.items()
    }


def decoded_rows(bundle: Bundle, *graphs: Mapping[str, Mapping[str, Place]]) -> dict[str, dict[str, list[list[Any]]]]:
    """The places of weights in few bits as rows, by component and key; one of each graph."""
    rows: dict[str, dict[str, list[list[Any]]]] = {}
    for component, found in (item for places in graphs for item in places.items()):
        for key, place in found.items():
            if isinstance(place.initializer, Decoded):
                rows.setdefault(component, {}).setdefault(key, []).append(row_of(place, bundle.folder))
    return rows
