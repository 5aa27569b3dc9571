from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latentrt.errors import RequestError
from latentrt.pipeline.metadata import read_png
from latentrt.pipeline.pipeline import Pipeline
from latentrt.request.interpolation import between
from latentrt.request.request import Request
from latentrt.sampling.noise.torch_cpu import TorchGenerator
from latentrt.sampling.noise.variation import varied
from tests.runtime.fake import named

START = Request("a red apple", seed=3, steps=2, guidance=2.0, width=32, height=24)


def test_frames_are_the_requests_between() -> None:
    end = replace(START, prompt="a cat", seed=9, guidance=4.0)
    first, middle, last = between(START, end, 3)
    assert first == START
    assert (middle.blend, middle.blend_strength, middle.guidance) == ("a cat", 0.5, 3.0)
    assert (middle.seed, middle.variation_seed, middle.variation_strength) == (3, 9, 0.5)
    assert (last.prompt, last.blend, last.blend_strength, last.guidance) == ("a red apple", "a cat", 1.0, 4.0)


@pytest.mark.parametrize("frames", [2, 5])
def test_only_what_differs_changes(frames: int) -> None:
    assert between(START, START, frames) == [START] * frames
    unseeded = between(replace(START, seed=None), replace(START, seed=None), frames)
    assert len({request.seed for request in unseeded}) == 1 and unseeded[0].seed is not None
    strengths = [0.5, 0.75, 1.0][:: (1 if frames == 5 else 2)]
    init = Image.new("RGB", (32, 24))
    one, other = (replace(START, init=init, strength=strength) for strength in (0.5, 1.0))
    assert [request.strength for request in between(one, other, frames)][:: frames // 2] == strengths


def test_the_last_frame_is_the_other_picture(emoji: Pipeline) -> None:
    end = replace(START, prompt="a cat face on a blue background", seed=9, guidance=1.0)
    frames = [emoji.generate(**vars(request)).images[0] for request in between(START, end, 3)]
    ends = [emoji.generate(**vars(request)).images[0] for request in (START, end)]
    assert np.abs(np.asarray(frames[0], int) - np.asarray(ends[0], int)).max() == 0
    assert np.abs(np.asarray(frames[-1], int) - np.asarray(ends[1], int)).max() <= 1
    steps = [np.abs(np.asarray(one, float) - np.asarray(frames[1], float)).mean() for one in ends]
    assert min(steps) > 1


def test_the_unet_is_told_of_both_prompts_and_sees_both_noises(fake: Pipeline, calls: Any) -> None:
    for prompt in ("a red apple", "a cat"):
        list(fake.steps(replace(START, prompt=prompt, guidance=1.0, steps=1)))
    one, other = (feeds["cross_kv"] for feeds in named(calls, "unet"))
    calls.clear()
    options: dict[str, Any] = {
        "blend": "a cat",
        "blend_strength": 0.25,
        "variation_seed": 9,
        "variation_strength": 0.25,
    }
    [step] = fake.steps(replace(START, guidance=1.0, steps=1, **options))
    [feeds] = named(calls, "unet")
    np.testing.assert_allclose(feeds["cross_kv"], 0.75 * one + 0.25 * other, rtol=0, atol=1e-6)
    noises = (TorchGenerator(seed).randn((4, 3, 4)) for seed in (3, 9))
    np.testing.assert_allclose(feeds["sample"][0], varied(*noises, 0.25), rtol=0, atol=1e-6)


def test_a_short_prompt_mixes_with_a_long_one_and_one_that_changes(fake: Pipeline, calls: Any) -> None:
    long = "an apple, " * 20
    list(fake.steps(replace(START, prompt="a [red:blue:0.5] apple", guidance=1.0, blend=long, blend_strength=0.5)))
    before, after = (feeds["cross_kv"] for feeds in named(calls, "unet"))
    tokens = [feeds["input_ids"].shape for feeds in named(calls, "text_encoder")]
    assert before.shape == after.shape and len(tokens) == 1 and tokens[0][0] > 3
    assert np.abs(before - after).max() > 0


REFUSED: list[tuple[dict[str, Any], dict[str, Any], int, str]] = [
    ({}, {"steps": 3}, 4, "steps: got 2 and 3, expected the same for all frames"),
    ({"batch": 2}, {"batch": 2}, 4, "batch: got 2 with frames, expected 1"),
    ({"blend": "x"}, {}, 4, "blend: got 'x', which frames set themselves"),
    ({"variation_seed": 3}, {"variation_seed": 3}, 4, "variation_seed: got 3, which frames set themselves"),
    ({}, {}, 1, "frames: got 1, expected a whole number from 2"),
    ({"guidance": None}, {}, 4, "guidance: got None, expected a finite number"),
    ({"guidance": (1, 2)}, {}, 4, "guidance: got (1, 2), expected a finite number"),
]


@pytest.mark.parametrize(("start", "end", "frames", "said"), REFUSED, ids=[said for *_, said in REFUSED])
def test_what_cannot_be_between(start: Any, end: Any, frames: int, said: str) -> None:
    with pytest.raises(RequestError) as caught:
        between(replace(START, **start), replace(START, **end), frames)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"blend": "a AND b", "blend_strength": 0.5}, "blend: got a prompt of 2 parts with AND"),
        ({"prompt": "a AND b", "blend": "a", "blend_strength": 0.5}, "blend: got a prompt of 2 parts with AND"),
        ({"blend_strength": 0.5}, "blend_strength: got 0.5 without a blend"),
        ({"blend": "a", "blend_strength": 1.5}, "blend_strength: got 1.5, expected a number from 0 to 1"),
        ({"blend": 5, "blend_strength": 0.5}, "blend: got 5, expected text"),
    ],
)
def test_what_cannot_be_blended(fake: Pipeline, options: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError) as caught:
        fake.steps(replace(START, **options))
    assert said in str(caught.value)


def test_a_frame_s_file_makes_it_again(fake: Pipeline, tmp_path: Path) -> None:
    [_, middle, _] = between(START, replace(START, prompt="a cat", seed=9), 3)
    result = fake.generate(**vars(middle))
    result.save(tmp_path / "x.png")
    record = read_png(tmp_path / "x.png")
    assert (record["blend"], record["blend_strength"]) == ("a cat", 0.5)
    fields = {key: value for key, value in record.items() if key not in ("version", "bundle", "engine")}
    assert fake.generate(**fields).images == result.images
