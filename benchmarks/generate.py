"""Times whole processes: bare Python, `import latentrt`, `latentrt --help`, and pictures of the built-in model.

    python -m benchmarks.generate [--runs 5] [--engine onnxruntime] [--json FILE]

Times are from the start of a process to its exit, with the PNG written. The commands are interleaved, so that load on
the machine affects all alike; the first round fills the disk cache and does not count. There are wall-clock seconds and
CPU seconds of all threads; on a busy machine, CPU seconds are more reliable. Phases are those that the command reports
with --json; each includes loading its graph, which is read when first used. Start-up is the rest: Python, imports,
checking the bundle, writing the picture. Python must be able to store its bytecode, as by default.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks.machine import machine, one_line, spread_of

STEPS = (1, 20)


def commands(engine: str, folder: Path) -> dict[str, list[str]]:
    """Command lines by name."""
    picture = ["-m", "latentrt", "generate", "a red apple", "--seed", "7", "--engine", engine, "--json"]
    options = ["--out", str(folder / "apple.png"), "--steps"]
    return {
        "python": ["-c", "pass"],
        "import latentrt": ["-c", "import latentrt"],
        "latentrt --help": ["-m", "latentrt", "--help"],
        **{f"generate, {steps} steps": [*picture, *options, str(steps)] for steps in STEPS},
    }


def run(arguments: list[str]) -> dict[str, float]:
    """Wall-clock seconds, CPU seconds and peak MB of one process, and the seconds of its phases if it reports them."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryFile() as out:
        start = time.perf_counter()
        process = subprocess.Popen([sys.executable, *arguments], stdout=out, env=environment)
        _, status, used = os.wait4(process.pid, 0)
        total = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, arguments)
        out.seek(0)
        said = out.read()
    # Linux counts in kilobytes.
    found = {"clock, s": total, "processor, s": used.ru_utime + used.ru_stime, "peak, MB": used.ru_maxrss * 1024 / 1e6}
    phases: dict[str, float] = json.loads(said)["seconds"] if said.startswith(b"{") else {}
    rest = {"start-up, s": total - sum(phases.values())} if phases else {}
    return {**found, **rest, **{f"{name}, s": seconds for name, seconds in phases.items()}}


def measured(engine: str, runs: int) -> dict[str, dict[str, dict[str, float]]]:
    """Statistics of every figure of every command over `runs` rounds."""
    times: dict[str, list[Mapping[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(runs + 1):
            for name, arguments in commands(engine, Path(folder)).items():
                found = run(arguments)
                if turn:
                    times.setdefault(name, []).append(found)
    return {name: {key: spread_of([one[key] for one in all_of]) for key in all_of[0]} for name, all_of in times.items()}


def main() -> None:
    """Measures every command, prints a table, and writes it as JSON if --json is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--engine", default="onnxruntime")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    about = machine()
    rows = measured(arguments.engine, arguments.runs)
    print(f"{one_line(about)}\n\n| process | figure | min | median | p90 | max |\n|---|---|---|---|---|---|")
    for command, figures in rows.items():
        for name, spread in figures.items():
            print(f"| {command} | {name} | {' | '.join(f'{figure:.3f}' for figure in spread.values())} |")
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": about, "runs": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
