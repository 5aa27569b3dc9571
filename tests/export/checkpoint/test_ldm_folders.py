"""Folders of diffusers' modules for models that diffusers has no pipeline for: the family's name stands for one's."""

import json
from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel, UNet2DModel, VQModel
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel
from safetensors.torch import save_file
from torch import nn

from latentrt.errors import CheckpointError
from latentrt_export.checkpoint.classes import classes_of
from latentrt_export.checkpoint.load import load_checkpoint
from latentrt_export.export import ExportOptions, export
from tests.export import compvis, tiny
from tests.export.ldm import FIRST_STAGE, KL, RESAMPLING, UNET, same, saved, scheduler
from tests.export.ldm_pairs import BERT, ONE_TOKEN_UNET
from tests.sweep import sweep

CONDITION = "cond_stage_model."
NAMES = ["red apple", "pear, green pear", "none of them"]
# The UNet, the first stage, and what conditions it: its component, its config and its module.
TABLE = ("class_embedding", {"num_embeddings": 4, "embedding_dim": 24}, lambda: nn.Embedding(4, 24))
MAPPER = ("segmentation", {"labels": 182, "channels": 3}, lambda: nn.Conv2d(182, 3, 1, bias=False))
ENCODER = ("layout_encoder", {**BERT, "model_type": "ldmbert"}, lambda: LDMBertModel(LDMBertConfig(**BERT)))
KL_UNET = {
    **ONE_TOKEN_UNET,
    "in_channels": 4,
    "out_channels": 4,
    "attention_head_dim": (2, 4),
    "down_block_types": ("CrossAttnDownBlock2D",) * 2,
    "up_block_types": ("CrossAttnUpBlock2D",) * 2,
}
INPAINTING = {**RESAMPLING, "in_channels": 7, "out_channels": 3}
MODELS = {
    "ldm-class": (UNet2DConditionModel, ONE_TOKEN_UNET, VQModel, FIRST_STAGE, TABLE),
    "ldm-inpainting": (UNet2DModel, INPAINTING, VQModel, FIRST_STAGE, None),
    "ldm-semantic": (UNet2DModel, {**UNET, "in_channels": 6}, VQModel, FIRST_STAGE, MAPPER),
    "ldm-layout": (UNet2DConditionModel, ONE_TOKEN_UNET, VQModel, FIRST_STAGE, ENCODER),
    "rdm": (UNet2DConditionModel, KL_UNET, AutoencoderKL, KL, None),
}
# Names of tensors in an original file, by component.
ORIGINAL = {
    "class_embedding": lambda module: {f"{CONDITION}embedding.weight": module.weight},
    "segmentation": lambda module: {f"{CONDITION}channel_mapper.weight": module.weight},
    "layout_encoder": compvis.bert_tensors,
}


def written(path, name, stage_folder="vqvae", more=None):
    """Writes a model as a folder and as a file with configs; returns the three paths. more: entries of its config."""
    unet_kind, unet_config, stage_kind, stage_config, condition = MODELS[name]
    unet = tiny.seeded(lambda: unet_kind(**unet_config)).eval()
    stage = tiny.seeded(lambda: stage_kind(**stage_config)).eval()
    folder, configs, tensors = path / "folder", {}, {}
    unet.save_pretrained(folder / "unet")
    stage.save_pretrained(folder / stage_folder)
    scheduler().save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": name}))
    if condition:
        part, config, build = condition
        module = tiny.seeded(build)
        configs, tensors = {part: {**config, **(more or {})}}, ORIGINAL[part](module)
        (folder / part).mkdir()
        (folder / part / "config.json").write_text(json.dumps(configs[part]))
        held = {key: one.detach().contiguous().clone() for key, one in module.state_dict().items()}
        save_file(held, folder / part / "model.safetensors")
    file, known = saved(path, unet, stage, configs, **tensors)
    return folder, file, known


