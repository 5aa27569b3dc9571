"""PixArt models draw what diffusers' PixArtSigmaPipeline draws."""

import json
from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, PixArtAlphaPipeline
from safetensors.torch import save_file

import latentrt
from latentrt.bundle.manifest_json import read, write
from latentrt.errors import LatentError
from latentrt.request.control import Control
from latentrt.request.request import Request
from latentrt.storage.json_codec import TypedError
from tests.export import pixart
from tests.export.controls import noise
from tests.export.pixart import PROMPT, SIZE
from tests.export.transformer_checks import check_half_precision, check_plans
from tests.sweep import sweep

pytestmark = [pytest.mark.usefixtures("one_thread"), sweep]

LEAST_DB = 100.0
CACHED = {"cache": 2, "cache_of": "prediction"}
EMPTY = " "  # of which nothing is left, as of an empty prompt
LONG = "two cats on a table at dawn, " * 12


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The small model on both sides."""
    made = pixart.opened_pair(tmp_path_factory.mktemp("pixart"))
    with made.ours:
        yield made


@pytest.mark.parametrize("guidance", [1.0, 4.5])
@pytest.mark.parametrize(("steps", "batch"), [(1, 1), (4, 3), (20, 1)])
def test_draws_what_diffusers_draws(pair, steps, batch, guidance):
    found = pair.psnr(batch=batch, steps=steps, guidance=guidance)
    print(f"{found:.1f} dB")
    assert found >= LEAST_DB


@pytest.mark.parametrize("steps", [1, 4, 20])
def test_every_step_has_the_latents_of_diffusers(pair, steps):
    found = pair.steps(steps=steps, guidance=4.5, negative="fog")
    print(f"{min(found):.1f} dB")
    assert len(found) == steps and min(found) >= LEAST_DB


@pytest.mark.parametrize(
    ("prompt", "negative"),
    [(PROMPT, "an oil painting, fog"), (EMPTY, ""), (EMPTY, "fog in the valley"), ("cats", LONG), (LONG, "")],
    ids=["two lengths", "empty", "only a negative", "long negative", "long"],
)
def test_prompts_of_any_length(pair, prompt, negative):
    found = pair.psnr(prompt, steps=2, guidance=4.5, negative=negative)
    print(f"{found:.1f} dB")
    assert found >= LEAST_DB


def test_the_prompt_and_its_emphasis_change_the_picture(pair):
    """Both sides read the same prompt, so that equal pictures would say nothing of it if it changed none."""
    other = pair.pair.psnr(PROMPT, guidance=4.5, theirs=pixart.calls("fog", 1), **SIZE)
    request = Request("A (photograph:1.5) of cats", steps=2, seed=0, **SIZE)
    first, second = (list(pair.ours.steps(one))[-1].latents for one in (request, plain(request)))
    print(f"{other:.1f} dB")
    assert other < LEAST_DB - 50 and abs(first - second).max() > 1e-3


def plain(request):
    """The request without emphasis."""
    return Request("A photograph of cats", steps=request.steps, seed=0, **SIZE)


@pytest.mark.parametrize(
    "scheduler",
    [EulerDiscreteScheduler(), DDIMScheduler(clip_sample=False, set_alpha_to_one=False)],
    ids=["euler", "ddim"],
)
def test_other_samplers(pair, scheduler):
    made = replace(pair, pair=pair.pair.with_scheduler(scheduler))
    found = made.psnr(steps=3, guidance=4.5)
    print(f"{found:.1f} dB")
    assert found >= LEAST_DB


def test_openvino_draws_the_same_after_a_call_with_one_token(pair):
    folder = pair.pair.folder / "bundle"
    with latentrt.load(folder, engine="openvino") as ours:
        theirs = replace(pair, pair=replace(pair.pair, ours=ours))
        found = [theirs.psnr(prompt, steps=2, guidance=4.5) for prompt in (EMPTY, PROMPT, "cats")]
    print(*(f"{one:.1f} dB" for one in found))
    assert min(found) >= LEAST_DB


def test_prompts_joined_by_and_keep_their_lengths(pair):
    """Without guidance the weighted mean of two prompts' predictions is that of one, if both are the same text."""
    both = Request("cats AND cats :0", steps=2, seed=0, guidance=1.0, **SIZE)
    longer = Request("cats AND two cats on a wooden table :0", steps=2, seed=0, guidance=1.0, **SIZE)
    first, second = (list(pair.ours.steps(one))[-1].latents for one in (both, longer))
    assert abs(first - second).max() < 1e-5


def test_an_image_is_where_a_run_starts(pair):
    """diffusers has no pipeline for it: the loop is that of its others, around the same modules."""
    image = noise(**SIZE)
    request = Request("cats", init=image, strength=0.5, steps=8, seed=5, guidance=1.0, **SIZE)
    *_, last = pair.ours.steps(request)
    found = pixart.psnr_of(last.latents, pixart.from_image(pair.pair.theirs, image, request).numpy())
    print(f"{found:.1f} dB")
    assert found >= LEAST_DB


