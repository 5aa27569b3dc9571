"""latentrt. Variants: its engines, and after a + one full call of the UNet in so many."""

from __future__ import annotations

from collections.abc import Callable

from clock import PROMPT, SIDE, asked, report

import latentrt

model, variant, guidance, steps = asked()
engine, _, every = variant.partition("+")
pipeline = latentrt.load(model, engine=engine, verify=False)


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
