"""Stable Diffusion 3's folders: recognised by their configs, and everything refused that such a model does not take."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from latentrt.errors import CheckpointError
from latentrt.lora.files import Lora
from latentrt_export.checkpoint.embeddings import Embedding
from latentrt_export.checkpoint.load import load_checkpoint
from latentrt_export.checkpoint.named import NamedNetwork
from latentrt_export.export import ExportOptions, prepare_checkpoint
from tests.export import sd3
from tests.export.folders import change, prepared

NETWORK = (NamedNetwork("canny", Path("canny")),)
T5_PARTS = ("text_encoder_3", "tokenizer_3")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The small model's folder."""
    folder = tmp_path_factory.mktemp("sd3")
    sd3.reference(folder / "tokenizer").save_pretrained(folder / "checkpoint")
    return folder / "checkpoint"


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of it."""
    return Path(shutil.copytree(saved, tmp_path / "checkpoint"))


def test_a_folder_is_recognised(folder):
    lines = []
    found = prepare_checkpoint(folder, ExportOptions(), lines.append)
    assert found.checkpoint.family.name == "sd3" and not lines and not found.checkpoint.left_out
    t5 = found.tokenizer.others["text_encoder_3"]
    assert (found.tokenizer.length, found.tokenizer.padded, t5.length, t5.padded, t5.bos) == (32, True, 256, True, None)
    assert found.pads.keys() == {"text_encoder", "text_encoder_2"} and len({*found.pads.values()}) == 2
    assert found.schedule.shift == 3 and found.schedule.prediction == "flow_prediction"


def test_texts_are_read_as_by_the_pipelines_tokenizers(folder, tmp_path):
    """Capitals count for T5's, and rows are filled."""
    theirs, ours = sd3.reference(tmp_path / "tokenizer"), prepared(folder).tokenizer
    texts = [sd3.PROMPT, "", "Two CATS,  fog", "cats " * 300]
    options = {"padding": "max_length", "truncation": True, "return_tensors": "np"}
    for own, tokenizer, length in (
        (ours, theirs.tokenizer, 32),
        (ours.others["text_encoder_3"], theirs.tokenizer_3, 256),
    ):
        np.testing.assert_array_equal(own(texts), tokenizer(texts, max_length=length, **options).input_ids)


@pytest.mark.parametrize("removed", [True, False], ids=["without its folders", "with them"])
def test_t5_may_be_missing(folder, removed):
    for name in T5_PARTS if removed else ():
        shutil.rmtree(folder / name)
    change(folder, "model_index.json", **dict.fromkeys(T5_PARTS, [None, None]))
    found = prepared(folder)
    assert found.checkpoint.family.name == "sd3-without-t5" and not found.tokenizer.others
    assert "text_encoder_3" not in found.checkpoint.components


def test_both_of_clips_encoders_have_a_projection(folder):
    found = load_checkpoint(folder)
    for name in ("text_encoder", "text_encoder_2"):
        assert type(found.load_text_encoder(name)).__name__ == "CLIPTextModelWithProjection"


