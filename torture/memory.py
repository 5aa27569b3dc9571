"""Too little memory, at any call of any component: the same picture, or an error that says so; the next one is right.

An engine's call fails once or always, as an allocator would fail it; then processes get little address space to go on.
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

import latentrt
from latentrt.engines import Engine
from latentrt.engines.wrapped import Wrapped
from latentrt.errors import OutOfMemoryError
from latentrt.tensors import Array
from torture.tally import Given, Tally

ASKED: dict[str, Any] = {"steps": 3, "width": 64, "height": 64, "seed": 1, "batch": 2}
LIMITS_MB = (1, 2, 5, 10, 20, 30, 40, 50, 60, 80, 100, 120, 150, 200, 250, 300, 400, 500, 700, 1000)
CHILD = """
import resource, sys
import numpy as np
import latentrt

def draw(side):
    result = pipeline.generate("a red apple", steps=2, seed=1, width=side, height=side)
    return np.asarray(result.images[0])

with latentrt.load("emoji", engine="onnxruntime") as pipeline:
    small = draw(64)
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[1]) * 1_000_000, resource.RLIM_INFINITY))
    try:
        draw(512)
        print("drawn")
    except latentrt.OutOfMemoryError as error:
        print("refused" if str(error).strip() else "without a reason")
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    if not np.array_equal(draw(64), small):
        print("and another picture afterwards")
"""


class Failing(Wrapped):
    """An engine whose calls fail from one on, once or always."""

    def __init__(self, engine: Engine, first: int, *, always: bool) -> None:
        super().__init__(engine)
        self.first, self.always, self.calls = first, always, 0

    def __call__(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The engine's outputs. Raises OutOfMemoryError, as engines do, from the chosen call on."""
        self.calls += 1
        if self.calls == self.first or (self.always and self.calls > self.first):
            raise OutOfMemoryError("bad allocation")
        return super().__call__(feeds)


def run(asked: Given) -> Tally:
    """The count for each component, then a process for each limit."""
    tally, chance = Tally(), asked.random
    with latentrt.load("emoji", engine="onnxruntime", verify=False) as pipeline:
        clean = pixels(pipeline, {})
        for name in ("text_encoder", "cross_kv", "time_bias", "unet", "vae_decoder"):
            for _ in range(asked.count):
                fail(tally, pipeline, name, chance, clean)
    for limit in LIMITS_MB:
        limited(tally, limit)
    return tally


def pixels(pipeline: latentrt.Pipeline, engines: Mapping[str, Engine]) -> Array:
    """The pictures, with these engines in place of the pipeline's."""
    result = pipeline.with_engines(engines).generate("a red apple", **ASKED)
    return np.stack([np.asarray(image) for image in result.images])


def fail(tally: Tally, pipeline: latentrt.Pipeline, name: str, chance: random.Random, clean: Array) -> None:
    """One run in which a component fails, and a clean one after it."""
    engine = Failing(pipeline.engines[name], chance.randrange(1, 5), always=chance.random() < 0.5)
    where = f"{name}, call {engine.first}{' and later' if engine.always else ''}"
    try:
        got = pixels(pipeline, {name: engine})
        alike = np.abs(got.astype(int) - clean).max() <= 1  # a call divided in two rounds otherwise
        tally.add("the same picture", fault="" if alike else f"{where}: another picture")
    except OutOfMemoryError as error:
        tally.add("an error", fault="" if str(error).strip() else f"{where}: an error without a reason")
    except Exception as error:
        tally.add("crashed", fault=f"{where}: {error!r}"[:300])
    if not np.array_equal(pixels(pipeline, {}), clean):
        tally.faults.append(f"{where}: the next picture is another")


def limited(tally: Tally, megabytes: int) -> None:
    """A process that may take so much more: a large picture or an error, then the small picture of before."""
    done = subprocess.run([sys.executable, "-c", CHILD, str(megabytes)], capture_output=True, text=True)
    outcome = done.stdout.strip()
    clean = done.returncode == 0 and outcome in ("drawn", "refused")
    fault = f"{megabytes} MB more: status {done.returncode}: {outcome} {done.stderr[-200:]}"
    tally.add(f"{outcome or 'crashed'} within a limit", fault="" if clean else fault)
