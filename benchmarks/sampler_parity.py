"""Compares every sampler with diffusers' scheduler over all options that both have; prints a Markdown table.

    python -m benchmarks.sampler_parity [SAMPLER ...]

The model is the exact one of a small distribution: every case of `tests.parity.cases` at 1, 2, 5, 20 and 50 steps. Both
programs run in float64 and in float32. The table has their difference in float64, and each program's difference between
float32 and float64: the largest difference of the final latents divided by their largest value. Combinations in which
the reference is wrong are counted separately.
"""

from __future__ import annotations

import argparse
import math
import warnings
from dataclasses import dataclass, field

import torch

from latentrt.sampling.samplers import SAMPLERS
from tests.parity.cases import CASES, STEPS, flaw_of
from tests.parity.harness import Case, Comparison, closed_form


@dataclass
class Row:
    """Results of one sampler: the largest of each figure, and every combination over the limit."""

    scheduler: str
    compared: int = 0
    flawed: int = 0
    apart: float = 0.0
    rounding: float = 0.0
    their_rounding: float = 0.0
    over: list[str] = field(default_factory=list)

    def see(self, case: Case, steps: int) -> None:
        """Adds one combination."""
        flaw = flaw_of(case, steps)
        if flaw is not None and flaw.left_out is None:
            self.flawed += 1
            return
        comparison = Comparison(case, closed_form(case), steps, flaw.left_out if flaw else 0)
        self.compared += 1
        if not comparison.close:
            self.over.append(f"{case}, {steps} steps: {comparison}")
        self.apart = max(self.apart, comparison.apart)
        self.rounding = max(self.rounding, comparison.rounding)
        if not math.isnan(comparison.their_rounding):
            self.their_rounding = max(self.their_rounding, comparison.their_rounding)


def table(samplers: list[str]) -> dict[str, Row]:
    """A row for every sampler that diffusers has."""
    rows: dict[str, Row] = {}
    for case in CASES:
        if case.sampler in samplers:
            row = rows.setdefault(case.sampler, Row(case.scheduler))
            for steps in STEPS:
                row.see(case, steps)
    return rows


def main() -> None:
    """Prints the table, then every combination over the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("samplers", nargs="*", default=list(SAMPLERS))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rows = table(arguments.samplers)
    print("| sampler | reference | combinations | apart in float64 | rounding of float32 | the reference's |")
    print("|---|---|---|---|---|---|")
    for name, row in rows.items():
        figures = f"{row.apart:.0e} | {row.rounding:.0e} | {row.their_rounding:.0e}"
        print(f"| `{name}` | `{row.scheduler}` | {row.compared} | {figures} |")
    print(f"{sum(row.compared for row in rows.values())} combinations")
    for name, row in rows.items():
        print(f"{name}: {row.flawed} combinations in which the reference is wrong", *row.over, sep="\n    ")


if __name__ == "__main__":
    main()
