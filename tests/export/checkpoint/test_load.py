import copy
import json
import shutil
import socket
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from latentrt.errors import CheckpointError
from latentrt_export.checkpoint.builders import BUILDERS
from latentrt_export.checkpoint.families import FAMILIES
from latentrt_export.checkpoint.load import load_checkpoint
from tests.export import compvis, tiny

MODULES = {"unet": tiny.build_unet(), "vae": tiny.build_vae(), "text_encoder": tiny.build_text_encoder()}
CLASSES = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}
WEIGHTS = {
    "unet": "unet/diffusion_pytorch_model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("a checkpoint must be loaded without a network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    """A folder, a single file and its configs that no test changes."""
    path = tmp_path_factory.mktemp("origin")
    tiny.save_diffusers_folder(path / "folder")
    tiny.save_configs(path / "configs")
    compvis.save_single_file(*MODULES.values(), path / "tiny.safetensors", torch.float32)
    return path


@pytest.fixture
def folder(origin, tmp_path):
    return Path(shutil.copytree(origin / "folder", tmp_path / "folder"))


@pytest.fixture
def single(origin, tmp_path):
    """Returns what writes a copy of the single file after `change(tensors)`, and gives its path."""

    def write(change=lambda tensors: None, name="changed.safetensors"):
        tensors = load_file(origin / "tiny.safetensors")
        change(tensors)
        save_file(tensors, tmp_path / name)
        return tmp_path / name

    return write


def edit_json(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def assert_holds(checkpoint, dtype=torch.float32):
    """Each module equals the one it was written from, after the rounding to `dtype`, and is ready to be traced."""
    for name, original in MODULES.items():
        module, expected = getattr(checkpoint, f"load_{name}")(), original.state_dict()
        assert isinstance(module, CLASSES[name])
        state = module.state_dict()
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[key], expected[key].to(dtype).float()) for key in state)
        assert not module.training
        assert not any(tensor.requires_grad for tensor in module.parameters())
        assert {tensor.device.type for tensor in [*module.parameters(), *module.buffers()]} == {"cpu"}
        assert module.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_single_file_gives_back_the_modules_it_was_written_from(origin, tmp_path, dtype):
    file = tmp_path / "tiny.safetensors"
    compvis.save_single_file(*MODULES.values(), file, dtype)
    checkpoint = load_checkpoint(file, configs=origin / "configs")
    assert_holds(checkpoint, dtype)
    assert (checkpoint.source, checkpoint.family.name, checkpoint.tokenizers) == ("tiny.safetensors", "sd1", {})
    assert checkpoint.scheduler["beta_schedule"] == "scaled_linear"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_folder_equals_from_pretrained(tmp_path, dtype):
    folder = tmp_path / "folder"
    tiny.save_diffusers_folder(folder, prediction_type="v_prediction", dtype=dtype)
    checkpoint = load_checkpoint(folder)
    assert_holds(checkpoint, dtype)
    assert (checkpoint.source, checkpoint.tokenizers) == ("folder", {"tokenizer": folder / "tokenizer"})
    assert checkpoint.scheduler["prediction_type"] == "v_prediction"
    for name, cls in CLASSES.items():
        reference = cls.from_pretrained(folder / name, torch_dtype=torch.float32).state_dict()
        state = getattr(checkpoint, f"load_{name}")().state_dict()
        assert all(torch.equal(state[key], reference[key]) for key in reference)


def test_modules_compute_what_the_originals_compute(origin):
    checkpoint = load_checkpoint(origin / "tiny.safetensors", configs=origin / "configs")
    ids, latents = torch.arange(1, 11).reshape(1, 10), torch.ones(1, 4, 8, 8)
    context = checkpoint.load_text_encoder()(ids).last_hidden_state
    assert torch.equal(context, MODULES["text_encoder"](ids).last_hidden_state)
    args = (latents, torch.tensor(7), context)
    assert torch.equal(checkpoint.load_unet()(*args).sample, MODULES["unet"](*args).sample)
    assert torch.equal(checkpoint.load_vae().decode(latents).sample, MODULES["vae"].decode(latents).sample)


def test_each_load_is_a_new_module(origin):
    checkpoint = load_checkpoint(origin / "folder")
    checkpoint.load_vae().post_quant_conv.weight.zero_()
    assert_holds(checkpoint)


def test_no_file_stays_mapped(origin):
    checkpoint = load_checkpoint(origin / "folder")
    modules = [checkpoint.load_unet(), checkpoint.load_vae(), checkpoint.load_text_encoder()]
    assert str(origin) not in Path("/proc/self/maps").read_text() and modules


