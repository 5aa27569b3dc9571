"""What a checkpoint holds and no module here has: left out with a line, unless it would change the picture."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel, CLIPTextModel

from latentrt.errors import CheckpointError
from latentrt_export.checkpoint.load import load_checkpoint
from latentrt_export.checkpoint.match import left_out
from latentrt_export.export import ExportOptions
from tests.export import tiny
from tests.export.single import copied, saved_single
from tests.export.tiny_families import FILES, SINGLE, SMALL, reference
from tests.export.untraced import untraced

CLIP = "cond_stage_model.transformer."


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return saved_single(SINGLE, tmp_path_factory.mktemp("left out") / "sd1")


def opened(file, path, key):
    return load_checkpoint(
        copied(file, path / "more.safetensors", {key: torch.ones(2)}), configs=file.parent / "configs"
    )


@pytest.mark.parametrize(
    "key",
    [
        *(f"{CLIP}text_projection.weight", f"{CLIP}logit_scale", f"{CLIP}visual_projection.weight"),
        *(
            f"{CLIP}vision_model.encoder.layers.0.mlp.fc1.bias",
            f"{CLIP}vision_model.embeddings.position_embedding.weight",
        ),
        *("first_stage_model.loss.discriminator.main.0.weight", "first_stage_model.model_ema.num_updates"),
        *("model_ema.decay", "denoiser.sigmas", "alphas_cumprod", "global_step", "optimizer.state.0.exp_avg", "logvar"),
        "control_model.zero_convs.0.0.weight",
    ],
)
def test_what_cannot_be_read_is_left_out_and_named(file, tmp_path, key):
    found = opened(file, tmp_path, key)
    start = next(one.removesuffix("*") for one in found.left_out if key.startswith(one.removesuffix("*")))
    assert len(start) > 4
    plain = load_checkpoint(file, configs=file.parent / "configs")
    for name, component in plain.components.items():
        state = found.components[name].load().state_dict()
        assert all(torch.equal(state[one], tensor) for one, tensor in component.load().state_dict().items())


@pytest.mark.parametrize(
    ("key", "component"),
    [
        ("model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.processor.to_k_ip.weight", "unet"),
        ("model.diffusion_model.label_emb.0.0.weight", "unet"),
        ("model.diffusion_model.anything", "unet"),
        ("first_stage_model.decoder.up.7.block.0.conv1.weight", "vae"),
        (f"{CLIP}text_model.encoder.layers.9.mlp.fc1.weight", "text_encoder"),
        (f"{CLIP}text_model.embeddings.extra.weight", "text_encoder"),
    ],
)
def test_what_would_change_the_picture_is_refused(file, tmp_path, key, component):
    with pytest.raises(CheckpointError, match=f"the {component} in .*unexpected: .*{key.rsplit('.', 2)[1]}"):
        opened(file, tmp_path, key)


def test_one_line_names_all_of_it(file, tmp_path):
    more = {f"{CLIP}text_projection.weight": torch.ones(2), "global_step": torch.ones(1), "a.b": torch.ones(1)}
    lines = []
    marked = copied(file, tmp_path / "more.safetensors", more)
    folder = file.parent
    options = ExportOptions(configs=folder / "configs", tokenizer=folder / "tokenizer")
    untraced(marked, tmp_path / "out", options, lines.append)
    [line] = [line for line in lines if "left out" in line]
    assert set(line.split(": ")[1].split(", ")) == {*more, "betas", "model_ema.*"}


def test_names_of_a_kind_are_one():
    keys = ["a.b.c", "a.b.d", "a.e", "f", "g.position_ids", "h.i", "h.j"]
    assert left_out(keys, ["a.e", "h.j"]) == ["a.b.*", "f", "h.i"]


def test_a_text_encoder_saved_from_the_whole_of_clip(tmp_path):
    """As transformers opens it: the text tower of its config and of its tensors."""
    reference(SMALL, tmp_path / "tokenizers").save_pretrained(tmp_path / "checkpoint")
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {key: value for key, value in tiny.TEXT_ENCODER.items() if key != "projection_dim"}
    config = CLIPConfig(text_config=text, vision_config={**vision, "image_size": 8, "patch_size": 4}, projection_dim=32)
    whole, folder = tiny.seeded(lambda: CLIPModel(config)), tmp_path / "checkpoint" / "text_encoder"
    whole.save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["model_type"] == "clip"
    found = load_checkpoint(tmp_path / "checkpoint")
    assert {"logit_scale", "text_projection.weight", "vision_model.*"} <= set(found.left_out)
    expected, state = CLIPTextModel.from_pretrained(folder).state_dict(), found.load_text_encoder().state_dict()
    assert all(torch.equal(state[key.removeprefix("text_model.")], expected[key]) for key in expected)


def test_two_encoders_of_a_file_with_projections(tmp_path):
    file = saved_single(FILES["sdxl"], tmp_path / "sdxl")
    key = "conditioner.embedders.0.transformer.text_projection.weight"
    found = opened(file, tmp_path, key)
    assert key in found.left_out and "conditioner.embedders.1.model.logit_scale" in found.left_out


def test_a_missing_tensor_still_refuses(file, tmp_path):
    tensors = load_file(file)
    del tensors[f"{CLIP}text_model.final_layer_norm.bias"]
    save_file(tensors, tmp_path / "less.safetensors")
    with pytest.raises(CheckpointError, match="missing: final_layer_norm.bias"):
        load_checkpoint(Path(tmp_path / "less.safetensors"), configs=file.parent / "configs")
