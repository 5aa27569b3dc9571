"""Named arrays in one .npz file, written whole or not at all; equal arrays give equal bytes."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from latentrt.storage.atomic import new_file
from latentrt.tensors import Array

# The earliest date of a zip file. NumPy's own writer states the current time, so its bytes differ each time.
DATE = (1980, 1, 1, 0, 0, 0)


def save_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Writes the arrays to `path` in the order given, uncompressed, for `numpy.load` to read; whole or not at all."""
    with new_file(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy", DATE), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)


def load_arrays(path: Path, prefix: str = "") -> dict[str, Array]:
    """Returns the arrays whose names begin with `prefix`, by the rest of their names, with checksums checked.

    Raises OSError if the file cannot be read, ValueError if it is damaged.
    """
    arrays: dict[str, Array] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.startswith(prefix):
                    with archive.open(name) as member:
                        array = np.lib.format.read_array(member, allow_pickle=False)
                    arrays[name.removeprefix(prefix).removesuffix(".npy")] = array
    except zipfile.BadZipFile as error:
        raise ValueError(str(error)) from error
    return arrays


def is_whole(path: Path) -> bool:
    """True if `path` exists and the checksums of all its arrays are right."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False
