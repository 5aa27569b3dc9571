"""Runs rows of the torture suite and prints the table of docs/reliability.md.

    python -m torture [ROW ...] [--part 1.0] [--seed 0] [--json FILE]

--part: a share of every row's cases, such as 0.01 for a quick look; rows of one pass ignore it. The exit status is 1 if
any row found a fault. The cluster's row needs an environment of its own: `python -m benchmarks.serve_cluster`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import machine, one_line
from torture.tally import Given, Tally


@dataclass(frozen=True)
class Row:
    """A row of the table. run: the module and function that run it. count: of cases or seconds; 0 if it has its own."""

    what: str
    run: str
    count: int = 0


ROWS = {
    "malformed": Row(
        "malformed manifests, headers, tokenizers, LoRA names, other tools' data, prompts", "malformed:run", 100_000
    ),
    "header": Row("headers of .safetensors, guided by coverage", "header:run", 5_000_000),
    "paths": Row("hostile paths in a bundle", "paths:run"),
    "corruption": Row("flipped bits, cut and exchanged files, for each file of a bundle", "corruption:run", 1000),
    "kills": Row("`kill -9` while something is written", "kills:run", 2000),
    "disk": Row("a full disk, limited files, full output; sizes per command", "full_disk:run", 50),
    "races": Row("rounds of 8 processes that want one entry of a cache", "races:run", 50),
    "trust": Row("changed plans, optimised graphs and compiled graphs, of each", "trust:run", 1000),
    "load": Row("requests of 64 clients", "commands:load", 1000),
    "cancel": Row("requests that end at a random step", "commands:cancel", 500),
    "drain": Row("SIGTERM under load", "commands:drain", 100),
    "contract": Row("generated requests, OpenAI's client, AUTOMATIC1111's calls", "commands:contract", 5000),
    "bombs": Row("pictures and metadata that unpack to much more", "bombs:run", 40),
    "infotext": Row("pairs of prompts through a picture's text", "infotext:run", 2000),
    "memory": Row("failing allocations, for each of 5 components; then 20 limits", "memory:run", 100),
    "proxy": Row("requests over two servers, one of which is killed", "commands:proxy"),
    "provenance": Row("pictures with Content Credentials, verified and tampered with", "commands:provenance"),
    "soak": Row("seconds of pictures in one process", "soak:run", 3600),
    "audit": Row("pickle, eval, exec, processes and sockets while drawing", "audit:run"),
}


def main() -> None:
    """Runs the rows that are asked for, all without any."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--part", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if unknown := set(given.rows) - ROWS.keys():
        parser.error(f"got {', '.join(sorted(unknown))}, expected of {', '.join(ROWS)}")
    logging.disable(logging.WARNING)  # refusals are counted, not read
    print(f"{one_line(machine())}, seed {given.seed}\n")
    print("| row | cases | outcomes | faults | s | |\n|---|---|---|---|---|---|", flush=True)
    found = {name: timed(name, given.part, given.seed) for name in given.rows or ROWS}
    if given.json:
        given.json.write_text(json.dumps({name: tally.record() for name, tally in found.items()}, indent=1) + "\n")
    for name, tally in found.items():
        for fault in tally.faults:
            print(f"{name}: {fault}", file=sys.stderr)
    sys.exit(any(tally.faults for tally in found.values()))


def timed(name: str, part: float, seed: int) -> Tally:
    """Runs a row in an empty folder, and prints its line of the table."""
    row, start = ROWS[name], time.monotonic()
    module, function = row.run.split(":")
    run: Callable[[Given], Tally] = getattr(importlib.import_module(f"torture.{module}"), function)
    with tempfile.TemporaryDirectory() as scratch:
        tally = run(Given(seed, max(1, round(row.count * part)), Path(scratch)))
    outcomes = ", ".join(f"{what} {count:,}" for what, count in tally.outcomes.most_common())
    cells = (f"`{name}`: {row.what}", f"{tally.cases:,}", outcomes, str(len(tally.faults) or "none"))
    print(f"| {' | '.join(cells)} | {time.monotonic() - start:.0f} | {tally.note} |", flush=True)
    return tally


if __name__ == "__main__":
    main()