def test_full_size_single_file_is_accounted_for(tmp_path):
    """Stable Diffusion 1.5 with the built-in configs, from a header alone: the file is sparse and takes no room."""
    folder = FAMILIES[0].configs
    unet, vae, text = (BUILDERS[name](json.loads((folder / f"{name}.json").read_text())) for name in MODULES)
    tensors = compvis.unet_tensors(unet) | compvis.vae_tensors(vae)
    tensors |= {f"cond_stage_model.transformer.text_model.{key}": t for key, t in text.state_dict().items()}
    header, end = {}, 0
    for key, tensor in tensors.items():
        start, end = end, end + 2 * tensor.numel()
        header[key] = {"dtype": "F16", "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with (tmp_path / "v1-5.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    checkpoint = load_checkpoint(tmp_path / "v1-5.safetensors")
    counts = {name: len(component.weights) for name, component in checkpoint.components.items()}
    assert counts == {"unet": 686, "vae": 248, "text_encoder": 196}
    assert checkpoint.scheduler["_class_name"] == "PNDMScheduler"


@pytest.mark.parametrize(
    "options",
    [{"variant": "fp16"}, {"max_shard_size": "100KB"}, {"variant": "fp16", "max_shard_size": "100KB"}],
    ids=["fp16", "shards", "fp16-shards"],
)
def test_folder_with_other_weight_files(folder, options):
    dtype = torch.float16 if "variant" in options else torch.float32
    for name, module in MODULES.items():
        (folder / WEIGHTS[name]).unlink()
        copy.deepcopy(module).to(dtype).save_pretrained(folder / name, **options)
        assert not (folder / WEIGHTS[name]).exists()
    assert_holds(load_checkpoint(folder), dtype)


def test_full_precision_is_preferred_to_fp16(folder):
    copy.deepcopy(MODULES["unet"]).half().save_pretrained(folder / "unet", variant="fp16")
    assert_holds(load_checkpoint(folder))


def test_names_of_published_folders_are_understood(folder):
    """Stable Diffusion 1.5 as published: attention names of diffusers 0.11, text encoder names of transformers 4."""
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    vae = load_file(folder / WEIGHTS["vae"])
    for new, name in old.items():
        vae = {key.replace(new, name): tensor for key, tensor in vae.items()}
    assert "decoder.mid_block.attentions.0.proj_attn.bias" in vae
    save_file(vae, folder / WEIGHTS["vae"])
    text = {f"text_model.{key}": tensor for key, tensor in load_file(folder / WEIGHTS["text_encoder"]).items()}
    save_file(text | {"text_model.embeddings.position_ids": torch.arange(32)[None]}, folder / WEIGHTS["text_encoder"])
    assert_holds(load_checkpoint(folder))


def drop(prefix):
    def change(tensors):
        for key in [key for key in tensors if key.startswith(prefix)]:
            del tensors[key]

    return change


@pytest.mark.parametrize("form", ["folder", "prefixed", "bare"])
def test_another_vae_replaces_the_one_of_a_file_without(origin, single, tmp_path, form):
    file = single(drop("first_stage_model."))
    vae, prefix = origin / "folder" / "vae", "first_stage_model." if form == "prefixed" else ""
    if form != "folder":
        tensors = compvis.vae_tensors(MODULES["vae"]) | {"first_stage_model.loss.logvar": torch.zeros(())}
        vae = tmp_path / "vae.safetensors"
        save_file({prefix + key.removeprefix("first_stage_model."): t.contiguous() for key, t in tensors.items()}, vae)
    assert_holds(load_checkpoint(file, configs=origin / "configs", vae=vae))


def test_vae_of_a_folder_is_replaced(origin, tmp_path):
    tensors = {key: tensor + 1 for key, tensor in compvis.vae_tensors(MODULES["vae"]).items()}
    save_file(tensors, tmp_path / "vae.safetensors")
    state = load_checkpoint(origin / "folder", vae=tmp_path / "vae.safetensors").load_vae().state_dict()
    assert all(torch.equal(state[key], tensor + 1) for key, tensor in MODULES["vae"].state_dict().items())


def refusal(path, **options):
    """The message that `path` is refused with."""
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path, **options)
    return str(caught.value)


UNET = "model.diffusion_model."
MARK = f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"


def put(**tensors):
    return lambda held: held.update({key.replace("__", "."): tensor for key, tensor in tensors.items()})


