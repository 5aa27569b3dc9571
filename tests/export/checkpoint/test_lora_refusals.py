"""What of LoRA files is not applied: each is one error that says what was found and what to do."""

import json
import random
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from latentrt.errors import CheckpointError
from latentrt.lora.files import Lora
from latentrt.lora.peft_config import METADATA
from latentrt_export.checkpoint.load import load_checkpoint
from latentrt_export.checkpoint.lora import with_loras
from tests.export import tiny

LAYER = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
PATH = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
UP, DOWN = (64, 2), (2, 64)
PAIR = {f"{LAYER}.lora_down.weight": DOWN, f"{LAYER}.lora_up.weight": UP}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("refusals")
    tiny.save_diffusers_folder(folder)
    return load_checkpoint(folder)


def apply(checkpoint, file, scale=1.0):
    """Has the changes of a file computed, as loading a component does."""
    changed = with_loras(checkpoint, [Lora(file, scale)])
    for name, component in changed.components.items():
        for change in component.changes:
            weight = np.ones(component.weights[change.weight].shape, np.float32)
            assert np.isfinite(change.apply(weight)).all(), f"{name} {change.weight}"


def refusal(checkpoint, folder, tensors, notes=None):
    made = {key: torch.ones(one) if isinstance(one, tuple) else one for key, one in tensors.items()}
    save_file(made, folder / "a.safetensors", notes)
    with pytest.raises(CheckpointError) as caught:
        apply(checkpoint, folder / "a.safetensors")
    assert "a.safetensors" in str(caught.value)
    return str(caught.value)


KINDS = {
    "base_model.model.conv_in.oft_R.weight": "peft's OFT",
    "base_model.model.conv_in.boft_R": "peft's BOFT",
    "base_model.model.conv_in.ia3_l": "peft's IA3",
    "base_model.model.conv_in.vera_lambda_b": "VeRA",
    "base_model.model.embeddings.lora_embedding_A": "peft's LoRA of an embedding",
    "base_model.model.conv_in.lora_E": "AdaLoRA",
    "base_model.model.conv_in.hra_u": "HRA",
    "base_model.model.conv_in.fourierft_spectrum": "FourierFT",
    "lora_unet_conv_in.lambda_layer": "T-LoRA",
    "lora_unet_conv_in.glokr_w1": "GLoKr",
    "lora_unet_conv_in.bias_indices": "LyCORIS's sparse biases",
    "diffusion_model.conv_in.set_weight": "ComfyUI's whole weights",
}


@pytest.mark.parametrize("key", KINDS)
def test_kinds_that_are_not_applied_are_refused_by_name(checkpoint, tmp_path, key):
    said = refusal(checkpoint, tmp_path, PAIR | {key: (2, 2)})
    assert key in said and f"is of {KINDS[key]}" in said and "Merge it" in said


FAMILIES = {
    "transformer.single_transformer_blocks.0.attn.to_q": "Flux",
    "lora_unet_double_blocks_0_img_attn_qkv": "Flux",
    "diffusion_model.double_blocks.0.img_attn.qkv": "Flux",
    "lora_unet_joint_blocks_0_x_block_attn_qkv": "Stable Diffusion 3",
    "diffusion_model.joint_blocks.0.x_block.attn.qkv": "Stable Diffusion 3",
    "transformer.transformer_blocks.0.attn.to_q": "transformer",
    "diffusion_model.blocks.0.self_attn.q": "transformer",
    "lora_te3_encoder_block_0_layer_0_SelfAttention_k": "encoder",
    "lora_prior_unet_blocks_0": "Stable Cascade",
    "lora_te2_text_model_encoder_layers_0_mlp_fc1": "another family",
    "lora_unet_input_blocks_4_1_transformer_blocks_9_attn1_to_q": "another family",
}


@pytest.mark.parametrize("layer", FAMILIES)
def test_layers_of_other_models_name_those(checkpoint, tmp_path, layer):
    said = refusal(checkpoint, tmp_path, {f"{layer}.lora_A.weight": (2, 4), f"{layer}.lora_B.weight": (4, 2)})
    assert re.search(f"layers that .* does not have: .*It was made for .*{FAMILIES[layer]}", said)


def test_names_that_are_not_known_are_not_blamed_on_the_family(checkpoint, tmp_path):
    said = refusal(checkpoint, tmp_path, {"my_net.q.lora_A.weight": (2, 4), "my_net.q.lora_B.weight": (4, 2)})
    assert "by names that are not known: my_net_q" in said and "family" not in said


