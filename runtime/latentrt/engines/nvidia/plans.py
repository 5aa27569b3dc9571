"""Engine plans on disk: built once, signed, and never deserialised unless this user's secret vouches for them.

A plan is `NAME.plan` with its record `NAME.json` beside it; NAME is the hash of everything that the plan depends on.
The record is written last, so a plan without one does not exist yet, and a process killed at any point leaves nothing
that could be loaded.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from latentrt.engines.nvidia.secret import user_secret
from latentrt.errors import OutputError
from latentrt.storage.atomic import output_file
from latentrt.storage.json_codec import TypedError, parse
from latentrt.storage.locks import locked
from latentrt.storage.user_dirs import user_cache, writable

VERSION_COMPATIBLE = "version-compatible"  # a flag: the lean runtime loads only such plans
STRIPPED = "stripped"  # a flag: the plan has no weights, and is given those of its lowered graph when it is loaded

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
        """Whether a shape is between the smallest and the largest."""
        return len(shape) == len(self.smallest) and all(
            low <= side <= high for low, side, high in zip(self.smallest, shape, self.largest, strict=True)
        )


@dataclass(frozen=True)
class PlanKey:
    """Everything that a plan depends on. Precision is not among it: it is in the graph.

    graph: `graph_digest` of the canonical component. profiles: of each optimisation profile, in the plan's order, the
    shapes of every input, in the order of the component's inputs; profiles share the weights. flags: options of
    lowering and building that change the plan, in a fixed order. engine: "tensorrt" or "tensorrt-rtx". version: the
    engine's, in full. gpu: the device's name, "" for a plan that any GPU of `sm` runs. sm: such as "sm87".
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
        return hashlib.sha256(canonical(self)).hexdigest()

    def profile_of(self, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
        """The index of the first profile that takes inputs of these shapes; None if there is none."""
        for index, profile in enumerate(self.profiles):
            if shapes.keys() == {own.name for own in profile} and all(own.accepts(shapes[own.name]) for own in profile):
                return index
        return None


@dataclass(frozen=True)
class Record:
    """What stands beside a plan: its key, and HMAC-SHA256 over key and plan under the user's secret."""

    key: PlanKey
    hmac: str


class PlanStore:
    """Folders of plans: all are searched, and plans are built in the first one that can be written."""

    def __init__(self, *folders: Path) -> None:
        self.folders = folders

    def keys(self) -> list[PlanKey]:
        """The keys of all plans that are there, in a fixed order; only `find` or `open` says which can be trusted."""
        records = (read_record(path) for folder in self.folders for path in sorted(folder.glob("*.json")))
        return list(dict.fromkeys(record.key for record in records if record is not None))

    def find(self, key: PlanKey) -> Path | None:
        """The plan's path once its digest is right, else None; one whose digest is wrong is removed."""
        opened = self.open(key)
        if opened is None:
            return None
        with opened:
            return Path(opened.name)

    def open(self, key: PlanKey) -> BinaryIO | None:
        """The plan, open at its start, once its digest is right, else None; one whose digest is wrong is removed.

        The bytes that were checked are those of the open file, whatever happens to its name afterwards.
        """
        for folder in self.folders:
            plan = folder / f"{key.digest}.plan"
            if (opened := verified(plan, key)) is not None:
                return opened
            if record_of(plan).exists():
                discard(plan, key)
        return None

    def build(self, key: PlanKey, make: Callable[[Path], None]) -> Path:
        """The plan's path; `make(path)` writes it there first if it is not there yet.

        One process builds at a time, the others wait and then find its plan. Raises OutputError when no folder can be
        written, and what `make` raises; neither leaves anything behind.
        """
        found = self.find(key)
        if found is not None:
            return found
        folder = self.writable()
        plan = folder / f"{key.digest}.plan"
        with locked(folder):
            opened = verified(plan, key)  # built by another process while this one waited
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
                temporary.write_text(json.dumps(asdict(record), indent=2) + "\n", encoding="utf-8")
        return plan

    def writable(self) -> Path:
        """The first folder that can be written, made if need be. Raises OutputError when there is none."""
        for folder in self.folders:
            if writable(folder):
                return folder
        raise OutputError(
            f"plans can be written neither to {' nor to '.join(map(str, self.folders))}; "
            "set XDG_CACHE_HOME to a folder that can be written"
        )


def plan_store(bundle: Path) -> PlanStore:
    """The plans of the bundle in that folder: in its `targets/`, and in the user's cache where that cannot be written.

    Those of a built-in model are in the cache alone: what is installed stays as it was.
    """
    cache = user_cache("plans")
    built_in = bundle.resolve().is_relative_to(MODELS.resolve())
    return PlanStore(cache) if built_in else PlanStore(bundle / "targets", cache)


def canonical(key: PlanKey) -> bytes:
    """The key as bytes: equal keys give equal bytes, others do not."""
    return json.dumps(asdict(key), sort_keys=True, separators=(",", ":")).encode()


def signature(plan: BinaryIO, key: PlanKey) -> str:
    """HMAC-SHA256 of the key and the rest of the open plan, in hexadecimal."""
    digest = hmac.new(user_secret(), canonical(key) + b"\n", hashlib.sha256)
    while piece := plan.read(1 << 20):
        digest.update(piece)
    return digest.hexdigest()


def record_of(plan: Path) -> Path:
    """Where the record of a plan is."""
    return plan.with_suffix(".json")


def read_record(path: Path) -> Record | None:
    """The record in a file; None where there is none that can be read."""
    try:
        return parse(Record, json.loads(path.read_bytes()))
    except (OSError, TypedError, ValueError, RecursionError):
        return None


def verified(plan: Path, key: PlanKey) -> BinaryIO | None:
    """The plan, open at its start, if its record is for this key and its digest is right."""
    record = read_record(record_of(plan))
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
    """Removes a plan that is not to be trusted, unless a process that builds right now is about to replace it."""
    with locked(plan.parent, wait=False) as alone:
        if alone and (opened := verified(plan, key)) is not None:
            opened.close()
        elif alone:
            log.warning("%s: not built by this user or changed since; removed", plan)
            remove(plan)


def remove(plan: Path) -> None:
    """Removes a plan, its record first: a plan without one is never read."""
    for path in (record_of(plan), plan):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Removes what killed builds left: nobody but the holder of the lock has temporary files there."""
    for left in (*folder.glob(".*.plan"), *folder.glob(".*.json")):
        left.unlink(missing_ok=True)
