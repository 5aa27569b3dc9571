"""The index of the chosen pictures: json lines in a fixed order, one frozen `Row` a picture."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from emoji.fetch import FOLDER, PICTURES

INDEX = FOLDER / "index.jsonl"


@dataclass(frozen=True)
class Row:
    """One picture: its file below `runs/emoji/pictures`, and what emojibase calls it."""

    file: str
    label: str
    tags: tuple[str, ...]
    group: str

    @property
    def path(self) -> Path:
        """Return where the picture is."""
        return PICTURES / self.file


def save(rows: Iterable[Row], path: Path = INDEX) -> None:
    """Write the rows to `path`, one json object a line."""
    path.write_text("".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def load(path: Path = INDEX) -> list[Row]:
    """Return the rows of an index. Raises FileNotFoundError, naming the command that writes it, when there is none."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; run python -m emoji.pictures")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [Row(**row | {"tags": tuple(row["tags"])}) for row in rows]
