"""Loading times of a pipeline: cold, after the bundle's files left the disk cache, and warm."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from latentrt.bundle.folder import Bundle
from latentrt.pipeline.pipeline import Pipeline
from latentrt.pipeline.prepare import Prepared, prepare
from latentrt.pipeline.timings import Timings
from latentrt.request.request import Request

OpenPipeline = Callable[[], Pipeline]

BUNDLE = "bundle"


def timed_load(open_pipeline: OpenPipeline, request: Request) -> tuple[Pipeline, Prepared, dict[str, float]]:
    """Loads the graphs that the request uses. Returns the pipeline, the prepared run and the seconds by component.

    If a memory budget makes components take turns, each is unloaded again.
    """
    spent = Timings()
    with spent.phase(BUNDLE):
        pipeline = open_pipeline()
    prepared = prepare(pipeline, request)
    for name, engine in pipeline.engines.items():
        if prepared.demand.uses(name, pipeline.bundle.manifest.components[name].role):
            with spent.phase(name):
                engine.load()
            if not prepared.keeps:
                engine.unload()
    return pipeline, prepared, spent.seconds


def warm_loads(open_pipeline: OpenPipeline, request: Request, times: int) -> dict[str, tuple[float, ...]]:
    """Seconds by component, one per load, for `times` loads; each pipeline is closed again."""
    found: dict[str, tuple[float, ...]] = {}
    for _ in range(times):
        pipeline, _, seconds = timed_load(open_pipeline, request)
        pipeline.close()
        found = {name: (*found.get(name, ()), once) for name, once in seconds.items()}
    return found


def empty_disk_cache(bundle: Bundle) -> bool:
    """Drops a bundle's files from the system's disk cache. Returns False if that failed.

    Pages that another process has mapped stay in memory.
    """
    if not hasattr(os, "posix_fadvise"):
        return False
    return all([drop_from_disk_cache(bundle.path(file)) for file in bundle.manifest.files])


def drop_from_disk_cache(file: Path) -> bool:
    """Drops one file from the disk cache. Returns False if that failed."""
    try:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())  # only written pages can be dropped
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    except (OSError, AttributeError):  # some systems have no such call
        return False
    return True
