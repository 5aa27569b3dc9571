"""Generates with one pipeline from several threads and counts the right pictures: python -m benchmarks.threads.

On each engine, each thread generates pictures in an order of its own. Every picture is compared, byte for byte, with
that of the same request made alone. Then one thread makes the same number of pictures, to compare the throughput.
"""

from __future__ import annotations

import argparse
import sys
import time

import latentrt
from benchmarks.machine import machine, one_line
from tests.runtime.pipeline.crowd import asked, drawn, together


def main() -> None:
    """Prints a line per engine; the exit status is 1 if any picture was wrong or failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engines", default="onnxruntime,openvino")
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--pictures", type=int, default=50, help="pictures per thread")
    given = parser.parse_args()
    print(one_line(machine()))
    wrong = 0
    for engine in given.engines.split(","):
        with latentrt.load("emoji", engine=engine, verify=False) as pipeline:
            expected = {number: drawn(pipeline, asked(number)) for number in range(12)}
            pipeline.unload()  # so that the threads load, and fix shapes, at once
            began = time.perf_counter()
            counts = together(pipeline, expected, given.threads, given.pictures)
            seconds, total = time.perf_counter() - began, given.threads * given.pictures
            began = time.perf_counter()
            for number in range(total):
                drawn(pipeline, asked(number % len(expected)))
            alone = time.perf_counter() - began
        errors = total - counts["ok"] - counts["wrong"]
        wrong += total - counts["ok"]
        print(f"{engine}: {counts['ok']} ok, {counts['wrong']} wrong, {errors} errors")
        print(f"  {total / seconds:.1f} pictures per second from {given.threads} threads, {total / alone:.1f} from one")
        for outcome in sorted(counts.keys() - {"ok", "wrong"}):
            print(f"  {counts[outcome]} x {outcome}")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