@pytest.mark.parametrize("stage_folder", ["vae", "vqvae"])
@pytest.mark.parametrize("name", MODELS)
def test_a_folder_is_the_original_file(name, stage_folder, tmp_path):
    folder, file, configs = written(tmp_path, name, stage_folder)
    got, expected = load_checkpoint(folder), load_checkpoint(file, configs=configs)
    assert got.family.name == name
    same(got, expected)
    assert got.scheduler["beta_end"] == expected.scheduler["beta_end"] == 0.0195


@sweep
def test_a_folder_gives_the_bundle_of_the_original_file(tmp_path):
    folder, file, configs = written(tmp_path, "ldm-class", "vae", {"names": NAMES, "unconditional": 3})
    ours = export(folder, tmp_path / "bundle", ExportOptions(name="x"))
    expected = export(file, tmp_path / "expected", ExportOptions(name="x", configs=configs))
    assert ours.files == expected.files and ours.family == "ldm-class"
    assert replace(ours, provenance={}) == replace(expected, provenance={})
    assert (ours.classes.count, ours.classes.unconditional, ours.classes.names) == (3, 3, tuple(NAMES))


def test_a_folder_may_list_its_parts(tmp_path):
    folder, _, _ = written(tmp_path, "ldm-class")
    parts = {"unet": ["diffusers", "UNet2DConditionModel"], "vqvae": ["diffusers", "VQModel"]}
    index = {"_class_name": "ldm-class", **parts, "class_embedding": ["torch", "Embedding"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    assert load_checkpoint(folder).family.name == "ldm-class"
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "ldm-class", **parts}))
    with pytest.raises(CheckpointError, match="names unet, vqvae, expected unet, vqvae, class_embedding"):
        load_checkpoint(folder)


def test_a_folder_of_another_family_is_refused(tmp_path):
    folder, _, _ = written(tmp_path, "ldm-class")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "ldm-semantic"}))
    with pytest.raises(CheckpointError, match="ldm-semantic: its model_index.json names .*class_embedding, expected"):
        load_checkpoint(folder)


def test_an_unknown_tensor_of_a_layout_encoder_is_refused(tmp_path):
    folder, _, _ = written(tmp_path, "ldm-layout")
    file = folder / "layout_encoder" / "model.safetensors"
    module = tiny.seeded(ENCODER[2])
    more = {"model.layers.2.fc1.weight": torch.ones(2)}
    save_file({**{key: one.detach().clone() for key, one in module.state_dict().items()}, **more}, file)
    with pytest.raises(CheckpointError, match=r"the layout_encoder in .* unexpected: model.layers.2.fc1.weight"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("entries", "count", "unconditional", "names"),
    [
        ({"names": NAMES, "unconditional": 3}, 3, 3, NAMES),
        ({"names": [*NAMES, "more"]}, 4, None, [*NAMES, "more"]),
        ({"names": [*NAMES, "more"], "unconditional": 0}, 4, 0, [*NAMES, "more"]),
        ({"unconditional": 3}, 3, 3, []),
        ({}, 4, None, []),
    ],
)
def test_names_and_the_row_for_none(entries, count, unconditional, names):
    found = classes_of({"num_embeddings": 4, "embedding_dim": 24, **entries})
    assert (found.count, found.unconditional, found.names) == (count, unconditional, tuple(names))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"names": NAMES}, "has 3 names, expected 4"),
        ({"names": NAMES, "unconditional": 0}, "has 3 names, expected 4"),
        ({"unconditional": 4}, "has unconditional 4, expected a row from 0 to 3"),
        ({"unconditional": True}, "has unconditional True"),
        ({"names": "apple"}, "has names 'apple', expected a list of texts"),
        ({"names": ["a", 2, "b", "c"]}, "expected a list of texts"),
    ],
)
def test_names_that_do_not_fit_are_refused_before_anything_is_traced(tmp_path, entries, message):
    folder, _, _ = written(tmp_path, "ldm-class", more=entries)
    lines = []
    with pytest.raises(CheckpointError, match=message):
        export(folder, tmp_path / "bundle", ExportOptions(), lines.append)
    assert not lines
