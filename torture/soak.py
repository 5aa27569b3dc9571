"""The same process for an hour: memory, open files and threads at the end are those of the beginning."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import latentrt
from torture.tally import Given, Tally

MOST_GROWTH = 0.02
WARM = 0.1  # of the time: caches fill, and allocators find their size


def run(asked: Given) -> Tally:
    """As many seconds as the count."""
    tally, chance, start = Tally(), asked.random, time.monotonic()
    first: tuple[int, int, int] | None = None
    with latentrt.load("emoji", engine="onnxruntime", verify=False) as pipeline:
        while time.monotonic() - start < asked.count:
            size = chance.choice([64, 96, 128])
            fields = {"steps": chance.randrange(1, 5), "width": size, "height": size, "batch": chance.choice([1, 2])}
            cache = {"cache": 2} if chance.random() < 0.3 else {}
            pipeline.generate(f"a red apple {chance.random()}", seed=chance.randrange(2**32), **fields, **cache)
            tally.add("pictures")
            if first is None and time.monotonic() - start > asked.count * WARM:
                first = held()
        last = held()
    assert first is not None
    growth = last[0] / first[0] - 1
    told = zip(("MB", "files", "threads"), first, last, strict=True)
    tally.note = ", ".join(f"{name} {before} to {after}" for name, before, after in told)
    if growth > MOST_GROWTH or last[1:] != first[1:]:
        tally.faults.append(tally.note)
    return tally


def held() -> tuple[int, int, int]:
    """Resident MB, open files and threads of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6), len(os.listdir("/proc/self/fd")), threading.active_count()
