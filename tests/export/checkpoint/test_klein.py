"""FLUX.2 klein's folders: recognised by their configs, and everything refused that such a model does not take."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from latentrt.errors import CheckpointError
from latentrt.lora.files import Lora
from latentrt_export.checkpoint.embeddings import Embedding
from latentrt_export.checkpoint.families import FAMILIES
from latentrt_export.checkpoint.load import load_checkpoint
from latentrt_export.checkpoint.named import NamedNetwork
from latentrt_export.export import ExportOptions, prepare_checkpoint
from tests.export import klein
from tests.export.folders import change, prepared

NETWORK = (NamedNetwork("canny", Path("canny")),)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The small model's folder."""
    folder = tmp_path_factory.mktemp("klein") / "checkpoint"
    klein.reference().save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def small():
    """Families that read the small model's states."""
    with klein.small_states():
        yield


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of it."""
    return Path(shutil.copytree(saved, tmp_path / "checkpoint"))


def test_a_folder_is_recognised(folder):
    lines = []
    found = prepare_checkpoint(folder, ExportOptions(), lines.append)
    assert found.checkpoint.family.name == "flux2-klein" and not lines
    assert (found.tokenizer.length, found.tokenizer.bos, found.tokenizer.padded) == (512, None, True)
    assert found.schedule.size_shift == "flux2" and found.schedule.prediction == "flow_prediction"
    left = {*found.checkpoint.left_out}
    assert left == {"lm_head.weight", "model.layers.3.*", "model.norm.weight"}


def test_a_folder_without_the_entry_is_of_the_base_model(folder):
    change(folder, "model_index.json", is_distilled=None)
    assert prepared(folder).checkpoint.family.name == "flux2-klein-base"


def test_layers_that_are_read_are_all_that_is_loaded(folder):
    ours, theirs = load_checkpoint(folder).load_text_encoder(), klein.build_text_encoder().model
    assert len(ours.layers) == 3
    ids = torch.arange(9)[None]
    with torch.no_grad():
        found, expected = (one(ids, output_hidden_states=True).hidden_states for one in (ours, theirs))
    assert all(torch.equal(found[state], expected[state]) for state in klein.STATES)


def test_the_families_read_the_states_of_diffusers():
    import inspect

    usual = inspect.signature(klein.Flux2KleinPipeline.__call__).parameters["text_encoder_out_layers"].default
    families = [one for one in FAMILIES if one.size_shift == "flux2"]
    assert [one.encoders["text_encoder"].states for one in families] == [usual] * 2


@pytest.mark.parametrize(
    ("file", "entries", "words"),
    [
        ("transformer/config.json", {"guidance_embeds": True}, "guidance_embeds True, expected False"),
        ("transformer/config.json", {"patch_size": 2}, "patch_size 2, expected 1"),
        ("transformer/config.json", {"joint_attention_dim": 32}, "joint_attention_dim is 32, expected 48 to fit"),
        ("transformer/config.json", {"in_channels": 8}, "in_channels is 8, expected 16 to fit"),
        ("transformer/config.json", {"axes_dims_rope": [4, 4, 4, 8]}, "axes_dims_rope is 20, expected 16"),
        ("transformer/config.json", {"num_layers": 0}, r"unexpected: .*transformer_blocks\.0"),
        ("transformer/config.json", {"_class_name": "QwenImageTransformer2DModel"}, "'QwenImageTransformer2DModel'"),
        ("vae/config.json", {"_class_name": "AutoencoderKL"}, "'AutoencoderKL', expected 'AutoencoderKLFlux2'"),
        ("text_encoder/config.json", {"num_hidden_layers": 3}, "num_hidden_layers is 3, expected more than the last"),
        ("text_encoder/config.json", {"model_type": "mistral3"}, "model_type 'mistral3', expected 'qwen3'"),
        ("text_encoder/config.json", {"use_sliding_window": True}, "use_sliding_window True, expected False"),
        ("text_encoder/config.json", {"vocab_size": 20}, "shape"),
        ("model_index.json", {"_class_name": "Flux2KleinKVPipeline"}, "is 'Flux2KleinKVPipeline', expected Flux2Kle"),
        ("scheduler/scheduler_config.json", {"use_dynamic_shifting": False}, "got False, expected True"),
        ("scheduler/scheduler_config.json", {"time_shift_type": "linear"}, "got 'linear', expected 'exponential'"),
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


def lora_file(path, layers, rank=2):
    """Writes a LoRA in diffusers' layout that changes these layers of the transformer, and returns its file."""
    modules, random = dict(klein.build_transformer().named_modules()), torch.Generator().manual_seed(0)
    tensors = {}
    for layer in layers:
        linear = modules[layer]
        down = torch.randn(rank, linear.in_features, generator=random) / linear.in_features**0.5
        up = torch.randn(linear.out_features, rank, generator=random)
        tensors |= {f"transformer.{layer}.lora_A.weight": down, f"transformer.{layer}.lora_B.weight": up}
    save_file(tensors, path / "lora.safetensors")
    return path / "lora.safetensors"


LAYERS = [
    *(f"transformer_blocks.0.attn.{name}" for name in ("to_q", "to_out.0", "add_k_proj", "to_add_out")),
    *("transformer_blocks.0.ff.linear_in", "transformer_blocks.0.ff_context.linear_out", "x_embedder", "proj_out"),
    *("single_transformer_blocks.1.attn.to_qkv_mlp_proj", "single_transformer_blocks.0.attn.to_out"),
    *("context_embedder", "double_stream_modulation_img.linear", "norm_out.linear"),
    "time_guidance_embed.timestep_embedder.linear_1",
]


def test_a_lora_changes_the_weights_as_in_diffusers(folder, tmp_path):
    file, pipeline = lora_file(tmp_path, LAYERS), klein.reference()
    pipeline.load_lora_weights(tmp_path, weight_name=file.name)
    pipeline.fuse_lora(components=["transformer"], lora_scale=0.7)
    pipeline.unload_lora_weights()
    expected, plain = pipeline.transformer.state_dict(), klein.build_transformer().state_dict()
    found = prepared(folder, loras=(Lora(file, 0.7, 0.0),)).checkpoint.denoiser.load().state_dict()
    changed = {key for key in plain if not torch.equal(plain[key], found[key])}
    assert changed == {f"{layer}.weight" for layer in LAYERS}
    assert all(torch.allclose(found[key], expected[key], atol=1e-6) for key in expected)


def test_a_lora_of_another_layout_is_refused(folder, tmp_path):
    tensors = {
        f"diffusion_model.double_blocks.0.img_attn.qkv.lora_{way}.weight": torch.ones(2, 2) for way in ("A", "B")
    }
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="changes layers that .*flux2-klein.* does not have"):
        prepared(folder, loras=(Lora(tmp_path / "a.safetensors"),))
