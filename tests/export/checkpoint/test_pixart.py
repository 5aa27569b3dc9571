"""PixArt's folders: recognised by their configs, and everything refused that a transformer does not take."""

import shutil
from pathlib import Path

import pytest
import torch
from diffusers import PixArtAlphaPipeline
from safetensors.torch import load_file, save_file

from latentrt.errors import CheckpointError
from latentrt.lora.files import Lora
from latentrt_export.checkpoint.embeddings import Embedding
from latentrt_export.checkpoint.load import load_checkpoint
from latentrt_export.checkpoint.named import NamedNetwork
from latentrt_export.checkpoint.pickles import converted
from tests.export import pixart
from tests.export.folders import change, prepared

NETWORK = (NamedNetwork("canny", Path("canny")),)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The small model's folder."""
    folder = tmp_path_factory.mktemp("pixart") / "checkpoint"
    pixart.reference().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of it."""
    return Path(shutil.copytree(saved, tmp_path / "checkpoint"))


def test_a_folder_is_recognised(folder):
    found = prepared(folder)
    assert found.checkpoint.family.name == "pixart-sigma"
    assert (found.tokenizer.length, found.tokenizer.bos, found.tokenizer.padded) == (300, None, False)
    assert not found.checkpoint.left_out


def test_a_folder_of_before_the_class_is_read_like_one_of_now(folder):
    """The published folder of PixArt-Sigma names another class, and has entries of its own."""
    more = {"double_self_attention": False, "num_vector_embeds": None, "only_cross_attention": False}
    change(folder, "transformer/config.json", _class_name="Transformer2DModel", **more)
    ours, expected = load_checkpoint(folder).denoiser.load(), pixart.build_transformer()
    feeds = (torch.ones(1, 4, 8, 8), torch.ones(1, 3, 24), torch.ones(1))
    added = {"added_cond_kwargs": {"resolution": None, "aspect_ratio": None}}
    assert torch.equal(ours(*feeds, **added).sample, expected(*feeds, **added).sample)


def test_a_text_encoder_is_read_under_either_name_of_its_table(folder):
    expected = load_checkpoint(folder).components["text_encoder"].load().state_dict()
    file = folder / "text_encoder" / "model.safetensors"
    tensors = load_file(file)
    table = tensors.pop("shared.weight", None)
    tensors = {"encoder.embed_tokens.weight": table, **tensors} if table is not None else tensors
    save_file(tensors, file)
    found = load_checkpoint(folder).components["text_encoder"].load().state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in found)


@pytest.mark.sweep
def test_a_transformer_in_a_pickle_is_converted(folder, tmp_path):
    expected = load_checkpoint(folder).denoiser.load().state_dict()
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(file), file.with_suffix(".bin"))
    file.unlink()
    found = load_checkpoint(converted(folder, tmp_path / "scratch", None)).denoiser.load().state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in found)


@pytest.mark.parametrize(
    ("file", "entries", "words"),
    [
        ("transformer/config.json", {"use_additional_conditions": True}, "use_additional_conditions True, expected Fa"),
        ("transformer/config.json", {"norm_type": "ada_norm"}, "norm_type 'ada_norm', expected 'ada_norm_single'"),
        ("transformer/config.json", {"caption_channels": 32}, "caption_channels is 32, expected 24 to fit"),
        ("transformer/config.json", {"cross_attention_dim": 64}, "cross_attention_dim is 64, expected 32"),
        ("transformer/config.json", {"out_channels": 5}, "out_channels is 5, expected 4 or 8"),
        ("transformer/config.json", {"num_layers": 1}, r"unexpected: .*transformer_blocks\.1"),
        ("text_encoder/config.json", {"num_layers": 1}, r"unexpected: .*encoder\.block\.1"),
        ("text_encoder/config.json", {"model_type": "umt5"}, "model_type 'umt5', expected 't5'"),
        ("text_encoder/config.json", {"vocab_size": 20}, "shape"),
        ("model_index.json", {"_class_name": "PixArtDeltaPipeline"}, "is 'PixArtDeltaPipeline', expected PixArtSigma"),
    ],
    ids=lambda value: None if isinstance(value, dict) else str(value)[:40],
)
def test_other_models_are_refused(folder, file, entries, words):
    change(folder, file, **entries)
    with pytest.raises(CheckpointError, match=words):
        prepared(folder)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"loras": (Lora(Path("x.safetensors")),)}, "--lora"),
        ({"embeddings": (Embedding(Path("x.safetensors")),)}, "--embedding"),
        ({"controls": NETWORK}, "--controlnet"),
        ({"adapters": NETWORK}, "--t2i-adapter"),
        ({"image_prompts": NETWORK}, "--ip-adapter"),
        ({"step_cache": 1}, "--step-cache"),
    ],
)
def test_what_changes_or_steers_a_unet_is_refused(folder, options, name):
    with pytest.raises(CheckpointError, match=f"{name}: got it for checkpoint, .* a transformer; expected a model"):
        prepared(folder, **options)


@pytest.mark.parametrize(
    ("key", "words"),
    [("t_block.1.weight", "PixArt in its original layout"), ("adaln_single.linear.weight", "the transformer of a")],
)
def test_single_files_are_refused(tmp_path, key, words):
    save_file({key: torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(tmp_path / "model.safetensors")


def test_pixart_alpha_is_a_family_of_its_own(tmp_path):
    pixart.reference(PixArtAlphaPipeline, **pixart.SIZED).save_pretrained(tmp_path / "alpha")
    found = prepared(tmp_path / "alpha")
    assert found.checkpoint.family.name == "pixart-alpha" and found.tokenizer.length == 120
