"""Times `latentrt generate` on the built-in model as a whole process: from its start to its exit, the PNG written.

    python -m benchmarks.generate [--runs 5] [--json FILE]

Every run is a process of its own, after one that is not counted and fills the disk's cache. The phases inside are those
that the command reports with --json, each with the loading of its graph, which is read when first used; start-up is the
rest: Python, imports, checking the bundle, writing the picture.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.machine import machine, one_line, spread_of

STEPS = (1, 20)


def run(steps: int, folder: Path) -> dict[str, float]:
    """Seconds of one process: the phases, start-up and total. Raises CalledProcessError if it fails."""
    options = ["--steps", str(steps), "--seed", "7", "--out", str(folder / "apple.png"), "--json"]
    command = [sys.executable, "-m", "latentrt", "generate", "a red apple", *options]
    start = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True)
    total = time.perf_counter() - start
    phases: dict[str, float] = json.loads(done.stdout)["seconds"]
    return {"start_up": total - sum(phases.values()), **phases, "total": total}


def measured(steps: int, runs: int) -> dict[str, object]:
    """The spread of each figure over `runs` processes."""
    with tempfile.TemporaryDirectory() as folder:
        run(steps, Path(folder))
        times = [run(steps, Path(folder)) for _ in range(runs)]
    return {"steps": steps, "runs": runs, **{f"{name}_s": spread_of([one[name] for one in times]) for name in times[0]}}


def main() -> None:
    """Measures a picture of one step and one of twenty, prints a table, keeps it as json if told where."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    about = machine()
    rows = [measured(steps, arguments.runs) for steps in STEPS]
    print(f"{one_line(about)}\n\n| steps | seconds of | min | median | p90 | max |\n|---|---|---|---|---|---|")
    for row in rows:
        for name, figures in row.items():
            if isinstance(figures, dict):
                cells = (f"{figure:.3f}" for figure in figures.values())
                print(f"| {row['steps']} | {name.removesuffix('_s')} | {' | '.join(cells)} |")
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": about, "runs": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
