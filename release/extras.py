"""Installs the wheel with each extra on each Python, draws, and lists what is installed: python -m release.extras.

An SBOM (CycloneDX, JSON) of each environment goes beside the wheel. The exit status is 1 if one of them fails.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
PICTURE = ("generate", "a red apple", "--seed", "7", "--out", "apple.png")


@dataclass(frozen=True)
class Extra:
    """An extra, the one beside it that brings an engine for a CPU, what it needs, and if constraints.txt agrees."""

    name: str
    beside: str = "cpu"
    since: str = "3.10"
    torch: bool = False
    locked: bool = True

    @property
    def requirement(self) -> str:
        """The names of the extras as pip takes them."""
        return ",".join(filter(None, (self.name, self.beside)))


EXTRAS = {
    extra.name: extra
    for extra in (
        Extra("cpu", beside=""),
        Extra("openvino", beside=""),
        Extra("cuda", beside=""),  # whose ONNX Runtime draws on a CPU too
        Extra("tensorrt"),
        Extra("rtx"),
        Extra("jetson", locked=False),  # CUDA 12, where constraints.txt has the bindings of 13
        Extra("export", since="3.11", torch=True),
        Extra("serve"),
        Extra("cluster"),
        Extra("c2pa"),
    )
}


@dataclass(frozen=True)
class Place:
    """An environment: its folder, the Python of it, and the extra that is installed."""

    folder: Path
    python: str
    extra: Extra

    def run(self, program: str, *arguments: str | Path) -> None:
        """Runs one of the environment's programs in its folder. Raises CalledProcessError."""
        subprocess.run([self.folder / "bin" / program, *arguments], cwd=self.folder, check=True, stdout=sys.stderr)

    def has_torch(self) -> bool:
        """Whether torch can be imported."""
        found = subprocess.run([self.folder / "bin" / "python", "-c", "import torch"], capture_output=True, check=False)
        return found.returncode == 0


def main() -> int:
    """Runs the command; returns the exit status."""
    options = parsed()
    (wheel,) = options.dist.resolve().glob("*.whl")
    print("| Python | extra | packages | MB | s | |\n|---|---|---|---|---|---|", flush=True)
    outcomes = []
    for place in places(options):
        start = time.monotonic()
        try:
            install(place, wheel, options.torch)
            check(place)
            bill(place, wheel)
            outcomes.append("draws")
        except (subprocess.CalledProcessError, RuntimeError) as error:
            outcomes.append(f"failed: {error}")
        print(row(place, time.monotonic() - start, outcomes[-1]), flush=True)
        if not options.keep:
            shutil.rmtree(place.folder)
    return 0 if outcomes and set(outcomes) == {"draws"} else 1


def parsed() -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dist", type=Path, default=ROOT / "dist", help="folder of the wheel; SBOMs are written here")
    parser.add_argument("--extra", nargs="+", choices=EXTRAS, default=list(EXTRAS), help="which extras; all of them")
    parser.add_argument("--python", nargs="+", default=list(PYTHONS), help="versions; all that this machine has")
    parser.add_argument("--torch", default="torch", help="requirement installed before what depends on torch")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "extras", help="folder of the environments")
    parser.add_argument("--keep", action="store_true", help="keep the environments, WORK/PYTHON-EXTRA")
    return parser.parse_args()


def places(options: argparse.Namespace) -> Iterator[Place]:
    """New environments, each of an extra and of an interpreter that is here and not too old for it."""
    for version in options.python:
        interpreter = interpreter_of(version)
        for extra in (EXTRAS[name] for name in options.extra):
            if interpreter and as_numbers(version) >= as_numbers(extra.since):
                folder = options.work.resolve() / f"{version}-{extra.name}"
                subprocess.run([interpreter, "-m", "venv", "--clear", folder], check=True)
                yield Place(folder, version, extra)


def interpreter_of(version: str) -> str | None:
    """The first interpreter of a version that starts: one on the path, or one that pyenv installed."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    for candidate in (f"python{version}", *map(str, sorted(pyenv.glob(f"versions/{version}.*/bin/python")))):
        found = shutil.which(candidate)
        if found and subprocess.run([found, "-c", ""], capture_output=True, check=False).returncode == 0:
            return found
    return None


def as_numbers(version: str) -> tuple[int, ...]:
    """A version in the order of versions: 3.9 before 3.10."""
    return tuple(map(int, version.split(".")))


def install(place: Place, wheel: Path, torch: str) -> None:
    """Installs the wheel with the extra, in the versions of constraints.txt as far as it has them and agrees."""
    pip = ("-m", "pip", "-q", "install", *(("-c", ROOT / "constraints.txt") if place.extra.locked else ()))
    if place.extra.torch:
        place.run("python", *pip, torch)
    place.run("python", *pip, f"{wheel}[{place.extra.requirement}]")


def check(place: Place) -> None:
    """Draws. Raises RuntimeError if torch came along without being asked for."""
    place.run("latentrt", "doctor")
    place.run("latentrt", *PICTURE)
    if place.has_torch() and not place.extra.torch:
        raise RuntimeError(f"{place.extra.name}: torch was installed beside the runtime")


def bill(place: Place, wheel: Path) -> None:
    """Writes the SBOM of the environment beside the wheel."""
    package, version = wheel.name.split("-")[:2]
    file = wheel.with_name(f"{package}-{version}-{place.extra.name}-py{place.python}.cdx.json")
    command = [Path(sys.executable).with_name("cyclonedx-py"), "environment", "--output-reproducible"]
    about = ["--pyproject", ROOT / "pyproject.toml", "--output-file", file]
    subprocess.run([*command, *about, place.folder / "bin" / "python"], check=True)
    content = json.loads(file.read_text(encoding="utf-8"))
    content["metadata"]["component"]["version"] = version  # which pyproject.toml does not name
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def row(place: Place, seconds: float, outcome: str) -> str:
    """The table's row of an environment."""
    packages = len(list(place.folder.glob("lib/python3*/site-packages/*.dist-info")))
    size = sum(file.lstat().st_size for file in place.folder.rglob("*") if file.is_file()) / 1e6
    return f"| {place.python} | {place.extra.name} | {packages} | {size:.0f} | {seconds:.0f} | {outcome} |"


if __name__ == "__main__":
    sys.exit(main())
