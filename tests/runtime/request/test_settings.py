import math
from dataclasses import replace
from typing import Any

import pytest

from latentrt.bundle.catalog import MODELS
from latentrt.bundle.manifest import Manifest
from latentrt.bundle.manifest_json import read
from latentrt.bundle.sources import GUIDANCE, request_source
from latentrt.errors import RequestError
from latentrt.request.request import LARGEST_SEED, Request
from latentrt.request.schedule import SIGMAS
from latentrt.request.settings import Settings, guided, resolve
from latentrt.sampling.samplers import SAMPLERS
from tests.runtime.flat import flat

WITH_ETA = "ddim, euler_a, dpm2_a, dpmpp_2s_a, dpmpp_sde, dpmpp_2m_sde, dpmpp_3m_sde"
DIFFUSION = [name for name, sampler in SAMPLERS.items() if not sampler.flow]


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return read((MODELS / "emoji" / "bundle.json").read_bytes())


def settled(manifest: Manifest, **options: Any) -> Settings:
    return resolve(Request("a red apple", **options), manifest)


def refusal(manifest: Manifest, **options: Any) -> str:
    with pytest.raises(RequestError) as caught:
        settled(manifest, **options)
    return str(caught.value)


def test_every_default_is_the_bundle_s(manifest: Manifest) -> None:
    assert settled(manifest, seed=7) == flat(
        prompt="a red apple",
        negative="",
        steps=20,
        guidance=2.0,
        seeds=(7,),
        width=128,
        height=128,
        sampler="ddim",
        sigmas="normal",
        spacing="trailing",
        options={"eta": 0.0},
    )


def test_another_bundle_has_other_defaults(manifest: Manifest) -> None:
    defaults = replace(manifest.defaults, sampler="euler", sigmas="karras", steps=3, guidance=1.5, width=64, height=96)
    settings = settled(replace(manifest, defaults=defaults, schedule=replace(manifest.schedule, spacing="leading")))
    assert (settings.sampler, settings.sigmas, settings.steps, settings.guidance.scale) == ("euler", "karras", 3, 1.5)
    assert (settings.width, settings.height, settings.spacing) == (64, 96, "leading")


def test_every_choice_is_kept(manifest: Manifest) -> None:
    chosen: dict[str, Any] = {
        "negative": "blue",
        "steps": 1000,
        "guidance": 0.0,
        "syntax": "lenient",
        "guidance_rescale": 0.7,
        "guidance_interval": (0.3, 3.0),
        "clip_skip": 3,
        "noise": "cuda",
        "variation_strength": 0.25,
        "width": 8,
        "height": 24,
        "sampler": "dpmpp_2m",
        "sigmas": "karras",
        "spacing": "linspace",
    }
    settings = settled(manifest, seed=5, batch=3, variation_seed=7, order=3, solver="heun", **chosen)
    options: dict[str, Any] = {"order": 3, "solver": "heun"}
    seeds: dict[str, Any] = {"seeds": (5, 5, 5), "variation_seeds": (7, 8, 9)}
    assert settings == flat(prompt="a red apple", options=options, **seeds, **chosen)


def flow(manifest: Manifest) -> Manifest:
    defaults = replace(manifest.defaults, sampler="flow_euler")
    return replace(manifest, schedule=replace(manifest.schedule, prediction="flow_prediction"), defaults=defaults)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("sigmas", [*SIGMAS, (14.6, 3.0, 1.0)])
def test_every_sampler_and_its_sigmas(manifest: Manifest, sampler: str, sigmas: Any) -> None:
    settings = settled(flow(manifest) if SAMPLERS[sampler].flow else manifest, sampler=sampler, sigmas=sigmas)
    assert (settings.sampler, settings.sigmas) == (sampler, sigmas)
    assert settings.options == {name: option.default for name, option in SAMPLERS[sampler].options.items()}


