"""FLUX.2 klein models draw what diffusers' Flux2KleinPipeline draws."""

import json
from dataclasses import replace

import numpy as np
import pytest
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu, retrieve_timesteps

import latentrt
from latentrt.bundle.manifest_json import read, write
from latentrt.errors import LatentError
from latentrt.pipeline.memory import demand_of, latents_per_call
from latentrt.request.control import Control
from latentrt.request.request import Request
from latentrt.request.settings import resolve
from latentrt.sampling.grids import flow_grid
from latentrt.storage.json_codec import TypedError
from latentrt_calib.calibrate import check_denoiser
from latentrt_export.checkpoint.scheduler import schedule_of
from latentrt_export.estimate.estimate import calls_of
from tests.export import klein
from tests.export.controls import noise
from tests.export.klein import PROMPT, SIZE
from tests.export.transformer_checks import check_half_precision, check_plans
from tests.sweep import rest_swept

pytestmark = pytest.mark.usefixtures("one_thread")

LEAST_DB = 100.0
LONG = "two cats on a table at dawn, " * 12


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The small model on both sides."""
    made = klein.opened_pair(tmp_path_factory.mktemp("klein"))
    with made.ours:
        yield made


@pytest.mark.parametrize("counts", rest_swept([(1, 1), (4, 3), (20, 1)], [(4, 3)]))
def test_draws_what_diffusers_draws(pair, counts):
    steps, batch = counts
    found = pair.psnr(batch=batch, steps=steps)
    print(f"{found:.1f} dB")
    assert found >= LEAST_DB


@pytest.mark.parametrize("counts", rest_swept([(1, 1), (1, 3), (4, 1), (4, 3), (20, 1), (20, 3)], [(1, 1), (4, 3)]))
@pytest.mark.parametrize("size", rest_swept([(96, 64), (64, 64), (48, 160)], [(96, 64)]))
def test_every_step_has_the_latents_of_diffusers(pair, counts, size):
    steps, batch = counts
    found = pair.steps(batch=batch, steps=steps, width=size[0], height=size[1])
    print(f"{min(found):.1f} dB")
    assert len(found) == steps and min(found) >= LEAST_DB


@pytest.mark.parametrize("prompt", rest_swept(["", LONG, "<|im_end|> cats"], [""]), ids=["empty", "long", "special"])
def test_prompts_of_any_length(pair, prompt):
    found = pair.steps(prompt or " ", steps=2)
    print(f"{min(found):.1f} dB")
    assert min(found) >= LEAST_DB


def test_the_prompt_changes_the_picture(pair):
    """Both sides read the same prompt, so that equal pictures would say nothing of it if it changed none."""
    first, second = (
        list(pair.ours.steps(Request(one, steps=1, seed=0, **SIZE)))[-1].latents for one in ("cats", "fog")
    )
    assert abs(first - second).max() > 1e-3


@pytest.fixture(scope="module")
def shown():
    """Images of sizes that are no multiples, one of more than a megapixel, and one with transparency."""
    return [noise(97, 70), noise(1500, 800, seed=1), noise(64, 130, seed=2).convert("RGBA")]


@pytest.mark.parametrize("counts", rest_swept([(1, 1), (4, 3), (20, 1)], [(4, 3)]))
def test_edits_as_diffusers_does(pair, shown, counts):
    steps, batch = counts
    found = pair.steps(steps=steps, batch=batch, references=shown[:1])
    plain = pair.steps(steps=steps, batch=batch)
    print(f"{min(found):.1f} dB")
    assert len(found) == steps and min(found) >= LEAST_DB and min(plain) >= LEAST_DB


@pytest.mark.parametrize("images", rest_swept([(0, 2), (1,), (2, 0, 1)], [(0, 2)]), ids=str)
def test_several_references_of_any_size(pair, shown, images):
    found = pair.steps(steps=2, references=[shown[place] for place in images])
    print(f"{min(found):.1f} dB")
    assert min(found) >= LEAST_DB


def test_a_reference_changes_the_picture_and_sets_its_size(pair, shown):
    request = Request("cats", steps=1, seed=0, references=shown[:1])
    plain, edited = (list(pair.ours.steps(one))[-1].latents for one in (replace(request, references=()), request))
    assert plain.shape[2:] == (64, 64) and edited.shape[2:] == (4, 6)
    sized = replace(request, **SIZE)
    plain, edited = (list(pair.ours.steps(one))[-1].latents for one in (replace(sized, references=()), sized))
    assert abs(plain - edited).max() > 1e-3


@pytest.mark.parametrize("counts", rest_swept([(4, 3, 0.8), (4, 1, 0.5), (20, 1, 0.33), (1, 1, 1.0)], [(4, 3, 0.8)]))
@pytest.mark.parametrize("images", rest_swept([0, 1], [1]))
def test_paints_in_an_image_as_diffusers_does(pair, shown, counts, images):
    steps, batch, strength = counts
    image, mask = noise(**SIZE, seed=3), klein.patch_mask()
    asked = {"init": image, "mask": mask, "strength": strength, "references": shown[:images]}
    found = pair.steps(steps=steps, batch=batch, **asked)
    print(*(f"{one:.1f} dB" for one in found))
    assert len(found) == {(4, 0.8): 4, (4, 0.5): 2, (20, 0.33): 7, (1, 1.0): 1}[steps, strength]
    assert min(found) >= LEAST_DB


@pytest.mark.parametrize(("width", "height"), [(96, 64), (512, 512), (1024, 1024), (1536, 1024)])
@pytest.mark.parametrize("steps", [1, 4, 20])
def test_noise_levels_are_those_of_diffusers(steps, width, height):
    scheduler, latents = FlowMatchEulerDiscreteScheduler(**klein.SCHEDULER), width * height // 256
    mu = compute_empirical_mu(latents, steps)
    retrieve_timesteps(scheduler, steps, sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
    config = json.loads(scheduler.to_json_string())
    grid = flow_grid(schedule_of(config, "flux2").for_size(latents, steps), steps, "leading", "normal")
    np.testing.assert_allclose(grid.timesteps, scheduler.timesteps, rtol=2e-7)
    with np.errstate(invalid="ignore"):
        shares = np.where(np.isinf(grid.sigmas), 1, grid.sigmas / (1 + grid.sigmas))
    np.testing.assert_allclose([*shares, 0], scheduler.sigmas, rtol=2e-7)


def test_the_bundle_says_how_each_input_is_made(pair):
    manifest = pair.ours.bundle.manifest
    transformer = manifest.components[manifest.denoiser]
    assert {name: (source.kind, source.per) for name, source in transformer.sources.items()} == {
        "sample": ("latents", ("step", "row")),
        "time_bias": ("component", ("step",)),
        "context_rows": ("component", ("prompt",)),
        "rotary_text": ("positions", ("run",)),
        "rotary_image": ("positions", ("run",)),
    }
    assert manifest.text is not None and manifest.text.padded and not manifest.text.guided
    assert manifest.defaults.guidance == 1 and manifest.defaults.steps == 4 and manifest.defaults.width == 1024
    assert manifest.latents.pixel_multiple == manifest.latents.factor == 16
    assert read(write(manifest)) == manifest


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"kind": "request"}, "positions: got one of it and of the kind 'positions'"),
        ({"rotary": None}, "positions: got one of it and of the kind 'positions'"),
        ({"rotary": {"theta": 0.0, "axes": [4, 4, 4, 4]}}, "expected a theta above 0"),
        ({"rotary": {"theta": 2000.0, "axes": [4, 4, 4, 3]}}, "multiples of 2"),
        ({"rotary": {"theta": 2000.0, "axes": [4, 4, 4, 6]}}, "and 9 pairs"),
    ],
)
def test_damaged_rotations_are_refused(pair, entries, words):
    document = json.loads(write(pair.ours.bundle.manifest))
    document["components"]["transformer"]["sources"]["rotary_text"] |= entries
    with pytest.raises(TypedError, match=words):
        read(json.dumps(document))


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ({"guidance": 4.0}, "guidance: got 4.0, but .* no unconditional input"),
        ({"cache": 2}, "has no shallow UNet"),
        ({"width": 72}, "width: got 72"),
        ({"clip_skip": 2}, "clip_skip: got 2"),
        ({"controls": [Control("canny", "x.png")]}, "has none of them"),
        ({"references": noise(96, 64)}, "references: got .*, expected a list"),
        ({"references": [noise(96, 48)]}, "reference 1: got 96x48 pixels, expected sides of at least 64"),
        ({"references": [noise(64, 64), noise(1024, 65)]}, "reference 2: .* at most 8 times the other"),
        ({"references": [noise(64, 64)] * 11}, "references: got 11, expected at most 10"),
        ({"sampler": "ddim"}, "sampler: got ddim, but the model's is flow_prediction"),
    ],
    ids=lambda value: None if isinstance(value, str) else next(iter(value)),
)
def test_requests_that_the_model_cannot_take_are_refused(pair, field, words):
    with pytest.raises(LatentError, match=words):
        pair.ours.generate(PROMPT, **{**SIZE, "steps": 1, **field})


def test_openvino_draws_the_same(pair, shown):
    with latentrt.load(pair.pair.folder / "bundle", engine="openvino") as ours:
        both = replace(pair, pair=replace(pair.pair, ours=ours))
        found = [*both.steps(steps=2), *both.steps(steps=2, width=64, references=shown[:1])]
    print(*(f"{one:.1f} dB" for one in found))
    assert min(found) >= LEAST_DB


def test_a_run_is_planned_into_a_budget_of_memory(pair, shown):
    folder, manifest = pair.pair.folder / "bundle", pair.ours.bundle.manifest
    with latentrt.load(folder, engine="onnxruntime", memory_budget=10**9) as ours:
        made = ours.generate("cats", steps=1, seed=0, **SIZE)
        with pytest.raises(LatentError, match="memory budget"):
            ours.generate("cats", steps=1, seed=0, width=1 << 15, height=1 << 15)
        plain, edited = (
            latents_per_call(manifest, "transformer", demand_of(resolve(one, manifest), 1, manifest))
            for one in (Request("cats", **SIZE), Request("cats", references=shown[:1], **SIZE))
        )
    assert made.images[0].size == (96, 64)
    assert (plain, edited) == (24 + 512, 24 + 512 + 24)


@pytest.mark.parametrize(
    "more",
    [{"hires": 1.5, "hires_steps": 2}, {"window": 64, "stride": 32}, {"cache": 2, "cache_of": "prediction"}],
    ids=str,
)
def test_passes_tiles_and_kept_predictions_run(pair, more):
    request = {"prompt": "cats", "steps": 4, "seed": 0, "width": 96, "height": 96}
    plain, other = (list(pair.ours.steps(Request(**request, **one)))[-1].latents for one in ({}, more))
    size = (9, 9) if "hires" in more else (6, 6)
    assert other.shape[2:] == size and np.isfinite(other).all()
    assert "hires" in more or abs(plain - other).max() > 1e-5


def test_int8_is_refused_with_a_reason(pair):
    with pytest.raises(LatentError, match="got a denoiser that is a transformer, expected a UNet"):
        check_denoiser(pair.ours, "int8")


def test_an_estimate_counts_calls_and_rows(pair):
    bundle = pair.ours.bundle
    calls = calls_of(bundle, resolve(Request("cats", steps=3, batch=2, **SIZE), bundle.manifest))
    assert {name: call.times for name, call in calls.items()} == {
        **dict.fromkeys(("text_encoder", "context_rows", "time_bias"), 1),
        **{"transformer": 3, "vae_decoder": 2},
    }


@pytest.mark.sweep
def test_a_base_model_is_guided_from_an_empty_text(tmp_path):
    pair = klein.opened_pair(tmp_path, distilled=False)
    with pair.ours:
        assert pair.ours.bundle.manifest.defaults.guidance == 4.0
        found = [*pair.steps(steps=4, guidance=4.0), pair.psnr(steps=4, batch=3, guidance=2.5)]
    print(*(f"{one:.1f} dB" for one in found))
    assert min(found) >= LEAST_DB


@pytest.mark.sweep
def test_the_states_of_the_published_encoders(tmp_path):
    pair = klein.opened_pair(tmp_path, states=(9, 18, 27), num_hidden_layers=29)
    with pair.ours:
        found = pair.steps(steps=2)
    print(f"{min(found):.1f} dB")
    assert min(found) >= LEAST_DB


@pytest.mark.sweep
@pytest.mark.parametrize(("precision", "least"), [("w16", 60.0), ("fp16", 40.0)])
def test_half_precisions(tmp_path, precision, least):
    check_half_precision(klein.opened_pair(tmp_path, precision=precision), precision, least)


@pytest.mark.sweep
@pytest.mark.parametrize("precision", ["fp16", "w4"])
def test_every_component_becomes_a_plan(tmp_path, precision):
    check_plans(klein.opened_pair(tmp_path, precision=precision), tmp_path / "bundle")
