"""Rows that are commands of their own in benchmarks/: the server and its clients over real HTTP."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

from torture.tally import Given, Tally


def command(*words: str, count: str = "") -> Callable[[Given], Tally]:
    """The row of a command, which fails where it finds a fault. count: its option for the number of cases."""

    def run(asked: Given) -> Tally:
        line = [sys.executable, "-m", *words, *([count, str(asked.count)] if count else [])]
        done = subprocess.run(line, capture_output=True, text=True)
        tally = Tally()
        tally.outcomes["run"] = asked.count
        tally.note = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""
        if done.returncode:
            tally.faults.append(f"{' '.join(words)}: status {done.returncode}: {done.stderr[-300:]}")
        return tally

    return run


load = command("benchmarks.serve", "load", count="--requests")
cancel = command("benchmarks.serve", "cancel", count="--times")
drain = command("benchmarks.serve", "drain", count="--times")
contract = command("benchmarks.serve_contract", count="--requests")
proxy = command("benchmarks.serve_proxy")
provenance = command("benchmarks.serve_provenance")
