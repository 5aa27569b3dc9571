"""Environment of one report: its own folder and home folder, commands in separate processes."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

HOMES = ("HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME", "CI")
ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Done:
    """Result of a process: exit status and output."""

    status: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """Exit status and error line (or else the last line), cut to fit a table."""
        lines = [line for line in (self.err + "\n" + self.out).splitlines() if line.strip()]
        chosen = next((line for line in lines if line.startswith("error:")), lines[-1] if lines else "nothing printed")
        return f"exit {self.status}: {chosen[:200]}"

    @property
    def refused(self) -> bool:
        """True if the process ended with one clear error and no traceback."""
        return self.status in range(2, 8) and "Traceback" not in self.err and "rror: " in self.err


@dataclass(frozen=True)
class Place:
    """A folder for one row; `shared` holds the checkpoints and bundles that all rows use."""

    folder: Path
    shared: Path

    def run(self, *arguments: object, before: str = "", after: str = "", **environment: str) -> Done:
        """Runs `latentrt` with arguments, in the folder. before, after: shell text around the command."""
        command = [sys.executable, "-m", "latentrt", *map(str, arguments)]
        return self.process(["sh", "-c", f'{before or ":"}; "$@" {after}', "sh", *command], **environment)

    def python(self, code: str, **environment: str) -> Done:
        """Runs a piece of Python in the folder."""
        return self.process([sys.executable, "-c", code], **environment)

    def process(self, command: list[str], **environment: str) -> Done:
        """Runs a command in the folder, with a home of its own."""
        (self.folder / "home").mkdir(exist_ok=True)
        known = {name: value for name, value in os.environ.items() if name not in HOMES}
        known |= {"HOME": str(self.folder / "home"), "PYTHONPATH": str(ROOT), "LATENTRT_ENGINE": "onnxruntime"}
        done = subprocess.run(
            command, cwd=self.folder, env=known | environment, capture_output=True, timeout=300, check=False
        )
        out, err = (stream.decode("utf-8", "replace") for stream in (done.stdout, done.stderr))
        return Done(done.returncode, out, err)

    def draw(self, *options: object, prompt: str = "a red apple", out: str = "o.png", **settings: str) -> Done:
        """Draws one small picture in one step. Keyword arguments are those of `run`."""
        few = ("--steps", 1, "--size", "64x64", "--seed", 1)
        return self.run("generate", prompt, *few, "--out", out, *options, **settings)

    def pixels(self, out: str = "o.png") -> np.ndarray:
        """The pixels of a picture in the folder."""
        with Image.open(self.folder / out) as image:
            return np.asarray(image.convert("RGB"), int)

    def export(self, name: str, base: str, *options: object) -> Done:
        """Exports a single file, whose configs and tokenizer are those of `base`, to `bundle`."""
        known = ("--configs", self.shared / base / "configs", "--tokenizer", self.shared / base / "tok")
        return self.run("export", name, "bundle", *known, *options)
