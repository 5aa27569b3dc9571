"""A file of prompts, drawn by all nodes of a Ray cluster into one folder.

    pip install 'latentrt[cpu,cluster]'
    python examples/cluster/offline.py PROMPTS.txt FOLDER [BUNDLE] [PROCESSES]

Ray Data hands out one prompt after the other. The seed of a prompt is the number of its line, so the pictures are the
same on any number of nodes with the same engine. On several machines, FOLDER has to be one that all of them reach.
"""

import os
import secrets
import sys
from pathlib import Path
from typing import Any

# Ray reads both when it is imported. On several machines, every node gets the same token.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))

import ray.data  # noqa: E402

import latentrt  # noqa: E402


class Painter:
    """One process with the model, loaded once."""

    def __init__(self, bundle: str, folder: str) -> None:
        self.pipeline, self.folder = latentrt.load(bundle), Path(folder)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Draws a prompt, and says where."""
        path = self.folder / f"{row['line']:05d}.png"
        self.pipeline.generate(row["prompt"], seed=row["line"]).save(path)
        return {**row, "file": str(path)}


def main(prompts: str, folder: str, bundle: str = "emoji", processes: str = "2") -> None:
    """Draws every line of a file."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    lines = Path(prompts).read_text(encoding="utf-8").splitlines()
    rows = [{"line": number, "prompt": text} for number, text in enumerate(lines, 1)]
    drawn = ray.data.from_items(rows).map(
        Painter, fn_constructor_args=(bundle, str(Path(folder).resolve())), concurrency=int(processes)
    )
    for row in drawn.iter_rows():
        print(row["file"], row["prompt"])


if __name__ == "__main__":
    main(*sys.argv[1:])
