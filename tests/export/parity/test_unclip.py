"""Pictures of small unCLIP models against diffusers' pipelines."""

from __future__ import annotations

import json

import numpy as np
import pytest
from diffusers import StableUnCLIPImg2ImgPipeline
from PIL import Image
from safetensors.torch import load_file

from latentrt.engines.nvidia.lowered import find
from latentrt.errors import RequestError
from latentrt.images.pillow import digest
from latentrt.request.request import Request
from latentrt.request.settings import resolve
from latentrt_export.estimate.estimate import calls_of
from latentrt_export.lower.tensorrt import lower
from tests.export import loras
from tests.export.ldm import pixels, psnr
from tests.export.tiny_families import module_of
from tests.export.unclip_pairs import CONFIGS, KINDS, PROMPT, UnclipCase, drawn, image_pipeline, noise_image
from tests.sweep import sweep

pytestmark = [pytest.mark.usefixtures("one_thread"), sweep]

LEAST_DB = 110.0
CASES = [(kind, case) for kind, (_, cases) in KINDS.items() for case in cases]
VARIATIONS, BY_A_PRIOR = KINDS


def name_of(one):
    return one if isinstance(one, str) else f"{one.steps}-{one.guidance:g}-{one.noise_level}-{len(one.seeds)}"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Makes a kind of model, once."""
    made = {}

    def pair(kind):
        if kind not in made:
            made[kind] = KINDS[kind][0](tmp_path_factory.mktemp(kind.replace(" ", "_")))
        return made[kind]

    return pair


@pytest.mark.parametrize(("kind", "case"), CASES, ids=name_of)
def test_pictures(pairs, kind, case):
    found = pairs(kind).psnr(case)
    print(f"{found:.1f} dB")
    assert found >= LEAST_DB


def test_the_image_and_its_noise_level_change_the_picture(pairs):
    pair, case = pairs(VARIATIONS), UnclipCase(2, 10.0)
    assert pair.psnr(case, image=noise_image(50, 33, seed=1)) < 60
    assert pair.psnr(case, noise_level=500) < 60


@pytest.mark.parametrize("size", [(30, 30), (31, 200), (64, 48), (7, 9)], ids=str)
def test_images_of_any_size(pairs, size):
    pair, case = pairs(VARIATIONS), UnclipCase(1, 10.0)
    image = noise_image(*size)
    assert psnr(pixels(pair.ours, **request_of(pair, case, image=image)), pair.theirs(case, image)) >= LEAST_DB


@pytest.mark.parametrize(("steps", "guidance"), [(1, 4.0), (2, 1.0), (7, 9.0)])
def test_the_prior_s_steps_and_guidance(pairs, steps, guidance):
    pair, case = pairs(BY_A_PRIOR), UnclipCase(2, 10.0)
    found = pixels(pair.ours, **request_of(pair, case, prior_steps=steps, prior_guidance=guidance))
    theirs = {"prior_num_inference_steps": steps, "prior_guidance_scale": guidance}
    assert psnr(found, pair.theirs(case, **theirs)) >= LEAST_DB


def test_the_prior_s_prompt_changes_the_picture(pairs):
    pair, case = pairs(BY_A_PRIOR), UnclipCase(2, 1.0)
    ours, prior = pair.ours, pair.ours.engines["prior"]
    assert ours.bundle.manifest.tasks[0] == "text-to-image" and prior is not None
    found = pixels(ours, **request_of(pair, case, prompt="a green tree"))
    assert psnr(found, pair.theirs(case, prompt="a green tree")) >= LEAST_DB
    assert psnr(found, pair.theirs(case)) < 60


def test_an_empty_prompt_is_diffusers_missing_one(pairs):
    pair, case = pairs(VARIATIONS), UnclipCase(2, 10.0)
    found = pixels(pair.ours, **request_of(pair, case, prompt=""))
    assert psnr(found, pair.theirs(case, prompt="")) >= LEAST_DB


def test_a_picture_of_a_batch_is_the_one_of_its_seed(pairs):
    pair, case = pairs(VARIATIONS), UnclipCase(2, 10.0, noise_level=500)
    batch = pixels(pair.ours, **{**request_of(pair, case), "seed": 3, "batch": 3})
    for place in range(3):
        alone = pixels(pair.ours, **{**request_of(pair, case), "seed": 3 + place})
        assert psnr(batch[place : place + 1], alone) >= LEAST_DB


def test_a_prompt_in_parts_and_one_that_changes(pairs):
    pair = pairs(VARIATIONS)
    request = {**request_of(pair, UnclipCase(3, 10.0)), "syntax": "lenient", "batch": 2}
    plain, twice, changed = (
        pixels(pair.ours, **{**request, "prompt": prompt})
        for prompt in ("a red apple", "a red apple :0.5 AND a red apple :0.5", "a red [apple:pear:0.5]")
    )
    assert psnr(twice, plain) >= 100
    assert psnr(changed, plain) < 100


def test_lora_files(pairs, tmp_path, monkeypatch):
    """Of all kinds of layers, that of the embedding among them: as diffusers loads them."""
    monkeypatch.setitem(loras.LAYERS, "unet", [*loras.UNET_LAYERS, "class_embedding.linear_1"])
    pair, case, file = pairs(VARIATIONS), UnclipCase(2, 10.0), tmp_path / "diffusers.safetensors"
    modules = {name: module_of(name, CONFIGS[name]) for name in ("unet", "text_encoder")}
    loras.save_diffusers(file, StableUnCLIPImg2ImgPipeline, loras.adapters(0, modules))
    assert any("class_embedding" in key for key in load_file(file))
    plain, theirs = pair.theirs(case), image_pipeline(tmp_path / "parts")
    theirs.load_lora_weights(file)
    expected = drawn(theirs, case, pair.request["image"])
    with pair.ours.with_loras({file: 1.0}) as changed:
        found = pixels(changed, **request_of(pair, case))
    assert psnr(found, expected) >= LEAST_DB and psnr(found, plain) < 60


def test_from_an_image_under_a_mask_and_in_tiles(pairs):
    pair = pairs(VARIATIONS)
    request = {**request_of(pair, UnclipCase(4, 10.0)), "init": noise_image(96, 64), "batch": 2}
    mask = Image.fromarray(np.tri(64, 96, dtype=bool))
    for more in ({"strength": 0.5}, {"mask": mask}, {"window": 64, "stride": 32}):
        images = pair.ours.generate(**request, **more).images
        assert len(images) == 2 and images[0].tobytes() != images[1].tobytes()


def test_two_passes_keep_the_embedding(pairs):
    pair = pairs(VARIATIONS)
    request = request_of(pair, UnclipCase(2, 10.0, noise_level=500))
    result = pair.ours.generate(**request, hires=1.5, batch=2)
    assert [image.size for image in result.images] == [(144, 96)] * 2


def test_metadata_has_the_image_s_hash_and_the_noise_level(pairs, tmp_path):
    pair = pairs(VARIATIONS)
    pair.ours.generate(**request_of(pair, UnclipCase(1, noise_level=7))).save(tmp_path / "varied.png")
    with Image.open(tmp_path / "varied.png") as picture:
        record = json.loads(picture.info["latentrt"])
    assert record["noise_level"] == 7 and record["image"] == digest(pair.request["image"])


def test_defaults_are_the_pipeline_s(pairs):
    manifest = pairs(VARIATIONS).ours.bundle.manifest
    assert manifest.tasks == ("image-variation", "image-to-image", "inpainting")
    assert (manifest.defaults.steps, manifest.defaults.guidance) == (20, 10.0)
    assert manifest.image_embedding.noise_levels == 1000


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_and_lowering(kind, tmp_path):
    pair = KINDS[kind][0](tmp_path, precision="fp16")
    assert pair.psnr(UnclipCase(2, 10.0, noise_level=500)) >= 30
    bundle = pair.ours.bundle
    lower(bundle, tmp_path / "plans", "operator")
    for name in bundle.manifest.components:
        record = find(bundle, [tmp_path / "plans"], name, "operator").lowered
        print(name, record.floats, record.fidelity)
        assert record.floats == ("fp32" if name == "noise_augmentor" else "fp16")
        assert (record.fidelity.psnr_db or 100) > 50


@pytest.mark.parametrize(("kind", "expected"), [(VARIATIONS, {"image_embedder": 1}), (BY_A_PRIOR, {"prior": 14})])
def test_estimates_count_what_makes_the_embedding(pairs, kind, expected):
    pair = pairs(kind)
    options = {"prior_steps": 7} if kind == BY_A_PRIOR else {}
    settings = resolve(Request(**pair.request, batch=2, **options), pair.ours.bundle.manifest)
    calls = calls_of(pair.ours.bundle, settings)
    assert {name: calls[name].times for name in expected} == expected
    assert calls["noise_augmentor"].times == 2


IMAGE = noise_image(40, 40)
REFUSED_BY_A_PRIOR = [
    ({"image": IMAGE}, "makes no variations of images; give init to start from an image"),
    ({"noise_level": 1000}, "noise_level: got 1000, expected a whole number from 0 to 999"),
    ({"prior_steps": 0}, "prior_steps: got 0, expected a whole number from 1 to 1000"),
    ({"prior_steps": 1001}, "prior_steps: got 1001, expected a whole number from 1 to 1000"),
    ({"prior_guidance": "high"}, "prior_guidance: got 'high', expected a finite number"),
]
REFUSED = [
    ({"image": IMAGE, "prior_steps": 9}, "prior_steps: got 9, but checkpoint has no prior; leave it out"),
    ({}, "image: got none, but checkpoint draws variations of an image; give one"),
    ({"image": IMAGE, "noise_level": 1000}, "noise_level: got 1000, expected a whole number from 0 to 999"),
    ({"image": IMAGE, "noise_level": -1}, "noise_level: got -1, expected a whole number from 0 to 999"),
    ({"image": IMAGE, "noise_level": 0.5}, "noise_level: got 0.5, expected a whole number"),
    ({"image": np.zeros((4, 4, 3))}, "image: got .* expected an image or the path of its file"),
    ({"image": "none.png"}, "image: none.png is not a readable image"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=[message[:30] for _, message in REFUSED])
def test_what_is_refused(pairs, options, message):
    with pytest.raises(RequestError, match=message):
        pairs(VARIATIONS).ours.generate(PROMPT["prompt"], steps=1, **options)


@pytest.mark.parametrize(("options", "message"), REFUSED_BY_A_PRIOR, ids=[text[:30] for _, text in REFUSED_BY_A_PRIOR])
def test_what_a_model_with_a_prior_refuses(pairs, options, message):
    with pytest.raises(RequestError, match=message):
        pairs(BY_A_PRIOR).ours.generate("an apple", steps=1, **options)


def request_of(pair, case, **changes):
    """The request of a case with one seed."""
    numbers = {"steps": case.steps, "guidance": case.guidance, "noise_level": case.noise_level, "seed": case.seeds[0]}
    return {**pair.request, **numbers, **changes}
