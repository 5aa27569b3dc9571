"""Runs every sampler against diffusers' schedulers over every option that both have, and prints the table as Markdown.

    python -m benchmarks.sampler_parity [--unet] [SAMPLER ...]

On the exact model of a small distribution: every case of `tests.parity.cases` at 1, 2, 5, 20 and 50 steps. With --unet,
on the built-in UNet in place of it. The table holds the largest difference of the final latents over their largest
value, and the case in which it was seen; combinations in which the reference is wrong are counted apart.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

import latentrt
from latentrt.samplers import SAMPLERS
from tests.parity.cases import CASES, CLOSE, STEPS, flaw_of
from tests.parity.harness import Case, closed_form, difference, unet_model


@dataclass
class Row:
    """What was seen of one sampler."""

    scheduler: str
    compared: int = 0
    flawed: int = 0
    worst: float = 0.0
    where: str = ""
    over: list[str] = field(default_factory=list)

    def see(self, case: Case, steps: int, model: Any) -> None:
        """Adds one combination."""
        flaw = flaw_of(case, steps)
        if flaw is not None and (flaw.run is None or flaw.bound > CLOSE):
            self.flawed += 1
            return
        found = difference(case, model, steps, **(flaw.run or {} if flaw else {}))
        self.compared += 1
        if not found <= CLOSE:
            self.over.append(f"{case}, {steps} steps: {found:.1e}")
        if found > self.worst:
            self.worst, self.where = found, f"{case}, {steps} steps"


def table(samplers: list[str], model_of: Callable[[Case], Any]) -> dict[str, Row]:
    """A row for every sampler that diffusers has."""
    rows: dict[str, Row] = {}
    for case in CASES:
        if case.sampler in samplers:
            row = rows.setdefault(case.sampler, Row(case.scheduler))
            for steps in STEPS:
                row.see(case, steps, model_of(case))
    return rows


def main() -> None:
    """Prints the table, then every combination that is not within 1e-4."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("samplers", nargs="*", default=list(SAMPLERS))
    parser.add_argument("--unet", action="store_true")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with latentrt.load("emoji") as pipeline:
        unet = unet_model(pipeline)
        rows = table(arguments.samplers, (lambda _: unet) if arguments.unet else closed_form)
    print("| sampler | reference | combinations | largest difference | where |\n|---|---|---|---|---|")
    for name, row in rows.items():
        print(f"| {name} | {row.scheduler} | {row.compared} | {row.worst:.1e} | {row.where} |")
    for name, row in rows.items():
        print(f"{name}: {row.flawed} combinations in which the reference is wrong", *row.over, sep="\n    ")


if __name__ == "__main__":
    main()