@pytest.mark.parametrize(
    "change, said",
    [
        (drop(f"{UNET}middle_block.1"), ["unet", "missing: mid_block.attentions.0"]),
        (drop(f"{UNET}output_blocks.1.1.conv.bias"), ["unet", "output_blocks.1.1.conv.bias"]),
        (drop(f"{UNET}input_blocks.2.0.op.bias"), ["unet", "missing: down_blocks.0.downsamplers.0.conv.bias"]),
        (drop("first_stage_model."), ["vae", "missing: encoder.conv_in.weight", "… (180 in all)", "vae="]),
        (drop("cond_stage_model."), ["text_encoder", "missing: embeddings.token_embedding.weight"]),
        (put(**{f"{UNET}input_blocks.0.0.weight": torch.zeros(32, 9, 3, 3)}), ["(32, 9, 3, 3)", "(32, 4, 3, 3)"]),
        (put(**{f"{UNET}out.2.bias": torch.zeros(0)}), ["out.2.bias (got (0,), expected (4,))"]),
        (put(**{"first_stage_model.decoder.mid.attn_1.q.weight": torch.zeros(16, 16, 3, 3)}), ["(16, 16, 3, 3)"]),
        (
            put(**{f"{UNET}label_emb.weight": torch.zeros(9, 128)}),
            [f"unexpected: {UNET}label_emb.weight"],
        ),
        (put(**{f"{UNET}out.2.bias": torch.zeros(4, dtype=torch.int64)}), ["out.2.bias (I64)"]),
    ],
    ids=["layer", "conversion", "half-pair", "vae", "text", "inpainting", "empty", "taps", "extra", "integer"],
)
def test_single_file_whose_tensors_do_not_fit(origin, single, change, said):
    message = refusal(single(change), configs=origin / "configs")
    assert all(part in message for part in said), message


@pytest.mark.parametrize(
    "tensors, said",
    [
        ({"lora_unet_mid_block.alpha": (1,)}, ["a LoRA"]),
        ({"encoder.down.0.block.0.norm1.bias": (128,)}, ["VAE alone", "vae="]),
        ({"down_blocks.0.resnets.0.norm1.bias": (320,)}, ["model_index.json"]),
        ({f"{part}.weight": (1,) for part in "abcdefgh"}, ["a.*, b.*, c.*, d.*, … (8 in all)"]),
        ({MARK: (32, 32)}, ["(32, 32)", "768", "configs="]),
    ],
    ids=["lora", "vae", "component", "unknown", "widths"],
)
def test_single_file_of_another_family(tmp_path, tensors, said):
    save_file({key: torch.zeros(shape) for key, shape in tensors.items()}, tmp_path / "other.safetensors")
    message = refusal(tmp_path / "other.safetensors")
    assert all(part in message for part in ["other.safetensors", "sd1", *said]), message


@pytest.mark.parametrize(
    "file, changes, said",
    [
        ("model_index.json", {"_class_name": "AuraFlowPipeline"}, ["'AuraFlowPipeline'"]),
        ("model_index.json", {"_class_name": None}, ["None", "StableDiffusionPipeline"]),
        ("unet/config.json", {"addition_embed_type": "text"}, ["addition_embed_type 'text', expected None"]),
        ("unet/config.json", {"cross_attention_dim": 1024}, ["cross_attention_dim is 1024, expected 32"]),
        ("unet/config.json", {"in_channels": 5}, ["in_channels is 5, expected 4 or 9 or 8"]),
        ("unet/config.json", {"_class_name": "UNet2DModel"}, ["_class_name 'UNet2DModel'"]),
        ("vae/config.json", {"_class_name": "AutoencoderTiny"}, ["'AutoencoderTiny', expected 'AutoencoderKL'"]),
        ("text_encoder/config.json", {"model_type": "t5"}, ["model_type 't5'"]),
    ],
)
def test_folder_of_another_family(folder, file, changes, said):
    edit_json(folder / file, **changes)
    message = refusal(folder)
    assert all(part in message for part in ["folder is of no supported family", "\n  sd1: ", *said]), message


def test_folder_with_more_than_its_family_has(folder):
    """As diffusers saves a pipeline that an IP-Adapter was loaded into."""
    edit_json(folder / "model_index.json", image_encoder=["transformers", "CLIPVisionModelWithProjection"])
    assert_holds(load_checkpoint(folder))


def test_config_that_builds_no_module_or_another_one(folder):
    edit_json(folder / "unet" / "config.json", block_out_channels=[32])
    assert "the unet of" in (message := refusal(folder)) and "Correct its config" in message
    edit_json(folder / "unet" / "config.json", block_out_channels=[32, 128])
    assert "of another shape" in refusal(folder)