def test_a_sampler_of_another_kind_of_model_is_refused(manifest: Manifest) -> None:
    message = refusal(manifest, sampler="flow_heun")
    assert message == f"sampler: got flow_heun, but the model's is v_prediction; use {', '.join(DIFFUSION)}"
    message = refusal(flow(manifest), sampler="euler")
    assert message == "sampler: got euler, but the model's is flow_prediction; use flow_euler, flow_heun"


@pytest.mark.parametrize(("levels", "kept"), [((3, 1), (3.0, 1.0)), ([3.0, 1.0, 0], (3.0, 1.0)), ((2.5,), (2.5,))])
def test_listed_sigmas_set_the_number_of_steps(manifest: Manifest, levels: Any, kept: tuple[float, ...]) -> None:
    settings = settled(manifest, sigmas=levels, seed=0)
    assert (settings.sigmas, settings.steps) == (kept, len(kept))
    assert settled(manifest, sigmas=levels, seed=0, steps=len(kept)) == settings


def test_guidance_is_one_for_all_steps_or_one_a_step(manifest: Manifest) -> None:
    assert settled(manifest, guidance=3, steps=2).scales == (3.0, 3.0)
    assert settled(manifest, guidance=[7, 1.5], steps=2).scales == (7.0, 1.5)


@pytest.mark.parametrize(("guidance", "expected"), [(1.0, False), (7.5, True), ([1.0, 1.5], True)])
def test_a_model_that_is_told_the_guidance_is_not_guided_besides(manifest, guidance, expected):
    told = {"time_bias": replace(manifest.components["time_bias"], sources={"guidance": request_source(GUIDANCE)})}
    settings = settled(manifest, guidance=guidance, steps=2)
    assert guided(settings, manifest) is expected
    assert not guided(settings, replace(manifest, components={**manifest.components, **told}))
    assert settled(manifest, guidance=(7, 1.5), sigmas=(3.0, 1.0)).guidance.scale == (7.0, 1.5)


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        (None, (0.0, math.inf)),
        ((0.3, 3), (0.3, 3.0)),
        ([0, math.inf], (0.0, math.inf)),
        ([2, None], (2.0, math.inf)),
        ((1.0, 1.0), (1.0, 1.0)),
    ],
)
def test_the_interval_of_guidance(manifest: Manifest, asked: Any, kept: tuple[float, float]) -> None:
    assert settled(manifest, guidance_interval=asked).guidance.sigmas == kept


def test_a_variation_keeps_one_seed(manifest: Manifest) -> None:
    settings = settled(manifest, seed=5, batch=3, variation_seed=7, variation_strength=0.2)
    assert (settings.seeds, settings.variation_seeds) == ((5, 5, 5), (7, 8, 9))
    largest = settled(manifest, seed=LARGEST_SEED, batch=3, variation_seed=7, variation_strength=1)
    assert largest.seeds == (LARGEST_SEED,) * 3
    none = settled(manifest, seed=5, batch=3, variation_seed=7)
    assert (none.seeds, none.variation_seeds, none.variation_strength) == ((5, 6, 7), (), 0.0)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_takes_its_own_options_and_no_others(manifest: Manifest, name: str) -> None:
    manifest = flow(manifest) if SAMPLERS[name].flow else manifest
    solver = "bh1" if name == "unipc" else "heun"
    asked: dict[str, Any] = {"eta": 0.5, "gamma": 0.25, "order": 1, "solver": solver}
    for option, value in asked.items():
        if option in SAMPLERS[name].options:
            assert settled(manifest, sampler=name, **{option: value}).options[option] == value
        else:
            assert f"{option}: got {value!r}, but {name} has none; it is for " in refusal(
                manifest, sampler=name, **{option: value}
            )


