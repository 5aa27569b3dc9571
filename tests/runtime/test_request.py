import math
from dataclasses import replace
from typing import Any

import pytest

from latentrt.errors import RequestError
from latentrt.manifest import Manifest, read
from latentrt.pipeline import MODELS
from latentrt.request import LARGEST_SEED, Request, Settings, settle, with_seed
from latentrt.samplers import SAMPLERS


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return read((MODELS / "emoji" / "bundle.json").read_bytes())


def settled(manifest: Manifest, **options: Any) -> Settings:
    return settle(Request("a red apple", **options), manifest)


def refusal(manifest: Manifest, **options: Any) -> str:
    with pytest.raises(RequestError) as caught:
        settled(manifest, **options)
    return str(caught.value)


def test_every_default_is_the_bundle_s(manifest: Manifest) -> None:
    assert settled(manifest, seed=7) == Settings(
        prompt="a red apple",
        negative="",
        steps=20,
        guidance=4.0,
        seeds=(7,),
        width=128,
        height=128,
        sampler="ddim",
        sigmas="normal",
        spacing="trailing",
    )


def test_another_bundle_has_other_defaults(manifest: Manifest) -> None:
    defaults = replace(manifest.defaults, sampler="euler", sigmas="karras", steps=3, guidance=1.5, width=64, height=96)
    settings = settled(replace(manifest, defaults=defaults, schedule=replace(manifest.schedule, spacing="leading")))
    assert (settings.sampler, settings.sigmas, settings.steps, settings.guidance) == ("euler", "karras", 3, 1.5)
    assert (settings.width, settings.height, settings.spacing) == (64, 96, "leading")


def test_every_choice_is_kept(manifest: Manifest) -> None:
    chosen: dict[str, Any] = {
        "negative": "blue",
        "steps": 1000,
        "guidance": 0.0,
        "width": 8,
        "height": 24,
        "sampler": "dpmpp_2m",
        "sigmas": "karras",
        "spacing": "linspace",
    }
    settings = settled(manifest, seed=0, batch=3, **chosen)
    assert settings == Settings(prompt="a red apple", seeds=(0, 1, 2), **chosen)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("sigmas", ["normal", "karras"])
def test_every_sampler_and_its_sigmas(manifest: Manifest, sampler: str, sigmas: Any) -> None:
    settings = settled(manifest, sampler=sampler, sigmas=sigmas)
    assert (settings.sampler, settings.sigmas) == (sampler, sigmas)


def test_a_whole_guidance_becomes_a_float(manifest: Manifest) -> None:
    assert type(settled(manifest, guidance=3).guidance) is float


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"steps": 0}, "steps: got 0, expected a whole number from 1 to 1000"),
    ({"steps": 1001}, "steps: got 1001, expected a whole number from 1 to 1000"),
    ({"steps": -1}, "steps: got -1, "),
    ({"steps": True}, "steps: got True, "),
    ({"steps": 1.5}, "steps: got 1.5, "),
    ({"steps": 20.0}, "steps: got 20.0, "),
    ({"steps": "20"}, "steps: got '20', "),
    ({"width": 0}, "width: got 0, expected a whole number of at least 1"),
    ({"height": 0}, "height: got 0, expected a whole number of at least 1"),
    ({"width": -8}, "width: got -8, "),
    ({"width": False}, "width: got False, "),
    ({"width": 64.0}, "width: got 64.0, "),
    ({"width": 7}, "width: got 7, expected a multiple of 8; the nearest are 8"),
    ({"width": 12}, "width: got 12, expected a multiple of 8; the nearest are 8 or 16"),
    ({"height": 100}, "height: got 100, expected a multiple of 8; the nearest are 96 or 104"),
    ({"sampler": "heun"}, "sampler: got 'heun', expected one of ddim, euler, dpmpp_2m"),
    ({"sampler": ""}, "sampler: got '', expected one of ddim"),
    ({"sampler": 5}, "sampler: got 5, expected one of ddim"),
    ({"sigmas": "exponential"}, "sigmas: got 'exponential', expected one of normal, karras"),
    ({"sigmas": ""}, "sigmas: got '', expected one of normal"),
    ({"spacing": "even"}, "spacing: got 'even', expected one of leading, trailing, linspace"),
    ({"spacing": ""}, "spacing: got '', expected one of leading"),
    ({"guidance": math.nan}, "guidance: got nan, expected a finite number, for example 4.0"),
    ({"guidance": math.inf}, "guidance: got inf, "),
    ({"guidance": -math.inf}, "guidance: got -inf, "),
    ({"guidance": "4"}, "guidance: got '4', "),
    ({"seed": -1}, f"seed: got -1, expected a whole number from 0 to {LARGEST_SEED}"),
    ({"seed": 2**64}, f"seed: got {2**64}, expected a whole number from 0 to {LARGEST_SEED}"),
    ({"seed": 2**64 - 2, "batch": 3}, f"seed: got {2**64 - 2}, expected a whole number from 0 to {LARGEST_SEED - 2}"),
    ({"seed": 7.0}, "seed: got 7.0, "),
    ({"seed": True}, "seed: got True, "),
    ({"seed": "7"}, "seed: got '7', "),
    ({"batch": 0}, "batch: got 0, expected a whole number from 1 to 4096"),
    ({"batch": -1}, "batch: got -1, "),
    ({"batch": 2.0}, "batch: got 2.0, "),
    ({"batch": None}, "batch: got None, "),
    ({"negative": None}, "negative: got None, "),
    ({"negative": ["blue"]}, "negative: got ['blue'], "),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=[str(options) for options, _ in REFUSED])
def test_what_cannot_be_generated_is_refused(manifest: Manifest, options: dict[str, Any], message: str) -> None:
    assert refusal(manifest, **options).startswith(message)


@pytest.mark.parametrize("prompt", [None, 5, b"a red apple", ["a red apple"]])
def test_a_prompt_is_text(manifest: Manifest, prompt: Any) -> None:
    with pytest.raises(RequestError, match="^prompt: got "):
        settle(Request(prompt), manifest)


@pytest.mark.parametrize("prompt", ["", " ", "x" * 100_000, "\u732b \U0001f34e", "a\nb\0c"])
def test_any_text_is_a_prompt(manifest: Manifest, prompt: str) -> None:
    assert settle(Request(prompt, negative=prompt), manifest).prompt == prompt


def test_the_largest_seed(manifest: Manifest) -> None:
    assert settled(manifest, seed=LARGEST_SEED).seeds == (2**64 - 1,)
    assert settled(manifest, seed=LARGEST_SEED - 2, batch=3).seeds[-1] == LARGEST_SEED


def test_without_a_seed_one_is_drawn(manifest: Manifest) -> None:
    first, second = settled(manifest, batch=2).seeds, settled(manifest, batch=2).seeds
    assert first != second
    assert first[1] == first[0] + 1
    assert 0 <= first[0] < 2**32


def test_the_settings_of_one_image_of_a_batch(manifest: Manifest) -> None:
    settings = settled(manifest, seed=7, batch=3)
    assert with_seed(settings, 2) == settled(manifest, seed=9)
