"""Builds and checks the distributions: python -m release.dist [--out dist].

The wheel is built twice, from the checkout and from the sdist, and has to have the same members with the same bytes:
what the sdist lacks, the second wheel lacks too. The exit status is 1 where they differ, or that of a check that fails.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Check:
    """A program of the extra `release`, its options, and what it reads: patterns below the checkout, or "dist"."""

    program: str
    options: tuple[str, ...]
    reads: tuple[str, ...]


CHECKS = (
    Check("twine", ("check", "--strict"), ("dist",)),
    Check("check-wheel-contents", ("--config", "pyproject.toml"), ("dist.whl",)),
    Check("check-jsonschema", ("--builtin-schema", "vendor.github-workflows"), (".github/workflows/*.yml",)),
    Check("zizmor", ("--offline", "--quiet"), (".github/workflows/*.yml",)),
    Check("hadolint", (), ("examples/deploy/Containerfile*",)),
)


def main() -> int:
    """Runs the command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="folder of the distributions, emptied first")
    out = parser.parse_args().out
    shutil.rmtree(out, ignore_errors=True)
    sdist, wheel = built(out)
    differences = compare(wheel, sdist)
    print("\n".join(differences) or f"{wheel.name}: the same from the sdist as from the checkout")
    failed = [check.program for check in CHECKS if not passes(check, (sdist, wheel))]
    return 1 if differences or failed else 0


def built(out: Path) -> tuple[Path, Path]:
    """The sdist and the wheel of the checkout, in `out`."""
    shutil.rmtree(ROOT / "build" / "lib", ignore_errors=True)  # setuptools packs what an earlier build left there
    build(ROOT, out, "--sdist", "--wheel")
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return sdist, wheel


def build(source: Path, out: Path, *what: str) -> None:
    """Builds distributions of a source folder into `out`, with the build backend that is installed."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), *what, str(source)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def compare(wheel: Path, sdist: Path) -> list[str]:
    """Members in which `wheel` and the wheel that the sdist builds differ, a line each."""
    with tempfile.TemporaryDirectory() as scratch:
        shutil.unpack_archive(sdist, scratch, filter="data")
        build(Path(scratch) / sdist.name.removesuffix(".tar.gz"), Path(scratch) / "out", "--wheel")
        (other,) = (Path(scratch) / "out").glob("*.whl")
        return list(differences(members(wheel), members(other)))


def members(wheel: Path) -> dict[str, bytes]:
    """The bytes of every member of a wheel, by name."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def differences(direct: dict[str, bytes], indirect: dict[str, bytes]) -> Iterator[str]:
    """A line for every member that only one of two wheels has, or that differs."""
    for name in sorted(direct.keys() | indirect.keys()):
        if name not in indirect:
            yield f"{name}: not in the sdist's wheel; add it to pyproject.toml's package-data or to MANIFEST.in"
        elif name not in direct:
            yield f"{name}: only in the sdist's wheel; delete build/ and try again"
        elif direct[name] != indirect[name]:
            yield f"{name}: {len(direct[name])} bytes from the checkout, other {len(indirect[name])} from the sdist"


def passes(check: Check, distributions: tuple[Path, Path]) -> bool:
    """Whether a check's program ends with status 0; it prints what it finds."""
    found = {"dist": distributions, "dist.whl": distributions[1:]}
    files = [path for read in check.reads for path in found.get(read) or sorted(ROOT.glob(read))]
    program = Path(sys.executable).with_name(check.program)
    print(f"$ {check.program} {' '.join(check.options)}", flush=True)
    return subprocess.run([program, *check.options, *files], cwd=ROOT, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
