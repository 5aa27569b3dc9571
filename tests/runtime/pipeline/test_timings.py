"""Phases add up: no second is counted twice, and none is lost."""

import pytest
from PIL import Image

from latentrt.pipeline.timings import Timings
from latentrt.request.request import Request
from tests.runtime.fake import SMALL, slowed


def test_an_inner_phase_is_taken_out_of_the_outer_one(clock):
    spent = Timings()
    clock(1)
    with spent.phase("outer"):
        clock(2)
        with spent.phase("inner"):
            clock(4)
        clock(8)
    clock(16)
    with spent.phase("inner"):
        clock(32)
    assert spent.seconds == {"outer": 10, "inner": 36}


def test_a_phase_that_fails_is_counted_up_to_there(clock):
    spent = Timings()
    with pytest.raises(KeyError), spent.phase("outer"), spent.phase("inner"):
        clock(3)
        raise KeyError
    clock(5)
    assert spent.seconds == {"inner": 3, "outer": 0}


def test_every_call_of_an_engine_is_a_phase_and_what_the_caller_does_between_steps_is_none(fake, clock):
    costs = {"text_encoder": 1, "cross_kv": 2, "time_bias": 4, "unet": 8, "vae_decoder": 16, "vae_encoder": 32}
    for name, cost in costs.items():
        fake.engines[name].answer = slowed(fake.engines[name].answer, clock, cost)
    run = fake.steps(Request("a", steps=3, batch=2, init=Image.new("RGB", (8, 8)), strength=1.0, **SMALL))
    seen = []
    for _ in run:
        clock(1000)
        seen.append(run.timings["unet"])
    assert seen == [8, 16, 24]
    expected = {**costs, "unet": 3 * 8, "vae_decoder": 2 * 16, "prompt": 0, "sampler": 0, "image": 0}
    assert run.result.timings == expected
