"""Pictures of the latent diffusion paper's models against diffusers' pipelines, and short loops where it has none."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from diffusers import LDMPipeline
from PIL import Image

from latentrt.errors import RequestError
from tests.export.ldm import pixels, psnr, scheduler
from tests.export.ldm_pairs import BOXES, KINDS, Case
from tests.sweep import sweep

pytestmark = [pytest.mark.usefixtures("one_thread"), sweep]

LEAST_DB = 110.0
CASES = [(kind, case) for kind, (_, cases) in KINDS.items() for case in cases]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Makes a kind of model, once."""
    made = {}

    def pair(kind):
        if kind not in made:
            made[kind] = KINDS[kind][0](tmp_path_factory.mktemp(kind.replace(" ", "_")))
        return made[kind]

    return pair


@pytest.mark.parametrize(("kind", "case"), CASES, ids=lambda one: one if isinstance(one, str) else f"{one.steps}")
def test_pictures(pairs, kind, case):
    assert pairs(kind).psnr(case) >= LEAST_DB


@pytest.mark.parametrize("steps", [1, 2, 20])
def test_unconditional_against_the_pipeline(pairs, steps):
    pair = pairs("unconditional")
    unet, stage = pair.modules
    theirs = LDMPipeline(vqvae=stage, unet=unet, scheduler=scheduler())
    theirs.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    expected = theirs(generator=generator, num_inference_steps=steps, output_type="np", return_dict=False)[0]
    assert psnr(pixels(pair.ours, seed=0, steps=steps, eta=0.0), expected) >= LEAST_DB


def test_the_picture_outside_the_mask_is_put_back(pairs):
    pair, case = pairs("inpainting"), Case(2, seeds=(0, 1, 2))
    image, mask = (np.asarray(pair.request[name]) for name in ("init", "mask"))
    result = pair.ours.generate(**pair.request, steps=2, seed=0, batch=3)
    for picture, wanted in zip(result.images, pair.theirs(case), strict=True):
        whole = np.where(mask[..., None], wanted, image / 255)
        assert np.abs(np.asarray(picture) / 255 - whole).max() <= 1 / 255


def test_a_layout_in_metadata_makes_the_picture_again(pairs, tmp_path):
    ours = pairs("layouts").ours
    result = ours.generate(layout=BOXES, steps=1, seed=0)
    result.save(tmp_path / "boxes.png")
    with Image.open(tmp_path / "boxes.png") as picture:
        layout = json.loads(picture.info["latentrt"])["layout"]
    assert ours.generate(layout=layout, steps=1, seed=0).images[0].tobytes() == result.images[0].tobytes()


def test_the_class_goes_into_the_picture_s_metadata(pairs, tmp_path):
    pairs("classes").ours.generate(class_label="tench", steps=1, seed=0).save(tmp_path / "tench.png")
    with Image.open(tmp_path / "tench.png") as picture:
        assert json.loads(picture.info["latentrt"])["class_label"] == 0


def test_a_codebook_s_nearest_vectors_are_float64_s(pairs):
    pair = pairs("unconditional")
    latents = np.random.default_rng(0).standard_normal((2, 3, 40, 36)).astype(np.float32)
    codebook = pair.modules[1].quantize.embedding.weight.detach().double().numpy()
    vectors = latents.transpose(0, 2, 3, 1).reshape(-1, 3)
    nearest = ((vectors[:, None].astype(np.float64) - codebook) ** 2).sum(-1).argmin(1)
    expected = codebook[nearest].reshape(2, 40, 36, 3).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(pair.ours.quantized(latents), expected.astype(np.float32))


