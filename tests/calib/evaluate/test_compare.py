"""Comparing two bundles: the figures against closed forms, the drawing on fake engines and on the built-in model."""

import json
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from latentrt import BundleError, FidelityError, RequestError
from latentrt.bundle.catalog import MODELS
from latentrt.bundle.folder import open_bundle
from latentrt.prompt.file import read_prompts
from latentrt_calib.evaluate.compare import (
    EVALUATION,
    Gates,
    bundle_summary,
    check_gates,
    compare,
    compare_bundles,
    document,
)
from latentrt_calib.recording.prompts import SHIPPED
from tests.calib.comparisons import OTHER, REFERENCE, comparison, drawing
from tests.runtime.fake import SMALL, named, pipeline_of

BUNDLE = open_bundle(MODELS / "emoji", verify=False)
DRAW = partial(compare_bundles, "one", "two", ("a cat", "a dog"), images=3, steps=2, **SMALL)


def off_by(value):
    """The PSNR of pictures of which every value is off by so much."""
    return 20 * math.log10(255 / value)


def test_figures_are_those_of_the_pictures():
    compared = comparison((1, 4, 0, 2))
    psnrs = [pair.psnr_db for pair in compared.pairs]
    assert psnrs == [pytest.approx(off_by(1)), pytest.approx(off_by(4)), None, pytest.approx(off_by(2))]
    assert compared.loss.psnr_db == pytest.approx((off_by(1) + off_by(4) + off_by(2)) / 3)
    assert compared.loss.worst_psnr_db == pytest.approx(off_by(4))
    assert (compared.worst.prompt, compared.worst.seed) == ("picture 1", 1)
    assert compared.pairs[2].ssim == 1 and compared.loss.worst_ssim == compared.pairs[1].ssim < 1
    assert compared.loss.ssim == pytest.approx(np.mean([pair.ssim for pair in compared.pairs]))
    assert compared.loss.pictures == 4


def test_errors_of_the_latents_are_relative_and_by_step():
    compared = comparison((1, 4), steps=3)
    assert compared.pairs[1].latents_error == pytest.approx((0.04, 0.08, 0.12), rel=1e-5)
    assert compared.loss.latents_error == pytest.approx((0.025, 0.05, 0.075), rel=1e-5)


@pytest.mark.parametrize(("db", "share"), [(0, 1.0), (off_by(4), 1.0), (off_by(3), 0.75), (off_by(1) + 1, 0.25)])
def test_the_share_of_pictures_that_reach_so_many_db(db, share):
    assert comparison((1, 4, 0, 2)).share_from(db - 1e-9) == share


def test_the_samples_are_the_worst_and_the_first_each_once():
    compared = comparison((1, 4, 0, 2, 8, 3, 5))
    assert [sample.pair for sample in compared.samples] == [4, 6, 1, 0, 2]
    worst = compared.samples[0]
    assert np.all(worst.other.astype(int) - worst.reference == 8)


@pytest.mark.parametrize("steps", [1, 2])
def test_equal_pictures_lose_nothing(steps):
    loss = comparison((0, 0), steps=steps).loss
    assert (loss.psnr_db, loss.worst_psnr_db, loss.ssim, loss.worst_ssim) == (None, None, 1, 1)
    assert loss.latents_error == (0,) * steps


def test_as_many_pictures_must_be_drawn_with_both():
    with pytest.raises(ValueError, match="zip"):
        compare(REFERENCE, OTHER, [drawing("a"), drawing("b")], [drawing("a")])


def test_the_document_is_json_without_pictures():
    compared = comparison()
    written = json.loads(json.dumps(document(compared), allow_nan=False))
    assert written["reference"]["parts"]["unet"] == {"precision": "fp32", "bytes": 30_000_000}
    assert written["worst"]["prompt"] == "picture 4" and len(written["pairs"]) == 7
    assert written["settings"]["steps"] == 3 and "prompt" not in written["settings"]
    assert "samples" not in written


