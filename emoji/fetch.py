"""Gets the pictures and their names: two npm packages at pinned versions, checked and unpacked to `runs/emoji/`.

    python -m emoji.fetch

The npm client does the download, from whatever registry it is set up for; what arrives must have the hash pinned here.
Safe to rerun: a package that is there and right is not fetched again, and unpacking writes the same files.
"""

import base64
import hashlib
import io
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "runs" / "emoji"
PICTURES = FOLDER / "pictures"  # one 256x256 RGBA WebP a code point sequence: 1f34e.webp
NAMES = FOLDER / "names.json"  # emojibase: label, tags and group by code point sequence
LICENCES = FOLDER / "licences"
NPM_TIMEOUT_S = 600


@dataclass(frozen=True)
class Package:
    """A package of the npm registry, `integrity` as package-lock.json writes it, `notices` the files to keep."""

    name: str
    version: str
    integrity: str
    notices: tuple[str, ...]

    @property
    def tarball(self) -> Path:
        """Return where `npm pack` leaves the package."""
        return FOLDER / "npm" / f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


FLUENT = Package(
    "@lobehub/fluent-emoji-3d",
    "1.1.0",
    "sha512-Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g==",
    ("package.json", "README.md"),  # both say MIT; there is no LICENSE file inside
)
EMOJIBASE = Package(
    "emojibase-data",
    "17.0.0",
    "sha512-Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTygjA==",
    ("package.json", "README.md", "LICENSE"),
)


class FetchError(Exception):
    """A package cannot be had, or is not the one that was pinned."""


def integrity(data: bytes) -> str:
    """Return the hash of a file as npm writes it: "sha512-" and base64."""
    return "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()


def load(package: Package) -> bytes:
    """Return a package's tarball, downloaded unless it is there already.

    Raises FetchError when there is no npm client, when it fails, and when the tarball's hash is not the pinned one.
    """
    if not package.tarball.is_file():
        download(package)
    data = package.tarball.read_bytes()
    if integrity(data) != package.integrity:
        raise FetchError(
            f"{package.tarball}: has {integrity(data)}, expected {package.integrity}; delete the file and run this "
            "again, and if that changes nothing do not use what your registry serves"
        )
    return data


def download(package: Package) -> None:
    """Leave the package where `tarball` says. Raises FetchError as `load` does."""
    wanted = f"{package.name}@{package.version}"
    package.tarball.parent.mkdir(parents=True, exist_ok=True)
    command = ["npm", "pack", "--silent", wanted]
    try:
        subprocess.run(command, check=True, timeout=NPM_TIMEOUT_S, cwd=package.tarball.parent, capture_output=True)
    except FileNotFoundError as error:
        raise FetchError("there is no npm command; install Node.js, which brings it, and run this again") from error
    except subprocess.TimeoutExpired as error:
        raise FetchError(f"npm pack {wanted} took over {NPM_TIMEOUT_S} s; is the registry reachable?") from error
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip() or "nothing"
        raise FetchError(f"npm pack {wanted} failed, it said: {said}; try `npm view {wanted}`") from error
    if not package.tarball.is_file():
        raise FetchError(f"npm pack {wanted} left no {package.tarball.name}; is npm older than version 7?")


def contents(data: bytes) -> dict[str, bytes]:
    """Return the files of an npm tarball by their path inside the package."""
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        files = [(member, archive.extractfile(member)) for member in archive if member.isfile()]
        return {member.name.partition("/")[2]: file.read() for member, file in files if file}


def unpack(package: Package, files: dict[str, bytes]) -> None:
    """Write the package's licence notices, and of its other files those that the next stage reads."""
    wanted = {LICENCES / package.tarball.stem / name: files[name] for name in package.notices}
    if package is EMOJIBASE:
        wanted[NAMES] = files["en/data.json"]
    else:
        wanted |= {PICTURES / Path(name).name: data for name, data in files.items() if name.endswith(".webp")}
    for path, data in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def main() -> None:
    """Fetch and unpack both packages, and say what is there."""
    try:
        for package in (FLUENT, EMOJIBASE):
            unpack(package, contents(load(package)))
    except FetchError as error:
        raise SystemExit(f"error: {error}") from error
    print(f"{len(list(PICTURES.iterdir()))} pictures in {PICTURES}, their names in {NAMES}, licences in {LICENCES}")


if __name__ == "__main__":
    main()
