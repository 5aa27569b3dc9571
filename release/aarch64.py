"""Resolves every extra for a Jetson's Python and glibc, without one: python -m release.aarch64.

Wheels alone are taken, as a Jetson has no time to compile; NVIDIA's packages that only name others come as sources. The
exit status is 1 if an extra resolves where the table below says no, or the other way.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from release.extras import EXTRAS, ROOT

# Packages of sources alone, which name the packages with wheels.
NAMES = ("tensorrt-rtx", "tensorrt-rtx-cu13")


@dataclass(frozen=True)
class Target:
    """A JetPack: its Python, its glibc, and extras that do not resolve, with the reason."""

    name: str
    python: str
    platform: str
    without: tuple[str, ...] = ()


TARGETS = (
    # No wheel of onnxruntime-gpu for its Python on aarch64; diffusers needs 3.11; TensorRT comes with JetPack.
    Target("JetPack 6", "3.10", "aarch64-manylinux_2_35", without=("cuda", "tensorrt", "export")),
    Target("JetPack 7", "3.12", "aarch64-manylinux_2_39", without=("tensorrt",)),
)


def main() -> int:
    """Runs the command; returns the exit status."""
    print("| | extra | packages | |\n|---|---|---|---|")
    unexpected = 0
    for target in TARGETS:
        for extra in EXTRAS:
            packages, reason = resolved(target, extra)
            unexpected += bool(packages) == (extra in target.without)
            print(f"| {target.name} | {extra} | {len(packages) or ''} | {reason} |", flush=True)
    return 1 if unexpected else 0


def resolved(target: Target, extra: str) -> tuple[list[str], str]:
    """The packages that an extra brings on a target, and else the resolver's reason in one line."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "resolved.txt"
        found = subprocess.run([*command(target, extra), "-o", file], cwd=ROOT, capture_output=True, text=True)
        if found.returncode == 0:
            return file.read_text().split(), ""
        cause = " ".join(found.stderr.partition("cause: ")[2].partition("hint:")[0].split())
        return [], cause.partition(", we can conclude")[0] or found.stderr


def command(target: Target, extra: str) -> Iterator[str]:
    """The call of uv for an extra on a target."""
    yield from (str(Path(sys.executable).with_name("uv")), "-q", "pip", "compile", "pyproject.toml")
    yield from ("--extra", extra, "--no-header", "--no-annotate", "--only-binary", ":all:")
    yield from (part for name in NAMES for part in ("--no-binary", name))
    yield from ("--python-platform", target.platform, "--python-version", target.python)


if __name__ == "__main__":
    sys.exit(main())
