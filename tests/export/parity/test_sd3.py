"""Stable Diffusion 3 models draw what diffusers' StableDiffusion3Pipeline draws, with and without T5."""

import json
from dataclasses import replace

import numpy as np
import pytest

import latentrt
from latentrt.bundle.manifest_json import read, write
from latentrt.errors import LatentError, RequestError
from latentrt.pipeline.memory import demand_of, latents_per_call, table_bytes
from latentrt.request.control import Control
from latentrt.request.request import Request
from latentrt.request.settings import resolve
from latentrt.storage.json_codec import TypedError
from latentrt_calib.calibrate import check_denoiser
from latentrt_export.estimate.estimate import calls_of
from latentrt_export.lower.tensorrt import probe_feeds
from tests.export import sd3
from tests.export.controls import noise
from tests.export.sd3 import PROMPT, SIZE
from tests.export.transformer_checks import check_half_precision, check_plans, psnr_of
from tests.sweep import sweep

pytestmark = [pytest.mark.usefixtures("one_thread"), sweep]

LEAST_DB = 100.0
# More words than either vocabulary has room for in a row.
LONG = "two cats on a table at dawn, " * 40


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The small model on both sides."""
    made = sd3.opened_pair(tmp_path_factory.mktemp("sd3"))
    with made.ours:
        yield made


@pytest.fixture(scope="module")
def without_t5(tmp_path_factory):
    """The same without T5."""
    made = sd3.opened_pair(tmp_path_factory.mktemp("sd3"), t5=False)
    with made.ours:
        yield made


@pytest.fixture(params=["whole", "without_t5"])
def pair(request):
    """Either."""
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("counts", sd3.COUNTS)
@pytest.mark.parametrize("guidance", sd3.GUIDANCE)
def test_draws_what_diffusers_draws(pair, counts, guidance):
    steps, batch = counts
    found = pair.psnr(batch=batch, steps=steps, guidance=guidance)
    print(f"{found:.1f} dB")
    assert found >= LEAST_DB


@pytest.mark.parametrize("counts", sd3.COUNTS)
@pytest.mark.parametrize("guidance", sd3.GUIDANCE)
@pytest.mark.parametrize("size", [(96, 64), (64, 64), (48, 160)])
def test_every_step_has_the_latents_of_diffusers(pair, counts, guidance, size):
    steps, batch = counts
    found = pair.steps(batch=batch, steps=steps, guidance=guidance, width=size[0], height=size[1])
    print(f"{min(found):.1f} dB")
    assert len(found) == steps and min(found) >= LEAST_DB


TEXTS = [(" ", "fog"), ("Cats", ""), (PROMPT, "Fog, rain")]


@pytest.mark.parametrize("texts", TEXTS, ids=str)
def test_prompts_and_negative_prompts(pair, texts):
    prompt, negative = texts
    found = pair.steps(prompt, steps=2, guidance=5.0, negative=negative)
    print(f"{min(found):.1f} dB")
    assert min(found) >= LEAST_DB


def test_every_text_encoder_changes_the_picture(pair):
    """Both sides read the same prompt, so that equal pictures would say nothing of an encoder that is not read."""
    engines, encoders = pair.ours.engines, pair.ours.bundle.manifest.text_encoders
    silenced = [{}, *({name: silent(engines[name])} for name in encoders)]
    request = Request(PROMPT, steps=1, seed=0, **SIZE)
    plain, *others = (list(pair.ours.with_engines(one).steps(request))[-1].latents for one in silenced)
    assert len(others) in (2, 3) and all(abs(plain - other).max() > 1e-3 for other in others)


def silent(engine):
    """An engine whose outputs are zeros."""
    return lambda feeds: {name: 0 * one for name, one in engine(feeds).items()}


def test_layers_are_counted_from_the_last_that_is_read(whole):
    """diffusers leaves the negative prompt as it is, so that it is the same only without one."""
    request = {"steps": 1, "guidance": 1.0, "seed": 5, **SIZE}
    asked = {"num_inference_steps": 1, "guidance_scale": 1.0, "output_type": "latent"}
    drawn = []
    for skip in (1, 2):
        drawn.append(list(whole.ours.steps(Request(PROMPT, clip_skip=skip, **request)))[-1].latents)
        expected = whole.pair.theirs(**asked, clip_skip=skip - 1, **sd3.calls(PROMPT, 1)).images.numpy()
        assert psnr_of(drawn[-1], expected) >= LEAST_DB
    assert abs(drawn[0] - drawn[1]).max() > 1e-3
    with pytest.raises(RequestError, match="clip_skip: got 3, expected .* 2"):
        whole.ours.generate(PROMPT, clip_skip=3, **request)


def test_longer_texts_go_on_in_further_rows(pair):
    """diffusers cuts them."""
    manifest = pair.ours.bundle.manifest
    short, long = (
        pair.ours.steps(Request(one, steps=1, seed=0, guidance=1.0, **SIZE))._prepared.prompts.positive
        for one in (PROMPT, LONG)
    )
    rows = {name: [len(chunks[text]) for text in chunks] for name, chunks in long.others.items()}
    assert [len(chunks) for chunks in short.chunks.values()] == [1]
    assert [len(chunks) for chunks in long.chunks.values()][0] > 3
    assert rows == ({"text_encoder_3": [3]} if len(manifest.text_encoders) == 3 else {})
    made = list(pair.ours.steps(Request(LONG, steps=1, seed=0, guidance=4.0, **SIZE)))[-1].latents
    assert np.isfinite(made).all()


IMAGES = [(4, 3, 0.8), (20, 1, 0.33), (1, 1, 1.0)]


@pytest.mark.parametrize("counts", IMAGES)
def test_an_image_is_where_a_run_starts(whole, counts):
    steps, batch, strength = counts
    asked = {"init": noise(**SIZE, seed=3), "strength": strength, "posterior": "sample", "guidance": 5.0}
    found = whole.steps(steps=steps, batch=batch, **asked)
    print(*(f"{one:.1f} dB" for one in found))
    assert len(found) == {(4, 0.8): 4, (20, 0.33): 7, (1, 1.0): 1}[steps, strength]
    assert min(found) >= LEAST_DB


@pytest.mark.parametrize("counts", IMAGES)
def test_paints_in_an_image_as_diffusers_does(whole, counts):
    steps, batch, strength = counts
    asked = {"init": noise(**SIZE, seed=3), "mask": sd3.patch_mask(), "strength": strength, "posterior": "sample"}
    found = whole.steps(steps=steps, batch=batch, guidance=5.0, **asked)
    print(*(f"{one:.1f} dB" for one in found))
    assert min(found) >= LEAST_DB


def test_the_bundle_says_how_each_input_is_made(pair):
    manifest = pair.ours.bundle.manifest
    transformer = manifest.components[manifest.denoiser]
    assert {name: (source.kind, source.per) for name, source in transformer.sources.items()} == {
        "sample": ("latents", ("step", "row")),
        "time_bias": ("component", ("prompt", "step")),
        "context_rows": ("component", ("prompt",)),
        "positions": ("positions", ("run",)),
    }
    positions = transformer.sources["positions"].positions
    assert positions is not None and (positions.base, positions.table) == (8, 24)
    assert manifest.text is not None and manifest.tokenizer is not None
    others = {name: (one.file, one.length) for name, one in manifest.tokenizer.others.items()}
    with_t5 = {"text_encoder_3": ("tokenizer/text_encoder_3.json", 256)}
    assert (others, manifest.text.missing) in [(with_t5, 0), ({}, 256)]
    assert manifest.row_lengths == (32, 256) and manifest.size_bounds()["tokens"] == (32, 288, 288)
    assert [*manifest.text.pads] == ["text_encoder_2"] and manifest.text.layers == 2
    assert manifest.defaults.guidance == 7 and manifest.defaults.steps == 28 and manifest.defaults.width == 128
    assert manifest.latents.pixel_multiple == 16 and manifest.longest_side == 384
    assert manifest.noise_schedule.shift == 3 and manifest.latents.shift == 0.0609
    assert read(write(manifest)) == manifest


@pytest.mark.parametrize(
    ("place", "entries", "words"),
    [
        (("tokenizer", "others"), {"text_encoder_4": None}, "others: got 'text_encoder_4', expected text encoders"),
        (("tokenizer", "others", "text_encoder_3"), {"pad": 2**40}, "text_encoder_3.pad: got .*, expected a token's"),
        (("tokenizer", "others", "text_encoder_3"), {"file": "none.json"}, "none.json is used but not listed"),
        (("components", "transformer", "sources", "positions", "positions"), {"table": -1}, "table: got -1, expected"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_damaged_bundles_are_refused(whole, place, entries, words):
    document = json.loads(write(whole.ours.bundle.manifest))
    entry = document
    for name in place:
        entry = entry[name]
    known = document["tokenizer"]["others"]["text_encoder_3"]
    entry |= {name: known if value is None else value for name, value in entries.items()}
    with pytest.raises(TypedError, match=words):
        read(json.dumps(document))


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ({"width": 400}, "width: got 400 pixels, expected at most 384, .* --window"),
        ({"height": 208, "hires": 2.0, "hires_steps": 2}, "height: got 416 pixels, expected at most 384"),
        ({"width": 72}, "width: got 72"),
        ({"cache": 2}, "has no shallow UNet"),
        ({"controls": [Control("canny", "x.png")]}, "has none of them"),
        ({"references": [noise(64, 64)]}, "references: got some, but checkpoint takes no"),
        ({"sampler": "ddim"}, "sampler: got ddim, but the model's is flow_prediction"),
    ],
    ids=lambda value: None if isinstance(value, str) else next(iter(value)),
)
def test_requests_that_the_model_cannot_take_are_refused(whole, field, words):
    with pytest.raises(LatentError, match=words):
        whole.ours.generate(PROMPT, **{**SIZE, "steps": 1, **field})


def test_openvino_draws_the_same(whole):
    with latentrt.load(whole.pair.folder / "bundle", engine="openvino") as ours:
        both = replace(whole, pair=replace(whole.pair, ours=ours))
        found = [*both.steps(steps=2, guidance=4.0), *both.steps(steps=2, guidance=1.0, width=64)]
    print(*(f"{one:.1f} dB" for one in found))
    assert min(found) >= LEAST_DB


def test_a_run_is_planned_into_a_budget_of_memory(whole):
    manifest = whole.ours.bundle.manifest
    with latentrt.load(whole.pair.folder / "bundle", engine="onnxruntime", memory_budget=10**9) as ours:
        assert ours.generate("cats", steps=1, seed=0, **SIZE).images[0].size == (96, 64)
    demand = demand_of(resolve(Request("cats", **SIZE), manifest), 1, manifest)
    assert latents_per_call(manifest, "transformer", demand) == 12 * 8 + 4 * 288
    assert table_bytes(manifest.components["time_bias"], demand) == 28 * 2 * 1280 * 4
    assert table_bytes(manifest.components["context_rows"], demand) == 0


@pytest.mark.parametrize(
    "more",
    [
        {"hires": 1.5, "hires_steps": 2},
        {"window": 64, "stride": 32},
        *({"cache": 2, "cache_of": kept} for kept in ("prediction", "guidance")),
    ],
    ids=str,
)
def test_passes_tiles_and_kept_predictions_run(whole, more):
    request = {"prompt": "cats", "steps": 4, "seed": 0, "width": 96, "height": 96}
    plain, other = (list(whole.ours.steps(Request(**request, **one)))[-1].latents for one in ({}, more))
    size = (18, 18) if "hires" in more else (12, 12)
    assert other.shape[2:] == size and np.isfinite(other).all()
    assert "hires" in more or abs(plain - other).max() > 1e-5


def test_tiles_reach_further_than_positions(whole):
    made = list(whole.ours.steps(Request("cats", steps=1, seed=0, width=448, height=64, window=384, stride=64)))
    assert made[-1].latents.shape[2:] == (8, 56)


def test_probes_have_tokens_of_each_vocabulary(whole):
    """CLIP's highest token is none of T5's."""
    found = whole.ours.bundle.manifest
    manifest = replace(found, tokenizer=replace(found.tokenizer, eos=2000))
    bundle = replace(whole.ours.bundle, manifest=manifest)
    highest = {name: probe_feeds(bundle, name, {})["input_ids"].max() for name in manifest.text_encoders}
    assert highest["text_encoder"] > 1000 and highest["text_encoder_3"] == found.tokenizer.others["text_encoder_3"].eos


def test_int8_is_refused_with_a_reason(whole):
    with pytest.raises(LatentError, match="got a denoiser that is a transformer, expected a UNet"):
        check_denoiser(whole.ours, "int8")


def test_an_estimate_counts_calls_and_rows(whole):
    bundle = whole.ours.bundle
    calls = calls_of(bundle, resolve(Request("cats", steps=3, batch=2, **SIZE), bundle.manifest))
    encoders = dict.fromkeys(bundle.manifest.text_encoders, 1)
    assert {name: call.times for name, call in calls.items()} == {
        **{**encoders, "context_rows": 1, "time_bias": 1},
        **{"transformer": 3, "vae_decoder": 2},
    }


@pytest.mark.parametrize("kind", sd3.KINDS)
@pytest.mark.parametrize("t5", [True, False])
def test_other_kinds(tmp_path, kind, t5):
    pair = sd3.opened_pair(tmp_path, t5=t5, changes=sd3.KINDS[kind])
    with pair.ours:
        found = [*pair.steps(steps=4, guidance=5.0), pair.psnr(steps=2, batch=3, guidance=1.0)]
    print(*(f"{one:.1f} dB" for one in found))
    assert min(found) >= LEAST_DB


@pytest.mark.parametrize(("precision", "least"), [("w16", 60.0), ("fp16", 40.0)])
def test_half_precisions(tmp_path, precision, least):
    pair = sd3.opened_pair(tmp_path, precision=precision)
    assert pair.ours.bundle.manifest.components["text_encoder"].precision == precision
    check_half_precision(pair, precision, least, wide="text_encoder_3", guidance=5.0)


@pytest.mark.parametrize("precision", ["fp16", pytest.param("w4", marks=pytest.mark.sweep)])
def test_every_component_becomes_a_plan(tmp_path, precision):
    check_plans(sd3.opened_pair(tmp_path, precision=precision), tmp_path / "bundle")