@pytest.mark.parametrize(
    ("file", "entries", "words"),
    [
        ("transformer/config.json", {"qk_norm": "layer_norm"}, r"qk_norm 'layer_norm', expected \(None, 'rms_norm'\)"),
        ("transformer/config.json", {"joint_attention_dim": 64}, "joint_attention_dim is 64, expected 48 to fit"),
        ("transformer/config.json", {"joint_attention_dim": 32}, "joint_attention_dim is 32, expected at least 40"),
        ("transformer/config.json", {"pooled_projection_dim": 24}, "pooled_projection_dim is 24, expected 40 to fit"),
        ("transformer/config.json", {"caption_projection_dim": 48}, "caption_projection_dim is 48, expected 32 to fit"),
        ("transformer/config.json", {"in_channels": 4}, "in_channels is 4, expected 16 to fit"),
        ("transformer/config.json", {"out_channels": 32}, "out_channels is 32, expected 16 to fit"),
        ("transformer/config.json", {"pos_embed_max_size": 0}, "pos_embed_max_size is 0, expected the patches"),
        ("transformer/config.json", {"pos_embed_max_size": 32}, r"pos_embed \(got \(1, 576"),
        ("transformer/config.json", {"dual_attention_layers": []}, r"transformer_blocks\.0\.attn2"),
        ("transformer/config.json", {"_class_name": "QwenImageTransformer2DModel"}, "'QwenImageTransformer2DModel'"),
        ("vae/config.json", {"_class_name": "AutoencoderKLFlux2"}, "'AutoencoderKLFlux2', expected 'AutoencoderKL'"),
        ("text_encoder_3/config.json", {"model_type": "umt5"}, "model_type 'umt5', expected 't5'"),
        ("text_encoder_3/config.json", {"vocab_size": 20}, "shape"),
        ("tokenizer_3/tokenizer_config.json", {"tokenizer_class": "LlamaTokenizer"}, "tokenizer_class is 'LlamaTok"),
        (
            "model_index.json",
            {"_class_name": "StableDiffusion3ControlNetPipeline"},
            "expected StableDiffusion3Pipeline",
        ),
        (
            "scheduler/scheduler_config.json",
            {"_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction"},
            "got flow_prediction with UniPC",
        ),
    ],
    ids=lambda value: None if isinstance(value, dict) else str(value)[:40],
)
def test_other_models_are_refused(folder, file, entries, words):
    change(folder, file, **entries)
    with pytest.raises(CheckpointError, match=words):
        prepared(folder)


@pytest.mark.parametrize("name", [*T5_PARTS, "text_encoder_2", "tokenizer_2"])
def test_a_folder_that_is_listed_must_be_there(folder, name):
    shutil.rmtree(folder / name)
    with pytest.raises(CheckpointError, match=name):
        prepared(folder)


@pytest.mark.parametrize(
    ("options", "name"),
    [
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


def test_a_single_file_in_the_original_layout_is_refused(tmp_path):
    save_file(
        {"model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": torch.ones(2, 2)}, tmp_path / "a.safetensors"
    )
    with pytest.raises(
        CheckpointError, match="look like Stable Diffusion 3 in its original layout .give its diffusers"
    ):
        load_checkpoint(tmp_path / "a.safetensors")


LAYERS = [
    *(f"transformer_blocks.0.attn.{name}" for name in ("to_q", "to_out.0", "add_k_proj", "to_add_out")),
    *("transformer_blocks.1.attn2.to_v", "transformer_blocks.0.ff.net.0.proj", "transformer_blocks.1.norm1.linear"),
    *("context_embedder", "proj_out", "norm_out.linear", "time_text_embed.text_embedder.linear_1"),
]


def test_a_lora_changes_the_weights_as_in_diffusers(folder, tmp_path):
    modules, random = dict(sd3.build_transformer().named_modules()), torch.Generator().manual_seed(0)
    tensors = {}
    for layer in LAYERS:
        linear = modules[layer]
        down = torch.randn(2, linear.in_features, generator=random) / linear.in_features**0.5
        up = torch.randn(linear.out_features, 2, generator=random)
        tensors |= {f"transformer.{layer}.lora_A.weight": down, f"transformer.{layer}.lora_B.weight": up}
    save_file(tensors, tmp_path / "lora.safetensors")
    pipeline = sd3.reference(tmp_path / "tokenizer")
    pipeline.load_lora_weights(tmp_path, weight_name="lora.safetensors")
    pipeline.fuse_lora(components=["transformer"], lora_scale=0.7)
    pipeline.unload_lora_weights()
    expected, plain = pipeline.transformer.state_dict(), sd3.build_transformer().state_dict()
    lora = Lora(tmp_path / "lora.safetensors", 0.7, 0.0)
    found = prepared(folder, loras=(lora,)).checkpoint.denoiser.load().state_dict()
    changed = {key for key in plain if not torch.equal(plain[key], found[key])}
    assert changed == {f"{layer}.weight" for layer in LAYERS}
    assert all(torch.allclose(found[key], expected[key], atol=1e-6) for key in expected)
