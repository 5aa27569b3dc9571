"""How long a pipeline takes until it is ready: cold, with the bundle out of the disk's cache, and warm."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from latentrt.bundle.folder import Bundle
from latentrt.pipeline.pipeline import Pipeline
from latentrt.pipeline.prepare import Prepared, prepare
from latentrt.pipeline.timings import Timings
from latentrt.request.request import Request

Open = Callable[[], Pipeline]

BUNDLE = "bundle"


def load(opening: Open, request: Request) -> tuple[Pipeline, Prepared, dict[str, float]]:
    """Returns a pipeline with the graphs that the request uses loaded, the prepared run, and the seconds of each part.

    Where a memory budget has components take turns, each is unloaded again.
    """
    spent = Timings()
    with spent.phase(BUNDLE):
        pipeline = opening()
    prepared = prepare(pipeline, request)
    for name, engine in pipeline.engines.items():
        if prepared.demand.uses(name, pipeline.bundle.manifest.components[name].role):
            with spent.phase(name):
                engine.load()
            if not prepared.keeps:
                engine.unload()
    return pipeline, prepared, spent.seconds


def load_again(opening: Open, request: Request, times: int) -> dict[str, tuple[float, ...]]:
    """The seconds of each part, for each of so many loads; what was loaded is dropped again."""
    found: dict[str, tuple[float, ...]] = {}
    for _ in range(times):
        pipeline, _, seconds = load(opening, request)
        pipeline.close()
        found = {name: (*found.get(name, ()), taken) for name, taken in seconds.items()}
    return found


def empty_disk_cache(bundle: Bundle) -> bool:
    """Asks the system to forget a bundle's files, so that they come from the disk. False where it cannot be prepared.

    Pages that another process has mapped stay.
    """
    if not hasattr(os, "posix_fadvise"):
        return False
    return all([forget(bundle.path(file)) for file in bundle.manifest.files])


def forget(file: Path) -> bool:
    """Has the system drop what it keeps of a file. False where it does not."""
    try:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())  # only what is on the disk can be dropped
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    except (OSError, AttributeError):  # not every system can be asked
        return False
    return True
