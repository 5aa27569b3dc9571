"""Folders of unCLIP models: what they become, and what is refused with the reason."""

import json

import pytest
import torch
from safetensors.torch import save_file

from latentrt.errors import CheckpointError
from latentrt_export.checkpoint.image_embeddings import embedding_of
from latentrt_export.checkpoint.load import load_checkpoint
from tests.export.unclip_pairs import WIDTH, image_pipeline, text_pipeline


@pytest.fixture
def folder(tmp_path):
    """A folder of StableUnCLIPImg2ImgPipeline."""
    image_pipeline(tmp_path / "parts").save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def changed(file, **entries):
    """Changes entries of a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


def test_the_image_s_parts_are_components(folder):
    checkpoint = load_checkpoint(folder)
    assert checkpoint.family.name == "sd2-unclip" and checkpoint.left_out == ()
    augmentor = checkpoint.components["noise_augmentor"].load()
    assert augmentor.mean.shape == (1, WIDTH) and len(augmentor.signal) == 1000
    assert checkpoint.components["image_embedder"].load().config.projection_dim == WIDTH


@pytest.mark.parametrize(
    ("file", "entries", "message"),
    [
        ("feature_extractor/preprocessor_config.json", {"image_mean": [0.5] * 3}, r"got image_mean \[0.5, 0.5, 0.5\]"),
        ("feature_extractor/preprocessor_config.json", {"crop_size": 24}, "got crop_size 24, expected 30"),
        ("feature_extractor/preprocessor_config.json", {"resample": 2}, "got resample 2, expected 3"),
        ("unet/config.json", {"class_embed_type": "timestep"}, "class_embed_type 'timestep', expected 'projection'"),
        ("unet/config.json", {"class_embeddings_concat": True}, "class_embeddings_concat True, expected False"),
        (
            "image_normalizer/config.json",
            {"embedding_dim": 32},
            "class_embeddings_input_dim is 48, expected 64",
        ),
        ("image_encoder/config.json", {"projection_dim": 32}, "image_encoder projection_dim is 32, expected 24"),
        ("image_noising_scheduler/scheduler_config.json", {"beta_schedule": "odd"}, "cannot be built: odd"),
    ],
)
def test_configs_that_do_not_fit(folder, file, entries, message):
    changed(folder / file, **entries)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", ["image_noising_scheduler", "image_normalizer", "image_encoder", "feature_extractor"])
def test_a_missing_folder_is_named(folder, name):
    (folder / name).rename(folder / f"not_{name}")
    with pytest.raises(CheckpointError, match=name):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            {"_class_name": "UnCLIPScheduler"},
            "got _class_name 'UnCLIPScheduler', expected 'DDPMScheduler'; save",
        ),
        ({"prediction_type": "epsilon"}, "got prediction_type 'epsilon', expected 'sample'"),
        ({"variance_type": "learned"}, "got variance_type 'learned', expected 'fixed_small' or 'fixed_small_log'"),
    ],
)
def test_priors_of_other_schedulers(tmp_path, entries, message):
    text_pipeline(tmp_path / "parts").save_pretrained(tmp_path / "checkpoint")
    assert load_checkpoint(tmp_path / "checkpoint").family.name == "sd2-unclip-prior"
    changed(tmp_path / "checkpoint" / "prior_scheduler" / "scheduler_config.json", **entries)
    with pytest.raises(CheckpointError, match=message):
        embedding_of(load_checkpoint(tmp_path / "checkpoint"))


def test_the_original_file_is_refused_with_the_reason(tmp_path):
    keys = {
        "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 1024),
        "model.diffusion_model.label_emb.0.0.weight": (1280, 2048),
        "embedder.model.visual.proj": (1280, 1024),
    }
    file = tmp_path / "sd21-unclip-h.safetensors"
    save_file({key: torch.zeros(shape, dtype=torch.float16) for key, shape in keys.items()}, file)
    with pytest.raises(CheckpointError, match="unCLIP model without the statistics of its image embedding"):
        load_checkpoint(file)
