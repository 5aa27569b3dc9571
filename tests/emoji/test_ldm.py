"""The models of the latent diffusion paper's form: what they learn from, one step of each, and their checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from emoji import cutouts, index, training
from emoji.ldm import checkpoint, classes, first_stage, latents, pictures, super_resolution
from tests.sweep import sweep

LABELS = ("hammer", "owl", "rocket", "cat face")
GROUPS = ("objects", classes.GROUP, classes.GROUP, classes.GROUP)


@pytest.fixture
def small_set(tmp_path, monkeypatch):
    """Four pictures, of which three are classes, and a folder for all that is made of them."""
    rng = np.random.default_rng(0)
    rows = []
    for number, (label, group) in enumerate(zip(LABELS, GROUPS, strict=True)):
        pixels = np.zeros((256, 256, 4), np.uint8)
        pixels[30 * number : 30 * number + 120, 60:200] = [*rng.integers(0, 256, 3), 255]
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        rows.append(SimpleNamespace(path=tmp_path / f"{number}.png", label=label, group=group))
    monkeypatch.setattr(index, "load", lambda: rows)
    for module in (cutouts, training):
        monkeypatch.setattr(module, "FOLDER", tmp_path)
    for name in ("LARGE", "SMALL"):
        monkeypatch.setattr(latents, name, tmp_path / f"{name}.npz")
    for name in ("CLASSES", "UPSCALER"):
        monkeypatch.setattr(checkpoint, name, tmp_path / name)
    monkeypatch.setattr(first_stage, "CODES", 16)
    for cached in (pictures.all_cutouts, classes.pictures):
        cached.cache_clear()
    yield tmp_path
    for cached in (pictures.all_cutouts, classes.pictures):
        cached.cache_clear()


def given(steps=1, batch=2):
    return SimpleNamespace(steps=steps, batch=batch, workers=0)


def trained(module, monkeypatch, steps=1, batch=2):
    """Trains a stage for some steps."""
    monkeypatch.setattr(training, "arguments", lambda *_: given(steps, batch))
    module.main()


def test_a_small_pixel_is_the_mean_of_the_large_ones_beside_it(small_set):
    large = pictures.large(0, 3)
    small = pictures.reduced(large)
    assert small.shape == (3, 64, 64)
    np.testing.assert_allclose(small[:, 20, 30], large[:, 80:84, 120:124].mean((1, 2)), atol=1e-6)


def test_a_cut_outs_file_is_there_when_it_is_whole(small_set):
    def made(row):
        assert not (small_set / "some.npy").exists()  # another process would read half of it
        return np.full((2, 2, 4), 0.2, np.float32)

    expected = np.full((4, 2, 2, 4), 51, np.uint8)
    np.testing.assert_array_equal(cutouts.cached("some.npy", made), expected)
    np.testing.assert_array_equal(cutouts.cached("some.npy", pytest.fail), expected)
    assert not list(small_set.glob("*.some.npy"))


def test_crops_are_of_both_sizes(small_set):
    crops = pictures.crops(8, 64, np.random.default_rng(0))
    assert crops.shape == (8, 3, 64, 64)
    assert crops.min() >= -1 and crops.max() <= 1


def test_the_codebook_is_filled_by_latents(small_set, monkeypatch):
    monkeypatch.setattr(first_stage, "SHOWN", 20)
    monkeypatch.setattr(first_stage, "WITHOUT_CODEBOOK", 1)
    trained(first_stage, monkeypatch, steps=2)
    found = first_stage.trained()
    shown = pictures.crops(20, 64, np.random.default_rng((training.SEED, first_stage.STAGE)))
    spread = first_stage.encoded(found, shown).movedim(1, -1).reshape(-1, 3)
    nearest = torch.cdist(spread, found.quantize.embedding.weight.cpu()).min(1).values
    assert nearest.mean() < spread.std()


def test_a_crop_of_latents_lies_beside_the_same_crop_of_the_small_picture():
    places = np.arange(64 * 64, dtype=np.float16).reshape(64, 64) % 200
    both = np.tile(places, (2, 3, 1, 1))
    stored = latents.LargeLatents(both, both.astype(np.uint8), 1.0)
    clean, low = super_resolution.drawn(stored, 4, 0)
    assert clean.shape == low.shape == (4, 3, 32, 32)
    np.testing.assert_allclose((low + 1) * 127.5, clean, atol=1e-3)


@pytest.mark.usefixtures("small_set")
def test_a_tenth_of_the_labels_stands_for_none():
    own = np.broadcast_to(np.arange(4, dtype=np.float16).reshape(4, 1, 1, 1, 1), (4, 16, 3, 16, 16))
    shown, labels = classes.drawn(latents.SmallLatents(own, 1.0), 2000, 0)
    assert set(labels.tolist()) == set(range(4))
    assert 0.07 < (labels == 3).float().mean() < 0.13
    named = labels < 3
    assert (shown[named, 0, 0, 0] == labels[named] + 1).all()  # the first picture is of another group


@sweep
def test_the_checkpoints_are_exported_and_drawn(small_set, monkeypatch):
    import latentrt
    from latentrt_export.export import ExportOptions, export

    trained(first_stage, monkeypatch)
    latents.main()
    for module in (classes, super_resolution):
        trained(module, monkeypatch)
    checkpoint.main()
    for folder in (checkpoint.CLASSES, checkpoint.UPSCALER):
        export(folder, Path(f"{folder}-bundle"), ExportOptions())
    names = json.loads((checkpoint.CLASSES / "class_embedding" / "config.json").read_text())["names"]
    assert names == [*LABELS[1:]]
    with latentrt.load(f"{checkpoint.CLASSES}-bundle", engine="onnxruntime") as pipe:
        image = pipe.generate(class_label="rocket", steps=2, seed=1).images[0]
        assert image.size == (64, 64)
    with latentrt.load(f"{checkpoint.UPSCALER}-bundle", engine="onnxruntime") as pipe:
        assert latentrt.upscale(pipe, image, steps=2).image.size == (256, 256)
