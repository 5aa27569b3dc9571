"""Workspaces: folders of intermediate results, bound to the settings that the results depend on."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from latentrt.errors import OutputError
from latentrt.storage.atomic import cannot_write, new_file
from latentrt.storage.temporary import MARK

# Names of temporary files; a killed run leaves one.
HALF_WRITTEN = re.compile(rf"\..+{MARK}\.(json|npz)")


def open_workspace(folder: Path, file: str, settings: Any, *, scratch: str | None = None) -> None:
    """Creates `folder` for results of `settings`, which are stored in `file` there, or opens it again.

    settings: a JSON object. scratch: name of an item that a new folder may contain. Half-written files of a killed run
    are removed. Raises OutputError for a folder with results of other settings, for a folder with other files, and for
    a folder that cannot be created.
    """
    text = json.dumps(settings, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    path = folder / file
    try:
        folder.mkdir(parents=True, exist_ok=True)
        half_written = [item for item in folder.iterdir() if HALF_WRITTEN.fullmatch(item.name)]
        if path.exists():
            refuse_other(path, json.loads(text))
        elif {item.name for item in folder.iterdir()} - {item.name for item in half_written} - {scratch}:
            raise OutputError(f"{folder}: got a folder with other files, expected an empty one; name another")
        else:
            with new_file(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
        for item in half_written:
            item.unlink()
    except OutputError:  # a subclass of OSError
        raise
    except OSError as error:
        raise cannot_write(folder, error) from error


def refuse_other(path: Path, settings: dict[str, Any]) -> None:
    """Raises OutputError that names the settings that differ from the file at `path`, if any do."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise OutputError(f"{path}: damaged ({error}); remove {path.parent} and run the command again") from error
    if found != settings:
        same = found if isinstance(found, dict) else {}
        keys = [key for key in settings if key not in same or same[key] != settings[key]]
        raise OutputError(
            f"{path}: got work begun with another {', '.join(keys)}; "
            f"name another folder, or remove {path.parent} to start over"
        )
