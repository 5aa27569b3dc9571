"""latentrt. Variants: its engines; after a + one full call of the UNet in so many; after an @ the GB it may take."""

from __future__ import annotations

from collections.abc import Callable

from clock import PROMPT, SIDE, asked, report

import latentrt

model, variant, guidance, steps = asked()
variant, _, gigabytes = variant.partition("@")
engine, _, every = variant.partition("+")
budget = int(gigabytes) * 10**9 if gigabytes else None
pipeline = latentrt.load(model, engine=engine, verify=False, memory_budget=budget)


def draw(count: int, step_ended: Callable[[], None]) -> None:
    """A picture."""
    options = {"steps": count, "width": SIDE, "height": SIDE, "seed": 0}
    options |= {"guidance": guidance, "sampler": "ddim"} if guidance > 1 else {}
    options |= {"cache": int(every)} if every else {}
    run = pipeline.steps(latentrt.Request(PROMPT, **options))
    for _ in run:
        step_ended()
    assert run.result.images


report(draw, steps)
