"""A folder for work that can be taken up again: it says what the work is, and takes no other."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from latentrt.errors import OutputError
from latentrt.storage.atomic import cannot_write, new_file

# The names that latentrt.storage.atomic gives to files while they are written; a killed run leaves one.
HALF_WRITTEN = re.compile(r"\..+\.[0-9a-f]{16}\.(json|npz)")


def open_workspace(folder: Path, file: str, settings: Any, *, scratch: str | None = None) -> None:
    """Makes `folder` for work with `settings`, which are noted in `file` there, or takes up such work again.

    settings: an object as JSON has it. scratch: what may be in a new folder. What a killed run left half-written is
    removed. Raises OutputError when the folder holds work with other settings, or something else, or cannot be made.
    """
    text = json.dumps(settings, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    path = folder / file
    try:
        folder.mkdir(parents=True, exist_ok=True)
        half_written = [item for item in folder.iterdir() if HALF_WRITTEN.fullmatch(item.name)]
        if path.exists():
            refuse_other(path, json.loads(text))
        elif {item.name for item in folder.iterdir()} - {item.name for item in half_written} - {scratch}:
            raise OutputError(f"{folder}: got a folder with other things in it, expected an empty one; name another")
        else:
            with new_file(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
        for item in half_written:
            item.unlink()
    except OutputError:  # which is an OSError too
        raise
    except OSError as error:
        raise cannot_write(folder, error) from error


def refuse_other(path: Path, settings: dict[str, Any]) -> None:
    """Raises OutputError that names what differs, unless the file at `path` holds `settings`."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise OutputError(f"{path}: damaged ({error}); remove {path.parent} and run the command again") from error
    if found != settings:
        same = found if isinstance(found, dict) else {}
        keys = [key for key in settings if key not in same or same[key] != settings[key]]
        raise OutputError(
            f"{path}: got work begun with another {', '.join(keys)}; "
            f"name another folder, or remove {path.parent} to begin again"
        )
