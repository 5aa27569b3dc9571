"""Plans on disk: built once, signed, and only deserialised if the signature was made with this user's secret.

A plan is `NAME.plan` with its record `NAME.json` in the same folder; NAME is the hash of everything that the plan
depends on. The record is written last, and a plan without one is not loaded, so a killed process leaves no broken plan.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from latentrt.engines.artifacts import content_of
from latentrt.engines.secret import user_secret
from latentrt.errors import OutputError
from latentrt.storage.atomic import output_file
from latentrt.storage.json_codec import read_record, record_text
from latentrt.storage.locks import locked
from latentrt.storage.user_dirs import user_cache, writable

VERSION_COMPATIBLE = "version-compatible"  # a flag: the lean runtime loads only such plans
STRIPPED = "stripped"  # a flag: the plan has no weights; those of its lowered graph are added when it is loaded

MODELS = Path(__file__).parents[2] / "models"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shapes:
    """Shapes of one input in one optimisation profile: TensorRT's min, opt and max. A plan's record has these names."""

    name: str
    smallest: tuple[int, ...]
    usual: tuple[int, ...]
    largest: tuple[int, ...]

    def accepts(self, shape: tuple[int, ...]) -> bool:
        """Whether a shape is within the range."""
        return len(shape) == len(self.smallest) and all(
            low <= side <= high for low, side, high in zip(self.smallest, shape, self.largest, strict=True)
        )


@dataclass(frozen=True)
class PlanKey:
    """Everything that a plan depends on. Precision is part of the graph.

    graph: `graph_digest` of the canonical component. profiles: of each optimisation profile, in the plan's order, the
    shapes of every input, in the order of the component's inputs; profiles share the weights. flags: options of
    lowering and building that change the plan, in a fixed order. engine: "tensorrt" or "tensorrt-rtx". version: the
    engine's, in full. gpu: the device's name, or "" if any GPU of `sm` runs the plan. sm: such as "sm87".
    """

    graph: str
    profiles: tuple[tuple[Shapes, ...], ...]
    flags: tuple[str, ...]
    engine: str
    version: str
    gpu: str
    sm: str

    @property
    def digest(self) -> str:
        """The name of the plan: SHA-256 of the key, in hexadecimal."""
        return hashlib.sha256(key_bytes(self)).hexdigest()

    def profile_of(self, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
        """The index of the first profile that accepts inputs of these shapes; None if there is none."""
        for index, profile in enumerate(self.profiles):
            if shapes.keys() == {one.name for one in profile} and all(one.accepts(shapes[one.name]) for one in profile):
                return index
        return None


@dataclass(frozen=True)
class Record:
    """The record of a plan: its key, and HMAC-SHA256 of key and plan with the user's secret."""

    key: PlanKey
    hmac: str


class PlanStore:
    """Folders of plans: all are searched, and plans are built in the first one that can be written."""

    def __init__(self, *folders: Path) -> None:
        self.folders = folders

    def keys(self) -> list[PlanKey]:
        """The keys of all plans in a fixed order, unverified; `find` and `open` verify signatures."""
        records = (read_record(Record, path) for folder in self.folders for path in sorted(folder.glob("[!.]*.json")))
        return list(dict.fromkeys(record.key for record in records if record is not None))

    def find(self, key: PlanKey) -> Path | None:
        """The path of a verified plan; None if there is none. A plan with a wrong signature is removed."""
        opened = self.open(key)
        if opened is None:
            return None
        with opened:
            return Path(opened.name)

    def open(self, key: PlanKey) -> BinaryIO | None:
        """A verified plan, open at its start; None if there is none. A plan with a wrong signature is removed.

        The open file has the verified bytes, even if another file takes its name afterwards.
        """
        for folder in self.folders:
            plan = folder / f"{key.digest}.plan"
            if (opened := open_verified(plan, key)) is not None:
                return opened
            if record_of(plan).exists():
                discard(plan, key)
        return None

    def build(self, key: PlanKey, make: Callable[[Path], None]) -> Path:
        """The path of a plan; if there is none, `make(path)` writes it first.

        One process builds at a time; the others wait and use its plan. Raises OutputError if no folder can be written,
        and the errors of `make`; an error leaves no files.
        """
        found = self.find(key)
        if found is not None:
            return found
        folder = self.writable()
        plan = folder / f"{key.digest}.plan"
        with locked(folder):
            opened = open_verified(plan, key)  # built by another process while this one waited
            if opened is not None:
                opened.close()
                return plan
            remove(plan)
            sweep(folder)
            with output_file(plan) as temporary:
                temporary.chmod(0o600)
                make(temporary)
                temporary.chmod(0o600)  # `make` may have replaced the file
                with temporary.open("rb") as file:
                    record = Record(key, signature(file, key))
            with output_file(record_of(plan)) as temporary:
                temporary.chmod(0o600)
                temporary.write_text(record_text(record), encoding="utf-8")
        return plan

    def writable(self) -> Path:
        """The first writable folder, created if needed. Raises OutputError if there is none."""
        for folder in self.folders:
            if writable(folder):
                return folder
        raise OutputError(
            f"plans can be written neither to {' nor to '.join(map(str, self.folders))}; "
            "set XDG_CACHE_HOME to a writable folder"
        )


def plan_store(bundle: Path) -> PlanStore:
    """The plans of the bundle in that folder: in its `targets/`, or in the user's cache if that cannot be written.

    Plans of a built-in model are only in the cache, because installed packages must not change.
    """
    cache = user_cache("plans")
    built_in = bundle.resolve().is_relative_to(MODELS.resolve())
    return PlanStore(cache) if built_in else PlanStore(bundle / "targets", cache)


def key_bytes(key: PlanKey) -> bytes:
    """The key as JSON bytes; equal keys, and only these, give equal bytes."""
    return content_of(asdict(key))


def signature(plan: BinaryIO, key: PlanKey) -> str:
    """HMAC-SHA256 of the key and of the open plan from its position on, in hexadecimal."""
    digest = hmac.new(user_secret(), key_bytes(key) + b"\n", hashlib.sha256)
    while piece := plan.read(1 << 20):
        digest.update(piece)
    return digest.hexdigest()


def record_of(plan: Path) -> Path:
    """The path of a plan's record."""
    return plan.with_suffix(".json")


def open_verified(plan: Path, key: PlanKey) -> BinaryIO | None:
    """The plan, open at its start, if its record has this key and a right signature; else None."""
    record = read_record(Record, record_of(plan))
    if record is None or record.key != key:
        return None
    try:
        opened = plan.open("rb")
    except OSError:
        return None
    if hmac.compare_digest(signature(opened, key), record.hmac):
        opened.seek(0)
        return opened
    opened.close()
    return None


def discard(plan: Path, key: PlanKey) -> None:
    """Removes a plan with a wrong signature, unless another process is replacing it."""
    with locked(plan.parent, wait=False) as alone:
        if alone and (opened := open_verified(plan, key)) is not None:
            opened.close()
        elif alone:
            log.warning("%s: not built by this user or changed since; removed", plan)
            remove(plan)


def remove(plan: Path) -> None:
    """Removes a plan, its record first, because a plan without a record is never read."""
    for path in (record_of(plan), plan):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Removes temporary files of killed builds; the caller holds the lock of the folder."""
    for temporary in (*folder.glob(".*.plan"), *folder.glob(".*.json")):
        temporary.unlink(missing_ok=True)
