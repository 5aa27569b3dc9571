"""Peak memory of a run with a step cache, beside its estimate: docs/step-cache.md.

    python -m benchmarks.step_cache_memory [--side 512]

Each row is a process of its own, which generates the built-in model's pictures in 4 steps.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.machine import machine, one_line

PLENTY = 16 * 10**9
BATCHES: tuple[Mapping[str, Any], ...] = ({"guidance": 1.0}, {}, {"batch": 3, "guidance": 1.0}, {"batch": 3})
CACHES: tuple[Mapping[str, Any], ...] = (
    {},
    {"cache": 2},
    {"cache": 2, "cache_order": 1},
    {"cache": 2, "cache_of": "prediction"},
)
TILED: Mapping[str, Any] = {"width": 768, "height": 768, "window": 512}


def main() -> None:
    """Prints the table, or as a child what one run needs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--child", metavar="JSON", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(needed(json.loads(given.child))))
        return
    print(one_line(machine()), flush=True)
    for line in table({"width": given.side, "height": given.side}):
        print(line, flush=True)


def table(size: Mapping[str, Any]) -> Iterator[str]:
    """Yields the rows."""
    yield "| settings | estimated, MB | measured, MB | estimated / measured |"
    yield "|---|---|---|---|"
    cases = [{**size, **batch, **cache} for batch in BATCHES for cache in CACHES]
    for fields in [*cases, *({**TILED, **cache} for cache in CACHES[1:3])]:
        command = [sys.executable, "-m", "benchmarks.step_cache_memory", "--child", json.dumps(fields)]
        estimate, peak = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        words = ", ".join(f"{name} {value}" for name, value in fields.items())
        yield f"| {words} | {estimate / 1e6:.0f} | {peak / 1e6:.0f} | {estimate / peak:.2f} |"


def needed(fields: Mapping[str, Any]) -> tuple[int, int]:
    """The estimated and the measured peak of a run in this process, in bytes."""
    from latentrt.pipeline.load import load
    from latentrt.pipeline.prepare import prepare
    from latentrt.request.request import Request

    pipeline = load("emoji", engine="onnxruntime", memory_budget=PLENTY)
    plan = prepare(pipeline, request := Request("a red apple", steps=4, seed=0, **fields)).plan
    assert plan is not None
    for _ in pipeline.steps(request):
        pass
    return plan.peak_bytes, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