@pytest.mark.parametrize(
    "part, content, said",
    [
        ("unet/config.json", None, "No such file"),
        ("model_index.json", b"{", "json"),
        ("vae/config.json", b"[]", "list"),
        ("scheduler/scheduler_config.json", b"\xff", "utf-8"),
    ],
)
def test_folder_with_a_bad_json(folder, part, content, said):
    (folder / part).unlink()
    if content is not None:
        (folder / part).write_bytes(content)
    message = refusal(folder)
    assert str(folder / part) in message and said in message


def test_folder_with_parts_missing(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "empty is empty: expected a diffusers folder" in refusal(tmp_path / "empty")
    assert "unet has no model_index.json: expected a diffusers folder" in refusal(folder / "unet")
    (folder / WEIGHTS["vae"]).unlink()
    assert "vae has no weights: expected diffusion_pytorch_model.safetensors" in refusal(folder)
    shutil.rmtree(folder / "tokenizer")
    assert "tokenizer" in refusal(folder)


def test_index_without_a_weight_map(folder):
    (folder / WEIGHTS["unet"]).rename(folder / "unet" / "x.safetensors")
    (folder / f"{WEIGHTS['unet']}.index.json").write_text('{"weight_map": []}')
    assert "weight_map []: expected an object" in refusal(folder)


@pytest.mark.parametrize("shard", ["../../vae/secret.safetensors", "absent.safetensors"])
def test_shard_outside_the_folder_or_missing(folder, shard):
    (folder / WEIGHTS["unet"]).unlink()
    index = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"conv_in.weight": shard}}))
    message = refusal(folder)
    assert shard in message and "expected a file beside it" in message


@pytest.mark.parametrize("kept", [0, 4, 200, 100_000])
def test_truncated_file(origin, single, kept):
    file = single()
    file.write_bytes(file.read_bytes()[:kept])
    message = refusal(file, configs=origin / "configs")
    assert str(file) in message and "damaged or incomplete" in message


def test_file_that_changes_after_it_was_opened(origin, single):
    file = single()
    checkpoint = load_checkpoint(file, configs=origin / "configs")
    single(drop(f"{UNET}out.2"))
    with pytest.raises(CheckpointError, match="changed since it was opened"):
        checkpoint.load_unet()


def test_missing_or_misplaced_arguments(origin, tmp_path):
    assert "hf download" in refusal(tmp_path / "runwayml/stable-diffusion")
    assert "leave it out" in refusal(origin / "folder", configs=origin / "configs")
    assert "unet.json" in refusal(origin / "tiny.safetensors", configs=tmp_path)
    assert "no VAE at" in refusal(origin / "folder", vae=tmp_path / "absent")
    (tmp_path / "model.gguf").touch()
    assert "'.gguf'" in refusal(tmp_path / "model.gguf")


def test_vae_that_does_not_fit(origin, folder):
    edit_json(folder / "vae" / "config.json", latent_channels=16)
    assert "in_channels is 4, expected 16" in refusal(origin / "folder", vae=folder / "vae")
    assert "config.json" in refusal(origin / "folder", vae=folder)


def recipe(message):
    """The lines of code that a message proposes."""
    return "\n".join(line.strip() for line in message.splitlines() if line.startswith("  "))


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".CKPT"])
def test_pickle_is_refused_unopened(tmp_path, suffix):
    (tmp_path / f"tiny{suffix}").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    assert "a pickle, which can run code" in refusal(tmp_path / f"tiny{suffix}")


def test_recipe_for_a_pickle_works(origin, tmp_path):
    torch.save({"state_dict": load_file(origin / "tiny.safetensors"), "epoch": 3}, tmp_path / "tiny.ckpt")
    exec(recipe(refusal(tmp_path / "tiny.ckpt")), {})
    assert_holds(load_checkpoint(tmp_path / "tiny.safetensors", configs=origin / "configs"))


def test_pickled_folder_is_refused_with_a_recipe_that_works(folder, tmp_path):
    for name, weights in WEIGHTS.items():
        tensors = load_file(folder / weights)
        (folder / weights).unlink()
        stem = Path(weights).stem if name != "text_encoder" else "pytorch_model"
        torch.save(tensors, (folder / weights).with_name(f"{stem}.bin"))
    message = refusal(folder)
    assert "only diffusion_pytorch_model.bin, a pickle" in message
    exec(recipe(message), {})
    assert_holds(load_checkpoint(Path(f"{folder}-safe")))