FILES = {
    "an embedding": ({"emb_params": (2, 32)}, "--embedding"),
    "a checkpoint": ({"model.diffusion_model.input_blocks.0.0.weight": (32, 4, 3, 3)}, "export it"),
    "a ControlNet": ({"control_model.input_hint_block.0.weight": (16, 3, 3, 3)}, "--control"),
    "an IP-Adapter": ({"image_proj.proj.weight": (4, 4)}, "--image-prompt"),
}


@pytest.mark.parametrize("kind", FILES)
def test_files_of_other_kinds_say_what_they_look_like(checkpoint, tmp_path, kind):
    tensors, what = FILES[kind]
    said = refusal(checkpoint, tmp_path, tensors)
    assert f"is no LoRA: its keys are {next(iter(tensors))}" in said and f"looks like {kind}" in said and what in said


PARTS = {
    "a vector for alpha": (PAIR | {f"{LAYER}.alpha": (4,)}, r"alpha of \S+ has the shape \(4,\), expected one number"),
    "no numbers in alpha": (PAIR | {f"{LAYER}.alpha": (0,)}, r"alpha of \S+ has the shape \(0,\)"),
    "alphas alone": ({f"{LAYER}.alpha": ()}, "has alphas .* and nothing that they scale"),
    "a half": ({f"{LAYER}.lora_down.weight": DOWN}, "do not fit each other as LoRA"),
    "scalars": ({key: () for key in PAIR}, "do not fit each other as LoRA"),
    "two ranks": (PAIR | {f"{LAYER}.lora_up.weight": (64, 3)}, "do not fit each other as LoRA"),
    "nothing in it": ({f"{LAYER}.lora_down.weight": (2, 0), f"{LAYER}.lora_up.weight": (0, 2)}, "does not fit"),
    "two of one": (PAIR | {f"{PATH}.lora_A.weight": DOWN, f"{LAYER}.lora.down.weight": DOWN}, "two tensors for one"),
    "two names of one layer": (
        PAIR | {f"{PATH}.lora_A.weight": DOWN, f"{PATH}.lora_B.weight": UP},
        f"to_q.weight twice, as {LAYER} and as unet_mid_block",
    ),
    "two adapters": ({f"{PATH}.lora_A.{one}.weight": DOWN for one in ("a", "b")}, "two tensors for one: .*lora_A.a"),
    "two kinds": (PAIR | {f"{LAYER}.diff": (64, 64)}, "tensors of LoRA and of a difference, expected one kind"),
    "two magnitudes": (
        PAIR | {f"{LAYER}.dora_scale": (64, 1), f"{LAYER}.lora_magnitude_vector": (64,)},
        "tensors of dora_scale and of lora_magnitude_vector",
    ),
    "a magnitude of another size": (
        PAIR | {f"{LAYER}.dora_scale": (63, 1)},
        "do not fit each other as LoRA .*dora_scale",
    ),
    "a magnitude alone": ({f"{LAYER}.dora_scale": (64, 1)}, "has dora_scale, expected the tensors of one of"),
    "a magnitude of a difference": (
        {f"{LAYER}.dora_scale": (64, 1), f"{LAYER}.diff": (64, 64)},
        "has .*dora_scale.*expected the tensors of one of",
    ),
    "a bias that is not there": ({f"{LAYER}.diff_b": (64,)}, "to_q.bias .got a change of it, the layer has no bias"),
    "a bias of another size": ({"lora_unet_conv_in.diff_b": (64,)}, r"conv_in.bias .got a change of shape \(64,\)"),
    "a norm of another size": ({"lora_unet_conv_norm_out.w_norm": (64,)}, r"conv_norm_out.weight .got .*\(64,\)"),
    "blocks that turn no rows": ({f"{LAYER}.oft_blocks": (5, 12, 12)}, "do not fit each other as OFT"),
    "stages that do not divide": ({f"{LAYER}.oft_blocks": (6, 16, 4, 4)}, "do not fit each other as OFT"),
    "factors of no axis": ({f"{LAYER}.weight": (63,), f"{LAYER}.on_input": ()}, "do not fit each other as IA3"),
    "a weight of its own": (
        {"conv_in.weight": (32, 4, 3, 3), **PAIR},
        "not a LoRA's: conv_in.weight",
    ),
    "GLoRA of another rank": (
        {f"{LAYER}.{name}.weight": (64, 3) for name in ("a1", "a2", "b1", "b2")},
        "do not fit each other as GLoRA",
    ),
    "integers": ({key: torch.ones(shape, dtype=torch.int8) for key, shape in PAIR.items()}, "no floats: .*I8"),
    "truth values": ({key: torch.ones(shape, dtype=torch.bool) for key, shape in PAIR.items()}, "no floats: .*BOOL"),
    "no number": (
        PAIR | {f"{LAYER}.lora_up.weight": torch.full(UP, float("nan"))},
        f"up of {LAYER} has numbers that are not finite",
    ),
    "no number of eight bits": (
        PAIR | {f"{LAYER}.lora_up.weight": torch.full(UP, float("nan")).to(torch.float8_e4m3fn)},
        f"up of {LAYER} has numbers that are not finite",
    ),
    "an infinite alpha": (PAIR | {f"{LAYER}.alpha": torch.tensor(float("inf"))}, "alpha of .* not finite"),
    "a product too large": (
        {key: torch.full(shape, 1e30) for key, shape in PAIR.items()},
        f"{LAYER} makes weights that are not finite",
    ),
    "beyond float32": (
        {key: torch.full(shape, 1e300, dtype=torch.float64) for key, shape in PAIR.items()},
        "not finite",
    ),
}


