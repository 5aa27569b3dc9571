"""A folder of LoRA files: finds the file for a name in a prompt."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from latentrt.errors import LatentError, first_few
from latentrt.storage.safetensors import open_tensors

ENDING = ".safetensors"
ALIAS = "ss_output_name"  # the trainer's name of the file, which AUTOMATIC1111 writes into prompts


def find(folder: Path, name: str) -> Path:
    """Returns the file for a name: NAME.safetensors in the folder, or in any folder inside it.

    A name may contain folders ("styles/ink"; "./ink" is at the top of `folder` itself) and the suffix. Case matters
    only where two names differ in case alone. If no file has the name, the file whose header has it as its trainer's
    name is taken. Raises LookupError, with what was expected, for no file and for several.
    """
    if not folder.is_dir():
        raise LookupError(f"expected it in {folder}, which is no folder")
    files = sorted(files_in(folder))
    exact = name.replace("\\", "/").startswith("./")
    wanted = stripped(PurePosixPath(name.replace("\\", "/"))).parts
    names = {file: stripped(PurePosixPath(file.relative_to(folder).as_posix())).parts for file in files}
    folded = tuple(map(str.casefold, wanted))
    tries = (
        [file for file, parts in names.items() if ends(parts, wanted, exact=exact)],
        [file for file, parts in names.items() if ends(tuple(map(str.casefold, parts)), folded, exact=exact)],
    )
    found = next((files for files in tries if files), None) or [file for file in files if alias_of(file) == name]
    if len(found) > 1:
        inside = [str(file.relative_to(folder)) for file in found]
        raise LookupError(f"expected one file, got {first_few(inside)}; name its folder too, ./ for the top folder")
    if not found:
        known = first_few([file.stem for file in files]) or "no LoRA at all"
        raise LookupError(f"expected {name}{ENDING} in {folder}, which has {known}")
    return found[0]


def files_in(folder: Path) -> Iterator[Path]:
    """All LoRA files in a folder and the folders inside it; each folder once, even if links form a cycle."""
    visited = set()
    for path, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(path)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        yield from (Path(path, name) for name in names if name.lower().endswith(ENDING))


def stripped(path: PurePosixPath) -> PurePosixPath:
    """A name without the suffix."""
    return path.with_suffix("") if path.name.lower().endswith(ENDING) else path


def ends(parts: tuple[str, ...], wanted: tuple[str, ...], *, exact: bool) -> bool:
    """True if a file's folders and name end with the wanted parts; with `exact`, if they equal them."""
    return parts == wanted if exact else bool(wanted) and parts[-len(wanted) :] == wanted


def alias_of(file: Path) -> object:
    """The trainer's name of a file, from its header; None if there is none or the file cannot be read."""
    try:
        return open_tensors(file).notes.get(ALIAS)
    except (LatentError, OSError):
        return None