@pytest.mark.parametrize(
    ("offs", "gates", "missed"),
    [
        ((1, 4), Gates(), []),
        ((1, 4), Gates(off_by(2) - 0.01, off_by(4) - 0.01), []),
        ((1, 4), Gates(off_by(2) + 0.01, off_by(4) - 0.01), ["mean"]),
        ((1, 4), Gates(off_by(2) - 0.01, off_by(4) + 0.01), ["worst"]),
        ((1, 4), Gates(99, 99), ["mean", "worst"]),
        ((1, 4), Gates(math.nan), ["mean"]),
        ((0, 0), Gates(99, 99), []),
    ],
)
def test_gates(offs, gates, missed):
    loss = comparison(offs).loss
    if not missed:
        check_gates(loss, gates)
        return
    with pytest.raises(FidelityError) as caught:
        check_gates(loss, gates)
    assert [name for name in ("mean", "worst") if f"{name} PSNR: got" in str(caught.value)] == missed


@pytest.fixture
def fakes(monkeypatch):
    """Stands for two bundles: the built-in one, and as `changes` say; returns calls and pipelines by name."""
    calls, pipelines, changes = {"one": [], "two": []}, {}, {}

    def load(name, engine):
        bundle = replace(BUNDLE, manifest=changes[name](BUNDLE.manifest)) if name in changes else BUNDLE
        pipelines[name] = pipeline_of(bundle, calls[name])
        return pipelines[name]

    monkeypatch.setattr("latentrt_calib.evaluate.compare.load", load)
    return calls, pipelines, changes


def test_two_equal_bundles_draw_equal_pictures(fakes):
    calls, pipelines, _ = fakes
    pictures = []
    compared = DRAW(advance=lambda: pictures.append(len(named(calls["two"], "unet"))))
    assert compared.loss.psnr_db is None and compared.loss.pictures == 3
    assert [(pair.prompt, pair.seed) for pair in compared.pairs] == [("a cat", 0), ("a dog", 1), ("a cat", 2)]
    assert pictures[:3] == [0, 0, 0] and len(pictures) == 6  # the first bundle is done before the second begins
    assert all(engine.closed for pipeline in pipelines.values() for engine in pipeline.engines.values())


def test_a_bundle_that_answers_otherwise_is_off(fakes):
    _, _, changes = fakes
    schedule = BUNDLE.manifest.schedule
    changes["two"] = lambda manifest: replace(manifest, schedule=replace(schedule, beta_end=schedule.beta_end * 1.01))
    errors = DRAW().loss.latents_error
    assert 0 < errors[0] < 0.2 and 0 < errors[1] < 0.2


def test_the_defaults_of_the_reference_hold_for_both(fakes):
    calls, _, changes = fakes
    changes["two"] = lambda manifest: replace(manifest, defaults=replace(manifest.defaults, steps=9, guidance=1.0))
    compared = compare_bundles("one", "two", ("a cat",), images=1, **SMALL)
    assert compared.settings["steps"] == BUNDLE.manifest.defaults.steps
    assert len(named(calls["two"], "unet")) == len(named(calls["one"], "unet")) and compared.loss.psnr_db is None


@pytest.mark.parametrize("change", [{"factor": 16}, {"channels": 16}])
def test_bundles_without_a_common_latent_are_refused(fakes, change):
    calls, _, changes = fakes
    changes["two"] = lambda manifest: replace(manifest, latents=replace(manifest.latents, **change))
    with pytest.raises(BundleError, match="compare two bundles of one model"):
        DRAW()
    assert not calls["one"]


def test_what_only_the_second_bundle_cannot_do_is_found_before_the_first_begins(fakes):
    calls, _, changes = fakes
    changes["two"] = lambda manifest: replace(manifest, text=replace(manifest.text, layers=1))
    with pytest.raises(RequestError, match="clip_skip: got 2"):
        DRAW(clip_skip=2)
    assert not calls["one"]


def test_a_side_counts_the_bytes_on_disk():
    side = bundle_summary(BUNDLE)
    assert side.bytes == sum(
        path.stat().st_size for path in BUNDLE.folder.rglob("*") if path.name != "bundle.json" and path.is_file()
    )
    assert side.parts["unet"].bytes == (BUNDLE.folder / "unet.onnx").stat().st_size


def test_the_built_in_model_is_equal_to_itself():
    compared = compare_bundles("emoji", "emoji", read_prompts(EVALUATION), images=1, steps=2, width=24, height=16)
    assert compared.loss.psnr_db is None and compared.loss.latents_error == (0, 0)


def test_the_prompts_that_ship_are_a_hundred_and_not_those_of_calibration():
    prompts = read_prompts(EVALUATION)
    assert len(set(prompts)) == len(prompts) == 100
    assert not set(prompts) & set(read_prompts(SHIPPED))
