"""What a row of the torture suite is given, and what it found."""

from __future__ import annotations

import gc
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from latentrt.errors import LatentError

# A case that takes longer hangs, as far as a user can tell. Computing is counted, so that other processes add nothing.
LONGEST_S = 1.0
MOST_FAULTS = 20


@dataclass(frozen=True)
class Given:
    """What a row is given: the seed of its random numbers, the number of cases, and an empty folder."""

    seed: int
    count: int
    scratch: Path

    @property
    def random(self) -> random.Random:
        """Random numbers of the seed, from the start."""
        return random.Random(self.seed)


@dataclass
class Tally:
    """What a row found. outcomes: the number of cases by outcome. faults: what must not happen. note: for the table."""

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    note: str = ""

    @property
    def cases(self) -> int:
        """The number of cases."""
        return self.outcomes.total()

    def record(self) -> dict[str, Any]:
        """The row as JSON. `dataclasses.asdict` would make a Counter of pairs."""
        return {"cases": self.cases, "outcomes": dict(self.outcomes), "faults": self.faults, "note": self.note}

    def add(self, outcome: str, *, fault: str = "") -> None:
        """Counts a case; fault: what is wrong with it."""
        self.outcomes[outcome] += 1
        if fault and len(self.faults) < MOST_FAULTS:
            self.faults.append(fault)

    def attempt(self, what: str, work: Callable[[], Any], *, longest: float = LONGEST_S) -> bool:
        """Counts a case that must end in a result or in an error of this package; returns whether in a result.

        longest: seconds of computing, of all threads, that it may take.
        """
        gc.disable()  # hypothesis keeps every case: with 100,000 of them, collecting garbage takes a second
        start = time.process_time()
        try:
            work()
        except LatentError as error:
            told = str(error)
            self.add("refused", fault="" if told.strip() else f"{what}: refused without a reason")
            return False
        except Exception as error:
            self.add("crashed", fault=f"{what}: {type(error).__name__}: {error}"[:300])
            return False
        finally:
            taken = time.process_time() - start
            gc.enable()
            if taken > longest and len(self.faults) < MOST_FAULTS:
                self.faults.append(f"{what}: computed for {taken:.1f} s")
        self.add("read")
        return True
