"""latentrt. Variants: its engines."""

from __future__ import annotations

from collections.abc import Callable

from clock import GUIDANCE, PROMPT, SIDE, asked, report

import latentrt

model, engine, steps = asked()
pipeline = latentrt.load(model, engine=engine, verify=False)


def draw(count: int, step_ended: Callable[[], None]) -> None:
    """A picture."""
    options = {"steps": count, "guidance": GUIDANCE, "width": SIDE, "height": SIDE, "seed": 0, "sampler": "ddim"}
    run = pipeline.steps(latentrt.Request(PROMPT, **options))
    for _ in run:
        step_ended()
    assert run.result.images


report(draw, steps)