LABELS, VECTORS, WHOLE = np.zeros((64, 64), np.int64), np.ones((2, 24), np.float32), [0, 0, 1, 1]
UNKNOWN = LABELS.copy()
UNKNOWN[3, 5] = 182
REFUSED = [
    ("classes", {}, "got none, but class draws a class; give 0 to 999 or a name"),
    ("classes", {"class_label": 1001}, "got 1001, expected a whole number from 0 to 999"),
    ("classes", {"class_label": -1}, "got -1, expected a whole number from 0 to 999"),
    ("classes", {"class_label": True}, "got True, expected a whole number"),
    ("classes", {"class_label": "golden retreiver"}, "no class of the model; expected 'golden retriever'"),
    ("classes", {"class_label": "crane"}, "the name of 134 and 517; give the number"),
    ("classes", {"class_label": 1, "prompt": "a dog"}, "takes no prompt; give a class"),
    ("classes", {"class_label": 1, "width": 62}, "width: got 62, expected a multiple of 4"),
    ("unconditional", {"prompt": "a dog"}, "takes no prompt; leave it out"),
    ("unconditional", {"guidance": 3.0}, "no unconditional input to guide from"),
    ("unconditional", {"class_label": 3}, "takes no class"),
    ("unconditional", {"segmentation": LABELS}, "takes no label map; leave it out"),
    ("unconditional", {"vectors": VECTORS}, "vectors: got some, but checkpoint takes none"),
    ("unconditional", {"layout": BOXES}, "layout: got some, but checkpoint takes none"),
    ("unconditional", {"width": 60}, "expected a multiple of 16; the nearest are 48 or 64"),
    ("super-resolution", {}, "init: got none, but checkpoint upscales a picture"),
    ("label maps", {}, "segmentation: got none, but labels draws from a label map; give one"),
    ("label maps", {"segmentation": UNKNOWN}, "got the label 182 at pixel 5, 3, expected 0 to 181"),
    ("label maps", {"segmentation": LABELS, "width": 128}, "got 64x64 pixels, expected 128x64"),
    ("label maps", {"segmentation": LABELS[:60]}, "segmentation: got 64x60 pixels, expected 64x48"),
    ("label maps", {"segmentation": LABELS.astype(float)}, "expected an image, its file, or labels"),
    ("label maps", {"segmentation": Image.new("RGB", (64, 64))}, "got an image of mode RGB, expected one number"),
    ("label maps", {"segmentation": "none.png"}, "is not a readable image"),
    ("vectors", {}, "vectors: got none, but rdm draws from vectors; give some"),
    ("vectors", {"vectors": VECTORS[:, :20]}, r"got the shape \(2, 20\), expected 1 to 64 vectors, \(vectors, 24\)"),
    ("vectors", {"vectors": VECTORS * 0}, "got one of zeros"),
    ("vectors", {"vectors": VECTORS * np.nan}, "not finite"),
    ("vectors", {"vectors": "none.npy"}, "is not a readable .npy file"),
    ("vectors", {"vectors": [[1.0] * 24]}, "expected floats"),
    ("layouts", {}, "layout: got none, but boxes draws from layout; give some"),
    ("layouts", {"layout": [{"label": 1, "box": [0.5, 0, 0.6, 1]}]}, r"layout\[0\]\.box: got .* not inside"),
    ("layouts", {"layout": [{"label": 1, "box": [0, 0, 0, 1]}]}, "not inside the picture"),
    ("layouts", {"layout": [{"label": 1, "box": [0, 0, "x", 1]}]}, "expected left, top, width and height"),
    ("layouts", {"layout": [{"label": 8191, "box": WHOLE}]}, "got 8191, expected a whole number from 0 to 8190"),
    ("layouts", {"layout": [{"label": "dog", "box": WHOLE}]}, "label: got 'dog', expected a whole number"),
    ("layouts", {"layout": [{"label": 1, "box": WHOLE}] * 31}, "got 31 boxes, expected at most 30"),
    ("layouts", {"layout": [{"box": WHOLE}]}, "expected a label and a box"),
    ("layouts", {"layout": {"label": 1}}, "expected a list of boxes"),
    ("layouts", {"layout": "none.json"}, "is not a readable JSON file"),
]


@pytest.mark.parametrize(("kind", "options", "message"), REFUSED, ids=[message[:40] for _, _, message in REFUSED])
def test_what_is_refused(pairs, kind, options, message):
    with pytest.raises(RequestError, match=message):
        pairs(kind).ours.generate(steps=1, **options)
