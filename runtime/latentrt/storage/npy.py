"""NumPy's .npy files, as users give and take them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from latentrt.errors import RequestError
from latentrt.storage.atomic import output_file
from latentrt.tensors import Array


def read_npy(name: str, path: str | Path | os.PathLike[str]) -> Array:
    """The array in a .npy file. Raises RequestError that begins with `name` for anything else."""
    try:
        array: Array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise RequestError(f"{name}: {path} is not a readable .npy file ({str(error).splitlines()[0]})") from error
    return array


def write_npy(path: Path, array: Array) -> None:
    """Writes a .npy file, whole or not at all. Raises OutputError if it cannot be written."""
    with output_file(path) as temporary, temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)