@pytest.mark.parametrize("case", PARTS)
def test_tensors_that_do_not_go_together(checkpoint, tmp_path, case):
    tensors, message = PARTS[case]
    assert re.search(message, refusal(checkpoint, tmp_path, tensors))


HEADERS = {
    "text for a number": ({"unet.lora_alpha": "8"}, "lora_alpha is '8', expected a number"),
    "a truth value": ({"unet.lora_alpha": True}, "lora_alpha is True, expected a number"),
    "too large a number": ({"unet.lora_alpha": 10**400}, "lora_alpha is 1000+, expected a number"),
    "no number": ({"unet.lora_alpha": float("nan")}, "lora_alpha is nan, expected a number"),
    "a list of patterns": ({"unet.lora_alpha": 8, "unet.alpha_pattern": ["a"]}, r"patterns of lora_alpha are \['a'\]"),
    "a pattern of text": ({"unet.lora_alpha": 8, "unet.alpha_pattern": {"to_q": "4"}}, "lora_alpha is '4'"),
    "no regular expression": ({"unet.lora_alpha": 8, "unet.alpha_pattern": {"(": 4}}, r"pattern '\(' is no regular"),
    "another kind": ({"unet.peft_type": "VERA"}, "peft_type = 'VERA', which is not supported"),
    "modules of their own": ({"unet.modules_to_save": ["conv_in"]}, "modules_to_save = .*merge it with peft"),
    "another model": ({"unet.init_lora_weights": "pissa_niter_4"}, "init_lora_weights = 'pissa_niter_4'"),
    "DoRA without magnitudes": ({"unet.use_dora": True}, "says use_dora, but .* has no lora_magnitude_vector"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_settings_that_cannot_be_meant(checkpoint, tmp_path, case):
    settings, message = HEADERS[case]
    assert re.search(message, refusal(checkpoint, tmp_path, PAIR, {METADATA: json.dumps(settings)}))


@pytest.mark.parametrize("text", ["{", "[1]", "7", "[" * 9999], ids=["cut", "list", "number", "deep"])
def test_settings_that_are_no_object(checkpoint, tmp_path, text):
    assert "no json object" in refusal(checkpoint, tmp_path, PAIR, {METADATA: text})


def test_a_damaged_config_beside_the_weights(checkpoint, tmp_path):
    save_file({key: torch.ones(shape) for key, shape in PAIR.items()}, tmp_path / "adapter_model.safetensors")
    for content in (b"{", b"\xff", b"[]"):
        (tmp_path / "adapter_config.json").write_bytes(content)
        with pytest.raises(CheckpointError, match="adapter_config.json is no json object"):
            apply(checkpoint, tmp_path)


def test_a_folder_without_a_lora_names_those_within(checkpoint, tmp_path):
    with pytest.raises(CheckpointError, match="is a folder without .*give the file itself"):
        apply(checkpoint, tmp_path)
    (tmp_path / "unet").mkdir()
    save_file({key: torch.ones(shape) for key, shape in PAIR.items()}, tmp_path / "unet" / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=r"is a folder without .*give \S+unet"):
        apply(checkpoint, tmp_path)


CONTENTS = {
    "a web page": b"<!DOCTYPE html><html><body>Sign in</body></html>",
    "a web page: the": b"\n  <html>" + b" " * 40,
    "Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
    "JSON text": b'{"error": "Repository not found", "code": 404}',
    "a pickle": b"PK\x03\x04" + bytes(40),
    "GGUF": b"GGUF\x03\0\0\0" + b"\xff" * 40,
}


@pytest.mark.parametrize("kind", CONTENTS)
def test_what_else_is_saved_under_the_name(checkpoint, tmp_path, kind):
    (tmp_path / "a.safetensors").write_bytes(CONTENTS[kind])
    with pytest.raises(CheckpointError, match=f"a.safetensors is .*{kind}"):
        apply(checkpoint, tmp_path / "a.safetensors")


# Good files, of which one tensor at a time is spoilt.
GOOD = {
    "LoRA": PAIR | {f"{LAYER}.alpha": (), f"{LAYER}.dora_scale": (64, 1), "lora_unet_conv_in.diff_b": (32,)},
    "peft": {f"{PATH}.lora_A.weight": DOWN, f"{PATH}.lora_B.weight": UP, f"{PATH}.lora_magnitude_vector": (64,)},
    "kernel": {
        "lora_unet_conv_in.lora_down.weight": (2, 4, 1, 1),
        "lora_unet_conv_in.lora_mid.weight": (2, 2, 3, 3),
        "lora_unet_conv_in.lora_up.weight": (32, 2, 1, 1),
    },
    "LoHa": {f"{LAYER}.hada_w{i}_{half}": shape for i in (1, 2) for half, shape in (("a", UP), ("b", DOWN))},
    "LoKr": {f"{LAYER}.lokr_w1": (8, 8), f"{LAYER}.lokr_w2_a": (8, 2), f"{LAYER}.lokr_w2_b": (2, 8)},
    "GLoRA": {
        f"{LAYER}.{name}.weight": shape for name, shape in zip(("a1", "a2", "b1", "b2"), 2 * (UP, DOWN), strict=True)
    },
    "OFT": {f"{LAYER}.oft_blocks": (4, 16, 16), f"{LAYER}.alpha": (), f"{LAYER}.rescale": (64, 1)},
    "BOFT": {f"{LAYER}.oft_blocks": (3, 16, 4, 4)},
    "IA3": {f"{LAYER}.weight": (1, 64), f"{LAYER}.on_input": ()},
    "norms": {"lora_unet_conv_norm_out.w_norm": (32,), "lora_unet_conv_norm_out.b_norm": (32,)},
}
TRIES = 60
TYPES = (torch.int8, torch.bool, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.int64)


def spoilt(tensors, chance):
    """The tensors with one of them taken out, doubled, of another type, shape or with other numbers."""
    key = chance.choice(sorted(tensors))
    one = tensors[key]
    beside = f"{key.rsplit('.', 1)[0]}.{chance.choice(('alpha', 'diff', 'lora_B.weight', 'bias'))}"
    shape = [max(0, side + chance.choice((-1, 0, 1, 2))) for side in one.shape]
    others = {
        "deleted": {},
        "doubled": {
            key: one,
            beside: one.clone(),
        },
        "renamed": {key.replace("mid_block", chance.choice(("", "mid", "up_blocks_0"))): one},
        "typed": {key: one.to(chance.choice(TYPES))},
        "reshaped": {key: torch.ones(shape)},
        "flattened": {key: one.reshape(-1)},
        "nested": {key: one[None]},
        "scalar": {key: torch.tensor(1.0)},
        "spoilt": {key: torch.full(one.shape, chance.choice((float("nan"), float("inf"), 1e38, -1e38, 0.0)))},
    }
    return {**{name: t for name, t in tensors.items() if name != key}, **others[chance.choice(sorted(others))]}


@pytest.mark.parametrize("kind", GOOD)
def test_one_spoilt_tensor_is_an_error_or_none(checkpoint, tmp_path, kind):
    """Never another exception, never a weight that is not finite."""
    chance, file = random.Random(kind), tmp_path / "a.safetensors"
    tensors = {key: torch.ones(shape) * 0.1 for key, shape in GOOD[kind].items()}
    save_file(tensors, file)
    apply(checkpoint, file)
    errors = 0
    for _ in range(TRIES):
        save_file({key: t.contiguous() for key, t in spoilt(tensors, chance).items()}, file)
        try:
            apply(checkpoint, file, chance.choice((1.0, -0.5, 0.0)))
        except CheckpointError:
            errors += 1
    assert 0 < errors < TRIES


def test_spoilt_bytes_are_an_error_or_none(checkpoint, tmp_path):
    chance, file = random.Random(0), tmp_path / "a.safetensors"
    save_file(
        {key: torch.ones(shape) for key, shape in GOOD["LoRA"].items()}, file, {METADATA: '{"unet.lora_alpha": 2}'}
    )
    content = file.read_bytes()
    assert load_file(file)
    for _ in range(TRIES):
        spoilt_content = bytearray(content[: chance.choice((len(content), chance.randrange(len(content))))])
        for _ in range(chance.randrange(1, 4)):
            place = chance.randrange(max(1, min(900, len(spoilt_content))))
            spoilt_content[place : place + 1] = bytes([chance.randrange(256)])
        file.write_bytes(spoilt_content)
        try:
            apply(checkpoint, file)
        except CheckpointError:
            continue