def test_the_bundle_says_how_each_input_is_made(pair):
    manifest = pair.ours.bundle.manifest
    transformer = manifest.components[manifest.denoiser]
    assert {name: (source.kind, source.per) for name, source in transformer.sources.items()} == {
        "sample": ("latents", ("step", "row")),
        "time_bias": ("component", ("step",)),
        "cross_kv": ("component", ("prompt",)),
        "positions": ("positions", ("run",)),
    }
    assert manifest.text is not None and not manifest.text.padded and manifest.tokenizer.bos is None
    assert manifest.defaults.guidance == 4.5 and manifest.latents.pixel_multiple == 16


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"kind": "request"}, "positions: got one of it and of the kind 'positions'"),
        ({"positions": None}, "positions: got one of it and of the kind 'positions'"),
        ({"positions": {"base": 0, "scale": 2.0}}, "expected a base of at least 1"),
        ({"positions": {"base": 4, "scale": 0.0}}, "a scale above 0"),
    ],
)
def test_damaged_positions_are_refused(pair, entries, words):
    document = json.loads(write(pair.ours.bundle.manifest))
    document["components"]["transformer"]["sources"]["positions"] |= entries
    with pytest.raises(TypedError, match=words):
        read(json.dumps(document))


def test_lora_files_are_refused_with_a_reason(pair, tmp_path):
    tensors = {f"a.lora_{way}.weight": torch.ones(2, 2) for way in ("down", "up")}
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(LatentError, match="a pixart-sigma model without context_rows, expected a Stable Diffusion"):
        pair.ours.with_loras({tmp_path / "a.safetensors": 1.0})


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ({"cache": 2}, "has no shallow UNet"),
        ({"width": 72}, "width: got 72"),
        ({"clip_skip": 2}, "clip_skip: got 2"),
        ({"controls": [Control("canny", "x.png")]}, "has none of them"),
        ({"original_size": (64, 64)}, "do not take it"),
    ],
    ids=lambda value: None if isinstance(value, str) else next(iter(value)),
)
def test_requests_that_the_model_cannot_take_are_refused(pair, field, words):
    with pytest.raises(LatentError, match=words):
        pair.ours.generate(PROMPT, **{**SIZE, "steps": 1, **field})


def test_a_prediction_may_be_kept_from_step_to_step(pair):
    request = {"prompt": "cats", "steps": 4, "seed": 0, **SIZE}
    plain, cached = (list(pair.ours.steps(Request(**request, **more))) for more in ({}, CACHED))
    assert [step.cached for step in cached] != [False] * 4
    assert 20 < pixart.psnr_of(cached[-1].latents, plain[-1].latents) < LEAST_DB


def test_tiles_have_the_positions_of_pictures_of_their_size(pair):
    """A window of the whole picture is no tile; smaller ones change it."""
    plain, whole, tiled = (
        list(pair.ours.steps(Request("cats", steps=2, seed=0, width=64, height=64, **more)))[-1].latents
        for more in ({}, {"window": 64, "stride": 64}, {"window": 32, "stride": 16})
    )
    assert abs(plain - whole).max() < 1e-5 < abs(plain - tiled).max()


def test_a_run_is_planned_into_a_budget_of_memory(pair):
    with latentrt.load(pair.pair.folder / "bundle", engine="onnxruntime", memory_budget=10**9) as ours:
        made = ours.generate("cats", steps=1, seed=0, **SIZE)
        with pytest.raises(LatentError, match="memory budget"):
            ours.generate("cats", steps=1, seed=0, width=1 << 15, height=1 << 15)
    assert made.images[0].size == (96, 64)


@pytest.mark.parametrize(("precision", "least"), [("w16", 60.0), ("fp16", 40.0)])
def test_half_precisions(tmp_path, precision, least):
    check_half_precision(
        pixart.opened_pair(tmp_path, precision=precision), precision, least, guidance=4.5, negative="fog"
    )


@pytest.mark.parametrize("precision", ["fp16", pytest.param("w4", marks=pytest.mark.sweep)])
def test_every_component_becomes_a_plan(tmp_path, precision):
    """One plan takes prompts of any length."""
    check_plans(pixart.opened_pair(tmp_path, precision=precision), tmp_path / "bundle")


@pytest.mark.parametrize("changes", [{}, pixart.KINDS["PixArt-Alpha"][1]], ids=["512", "1024"])
@pytest.mark.parametrize("guidance", pixart.GUIDANCE)
def test_pixart_alpha(tmp_path, changes, guidance):
    pair = pixart.opened_pair(tmp_path, PixArtAlphaPipeline, changes=changes)
    with pair.ours:
        found = [pair.psnr(batch=batch, steps=steps, guidance=guidance) for steps, batch in pixart.COUNTS]
    print(*(f"{one:.1f} dB" for one in found))
    assert min(found) >= LEAST_DB


@pytest.mark.parametrize("changes", [{"sample_size": 64, "interpolation_scale": None}, {"patch_size": 4}])
def test_other_shapes(tmp_path, changes):
    pair = pixart.opened_pair(tmp_path, changes=changes)
    with pair.ours:
        found = pair.psnr(steps=3, guidance=4.5)
    print(f"{found:.1f} dB")
    assert found >= LEAST_DB
