"""A folder for work that can be taken up again: it says what the work is, and takes no other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from latentrt.atomic import new_file
from latentrt.errors import OutputError


def claim(folder: Path, file: str, settings: Any) -> None:
    """Makes `folder` for work with `settings`, which are noted in `file` there, or takes up such work again.

    settings: an object as JSON has it. What a killed run left half-written is removed. Raises OutputError when the
    folder holds work with other settings, or something else, or cannot be made.
    """
    text = json.dumps(settings, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    path = folder / file
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for item in folder.glob(".*"):
            if item.suffix in (".npz", ".json"):
                item.unlink()
        if path.exists():
            refuse_other(path, json.loads(text))
        elif any(not item.name.startswith(".") for item in folder.iterdir()):
            raise OutputError(f"{folder}: got a folder with other things in it, expected an empty one; name another")
        else:
            with new_file(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
    except OutputError:  # which is an OSError too
        raise
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error.strerror}); name another folder") from error


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
