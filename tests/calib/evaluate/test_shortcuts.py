"""Settings that compute less: their share of the work, their loss, and the presets that are made of them."""

import json
import shutil
from dataclasses import replace

import pytest
from click.testing import CliRunner

import latentrt
from latentrt.bundle.catalog import MODELS
from latentrt.bundle.folder import open_bundle
from latentrt.bundle.quantization import PictureLoss
from latentrt.cli import cli
from latentrt.request.request import Request
from latentrt.request.settings import resolve
from latentrt_calib.evaluate.generate import requests_of
from latentrt_calib.evaluate.shortcuts import Shortcut, Shortcuts
from latentrt_calib.evaluate.work import Work, fewer_steps
from latentrt_calib.presets import candidates, save_presets

SMALL = {"width": 64, "height": 64, "steps": 6}
# Multiply-adds of the built-in model's shallow UNet, of the whole one's.
SHALLOW = 0.200


@pytest.fixture(scope="module")
def bundle():
    return open_bundle(MODELS / "emoji", verify=False)


@pytest.fixture(scope="module")
def work(bundle):
    return Work(bundle)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"cache": 3}, (8 + 12 * SHALLOW) / 20),
        ({"cache": 2}, (11 + 9 * SHALLOW) / 20),
        ({"cache": 3, "cache_of": "prediction"}, 8 / 20),
        ({"cache": 3, "cache_of": "features+guidance"}, (8 + 6 * SHALLOW) / 20),
        ({"cache": 3, "cache_of": "guidance"}, (8 + 6) / 20),
        ({"guidance_interval": (0.0, 20.0)}, 19 / 20),  # the first two of 20 calls have one row
        ({"steps": 10}, 0.5),
        ({"cache": 1}, 1.0),
    ],
)
def test_the_share_of_the_work(work, fields, expected):
    full = Request("a", seed=0)
    assert work.share(replace(full, **fields), full) == pytest.approx(expected, abs=0.004)


@pytest.mark.parametrize(("share", "steps", "expected"), [(0.52, 20, 10), (0.64, 20, 13), (0.01, 20, 1), (0.95, 1, 1)])
def test_fewer_steps_cost_as_much(share, steps, expected):
    assert fewer_steps(share, steps) == expected


def test_a_shortcut_is_measured_beside_fewer_steps():
    with latentrt.load("emoji", engine="onnxruntime") as pipeline:
        requests = requests_of(["a red apple", "a cat"], pipeline.bundle, images=2, **SMALL)
        measured = Shortcuts(pipeline, requests)
        off, cached = measured.measure({"cache": 1}), measured.measure({"cache": 2})
    assert (off.share, off.loss.psnr_db, off.gain_db) == (1.0, None, float("inf"))
    assert off.fewer_loss.psnr_db is None  # as many steps as before
    assert cached.fewer_steps == round(cached.share * 6) < 6
    assert cached.loss.psnr_db > cached.fewer_loss.psnr_db + 3


LOSS = PictureLoss(1, 40.0, 38.0, 0.9, 0.9, (0.1,))


def test_presets_that_pay_are_written_and_others_are_not(tmp_path, bundle):
    folder = tmp_path / "emoji"
    shutil.copytree(MODELS / "emoji", folder)
    settings = resolve(Request("a"), bundle.manifest)
    better = Shortcut(
        {"cache": 3, "cache_of": "features", "cache_order": 1}, 0.52, replace(LOSS, psnr_db=50.0), 10, LOSS
    )
    worse = Shortcut({"guidance_interval": (0.0, 9.0)}, 0.95, replace(LOSS, psnr_db=41.0), 19, LOSS)
    saved = save_presets(folder, {"fast": better, "late-guidance": worse}, settings)
    assert saved.keys() == {"fast"}
    read = open_bundle(folder).manifest.presets
    assert read == saved
    assert (read["fast"].cache, read["fast"].cache_order, read["fast"].fewer_steps) == (3, 1, 10)
    assert (read["fast"].sampler, read["fast"].steps, read["fast"].guidance) == ("ddim", 20, 2.0)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, ["careful", "fast", "fastest", "guidance", "late-guidance"]),
        ({"guidance": 1.0}, ["careful", "fast"]),
        ({"sampler": "euler_a"}, ["careful", "fast", "fastest", "guidance", "late-guidance"]),
    ],
)
def test_what_a_bundle_can_have(bundle, options, names):
    assert [*candidates(bundle.manifest, resolve(Request("a", **options), bundle.manifest))] == names


def test_a_bundle_without_a_shallow_unet_keeps_predictions_where_no_noise_is_drawn(bundle):
    manifest = bundle.manifest
    components = {name: one for name, one in manifest.components.items() if name != manifest.shallow}
    manifest = replace(manifest, components=components)
    quiet, noisy = (candidates(manifest, resolve(Request("a", sampler=one), manifest)) for one in ("ddim", "euler_a"))
    assert [*quiet] == ["careful", "fast", "guidance", "late-guidance"]
    assert quiet["fast"][1] == {"cache": 3, "cache_of": "prediction", "cache_order": 1}
    assert [*noisy] == ["guidance", "late-guidance"]


def test_many_steps_are_cached_longer(bundle):
    found = candidates(bundle.manifest, resolve(Request("a", steps=50), bundle.manifest))
    assert found["fast"][0]["cache"] == 5


def told(*arguments):
    """What a command prints, from JSON where it prints that."""
    found = CliRunner().invoke(cli, [*map(str, arguments)])
    assert found.exit_code == 0, found.output
    return json.loads(found.stdout) if "--json" in arguments else found.stdout


def test_the_commands(tmp_path):
    folder = tmp_path / "emoji"
    shutil.copytree(MODELS / "emoji", folder)
    found = told("presets", folder, "--images", 1, "--steps", 1, "--json")
    assert {name for name, one in found.items() if one["saved"]} == open_bundle(folder).manifest.presets.keys()
    compared = told("compare", folder, folder, "--images", 1, "--steps", 3, "--cache", 2, "--json")
    assert compared["shortcut"] == {"cache": 2, "cache_of": "features", "cache_order": 0}
    assert compared["fewer_steps"]["steps"] == round(compared["fewer_steps"]["share"] * 3)
    assert "of the UNet's multiply-adds" in told("compare", folder, folder, "--images", 1, "--steps", 2, "--cache", 2)
