"""Processes that want one entry of a cache at the same time: one makes it, all get it whole."""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing.synchronize import Barrier
from pathlib import Path

from latentrt.engines.nvidia.plans import PlanKey, PlanStore
from torture.tally import Given, Tally

PROCESSES = 8
CONTENT = b"plan" * (1 << 18)


def key_of(number: int) -> PlanKey:
    """The key of a round's plan."""
    return PlanKey(str(number), (), (), "tensorrt", "1", "gpu", "sm86")


def run(asked: Given) -> Tally:
    """Rounds of 8 processes."""
    tally, context = Tally(), multiprocessing.get_context("fork")
    made, seen = asked.scratch / "made", asked.scratch / "seen"
    for file in (made, seen):
        file.touch()
    os.environ["XDG_STATE_HOME"] = str(asked.scratch / "state")
    barrier = context.Barrier(PROCESSES)
    arguments = (barrier, asked.scratch / "plans", asked.count, made, seen)
    processes = [context.Process(target=build, args=arguments) for _ in range(PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    failed = sum(process.exitcode != 0 for process in processes)
    builds, readings = made.read_text().split(), seen.read_text().split()
    for number in range(asked.count):
        times, whole = builds.count(str(number)), readings.count(f"{number}:whole")
        fault = "" if (times, whole) == (1, PROCESSES) else f"round {number}: built {times} times, whole for {whole}"
        tally.add("one build" if times == 1 else "several builds", fault=fault)
    if failed:
        tally.add("ended early", fault=f"{failed} processes failed")
    return tally


def build(barrier: Barrier, folder: Path, rounds: int, made: Path, seen: Path) -> None:
    """One process: in each round the entry is asked for, and read back verified."""
    store = PlanStore(folder)
    for number in range(rounds):
        barrier.wait()

        def make(path: Path, number: int = number) -> None:
            append(made, str(number))
            path.write_bytes(CONTENT)

        store.build(key_of(number), make)
        opened = store.open(key_of(number))
        whole = False
        if opened is not None:
            with opened:
                whole = opened.read() == CONTENT
        append(seen, f"{number}:{'whole' if whole else 'not'}")


def append(file: Path, word: str) -> None:
    """Adds a word in one write, which the system does not mix with another's."""
    with file.open("ab", buffering=0) as opened:
        opened.write(f"{word}\n".encode())