def test_a_whole_guidance_becomes_a_float(manifest: Manifest) -> None:
    assert type(settled(manifest, guidance=3).guidance.scale) is float


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
    ({"sampler": "euler b"}, f"sampler: got 'euler b', expected one of {', '.join(SAMPLERS)}"),
    ({"sampler": ""}, "sampler: got '', expected one of ddim"),
    ({"sampler": 5}, "sampler: got 5, expected one of ddim"),
    ({"sampler": ["ddim"]}, "sampler: got ['ddim'], expected one of ddim"),
    ({"sigmas": "linear"}, "sigmas: got 'linear', expected one of normal, karras"),
    ({"sigmas": ""}, "sigmas: got '', expected one of normal"),
    ({"spacing": "even"}, "spacing: got 'even', expected one of leading, trailing, linspace"),
    ({"spacing": ""}, "spacing: got '', expected one of leading"),
    ({"guidance": math.nan}, "guidance: got nan, expected a finite number"),
    ({"guidance": math.inf}, "guidance: got inf, "),
    ({"guidance": -math.inf}, "guidance: got -inf, "),
    ({"guidance": "4"}, "guidance: got '4', "),
    ({"seed": -2}, f"seed: got -2, expected a whole number from 0 to {LARGEST_SEED}"),
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
    ({"guidance": 10**400}, "guidance: got 1000"),
    ({"guidance": True}, "guidance: got True, "),
    ({"guidance": {7.0}}, "guidance: got {7.0}, "),
    ({"guidance": (7, 1), "steps": 3}, "guidance: got 2 numbers for 3 steps, expected one per step, or one for all"),
    ({"guidance": (), "steps": 3}, "guidance: got 0 numbers for 3 steps"),
    ({"guidance": (7, 1), "sigmas": (5.0, 2.0, 1.0)}, "guidance: got 2 numbers for 3 steps"),
    ({"guidance": (7, math.nan), "steps": 2}, "guidance: got nan, expected a finite number"),
    ({"guidance": (7, "1"), "steps": 2}, "guidance: got '1', expected a finite number"),
    ({"guidance_rescale": 1.1}, "guidance_rescale: got 1.1, expected a number from 0 to 1"),
    ({"guidance_rescale": -0.1}, "guidance_rescale: got -0.1, "),
    ({"guidance_rescale": None}, "guidance_rescale: got None, "),
    ({"guidance_interval": (3.0, 0.3)}, "guidance_interval: got 3.0 to 0.3, expected the lower sigma first"),
    ({"guidance_interval": 3.0}, "guidance_interval: got 3.0, expected two sigmas, for example (0.3, 3.0)"),
    ({"guidance_interval": (0, 1, 2)}, "guidance_interval: got (0, 1, 2), expected two sigmas"),
    ({"guidance_interval": "03"}, "guidance_interval: got '03', expected two sigmas"),
    ({"guidance_interval": (-1, 3)}, "guidance_interval: got -1, expected a number of at least 0"),
    ({"guidance_interval": (None, 3)}, "guidance_interval: got None, expected a finite number"),
    ({"guidance_interval": (math.inf, math.inf)}, "guidance_interval: got inf, "),
    ({"guidance_interval": (0, math.nan)}, "guidance_interval: got nan, "),
    ({"sigmas": (1.0, 3.0)}, "sigmas: got [1.0, 3.0], expected numbers that fall, each above zero"),
    ({"sigmas": (3.0, 3.0)}, "sigmas: got [3.0, 3.0], expected numbers that fall"),
    ({"sigmas": ()}, "sigmas: got [], expected numbers that fall"),
    ({"sigmas": (0.0,)}, "sigmas: got [0.0], expected numbers that fall"),
    ({"sigmas": (3.0, 0.0, 0.0)}, "sigmas: got [3.0, 0.0, 0.0], expected numbers that fall"),
    ({"sigmas": (3.0, -1.0)}, "sigmas: got -1.0, expected a number of at least 0"),
    ({"sigmas": (math.inf, 1.0)}, "sigmas: got inf, expected a finite number"),
    ({"sigmas": (3.0, math.nan)}, "sigmas: got nan, expected a finite number"),
    ({"sigmas": ("3", "1")}, "sigmas: got '3', expected a finite number"),
    ({"sigmas": 3.0}, "sigmas: got 3.0, expected one of normal, karras"),
    ({"sigmas": (3.0, 1.0), "steps": 20}, "steps: got 20 with 2 sigmas, expected 2 or nothing"),
    ({"clip_skip": 0}, "clip_skip: got 0, expected a whole number from 1 to 3"),
    ({"clip_skip": 4}, "clip_skip: got 4, expected a whole number from 1 to 3"),
    ({"clip_skip": 1.0}, "clip_skip: got 1.0, "),
    ({"noise": "gpu"}, f"noise: got 'gpu', expected one of {'cpu, cuda'}"),
    ({"syntax": "loose"}, "syntax: got 'loose', expected one of strict, lenient, plain"),
    ({"variation_strength": 0.5}, "variation_strength: got 0.5 without a variation_seed; give one"),
    ({"variation_strength": 1.5, "variation_seed": 1}, "variation_strength: got 1.5, expected a number from 0 to 1"),
    ({"variation_seed": -2, "variation_strength": 0.5}, "variation_seed: got -2, "),
    ({"variation_seed": -2}, "variation_seed: got -2, "),
    ({"variation_seed": 2**64 - 2, "batch": 3, "variation_strength": 0.5}, f"variation_seed: got {2**64 - 2}, "),
    ({"eta": 0.5, "sampler": "euler"}, f"eta: got 0.5, but euler has none; it is for {WITH_ETA}"),
    ({"eta": 1.5}, "eta: got 1.5, expected a number from 0 to 1"),
    ({"eta": "1"}, "eta: got '1', expected a finite number"),
    ({"gamma": 0.5}, "gamma: got 0.5, but ddim has none; it is for tcd"),
    ({"order": 5, "sampler": "lms"}, "order: got 5, expected one of 1, 2, 3, 4"),
    ({"order": 4, "sampler": "dpmpp_2m"}, "order: got 4, expected one of 1, 2, 3"),
    ({"order": 2.0, "sampler": "dpmpp_2m"}, "order: got 2.0, expected one of 1, 2, 3"),
    ({"order": True, "sampler": "dpmpp_2m"}, "order: got True, expected one of 1, 2, 3"),
    ({"solver": "bh2", "sampler": "dpmpp_2m"}, "solver: got 'bh2', expected one of midpoint, heun"),
    ({"sampler": "flow_euler"}, "sampler: got flow_euler, but the model's is v_prediction; use ddim, "),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=[str(options) for options, _ in REFUSED])
def test_what_cannot_be_generated_is_refused(manifest: Manifest, options: dict[str, Any], message: str) -> None:
    assert refusal(manifest, **options).startswith(message)


@pytest.mark.parametrize("prompt", [None, 5, b"a red apple", ["a red apple"]])
def test_a_prompt_is_text(manifest: Manifest, prompt: Any) -> None:
    with pytest.raises(RequestError, match="^prompt: got "):
        resolve(Request(prompt), manifest)


@pytest.mark.parametrize("prompt", ["", " ", "x" * 100_000, "\u732b \U0001f34e", "a\nb\0c"])
def test_any_text_is_a_prompt(manifest: Manifest, prompt: str) -> None:
    assert resolve(Request(prompt, negative=prompt), manifest).prompt == prompt


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
    assert settings.of_image(2) == settings.of_image(-1) == settled(manifest, seed=9)


def test_the_settings_of_one_variation(manifest: Manifest) -> None:
    settings = settled(manifest, seed=7, batch=3, variation_seed=1, variation_strength=0.5)
    one = settled(manifest, seed=7, variation_seed=3, variation_strength=0.5)
    assert settings.of_image(2) == settings.of_image(-1) == one
