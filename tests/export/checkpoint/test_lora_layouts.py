"""The layouts of LoRA files: whatever names a layer, whatever type its numbers have, the change is the same."""

from copy import deepcopy

import pytest
import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file

from latentrt.lora.files import Lora, bundled_words
from latentrt.lora.weights import applied
from latentrt_export.checkpoint.load import load_checkpoint
from latentrt_export.checkpoint.lora import loras_provenance, with_loras
from tests.export import tiny
from tests.export.tiny_families import TINY, reference

UNET = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
ORIGINAL = "middle_block.1.transformer_blocks.0.attn1.to_q"
TEXT = "text_model.encoder.layers.0.self_attn.q_proj"
PEFT, KOHYA = ("lora_A.weight", "lora_B.weight"), ("lora_down.weight", "lora_up.weight")
# Of each layout, the layers' names and those of a pair's halves.
LAYOUTS = {
    "kohya": (f"lora_unet_{UNET.replace('.', '_')}", f"lora_te_{TEXT.replace('.', '_')}", KOHYA),
    "kohya, original names": (f"lora_unet_{ORIGINAL.replace('.', '_')}", f"lora_te_{TEXT.replace('.', '_')}", KOHYA),
    "diffusers": (f"unet.{UNET}", f"text_encoder.{TEXT}", PEFT),
    "diffusers, older": (f"unet.{UNET}", f"text_encoder.{TEXT}", ("lora.down.weight", "lora.up.weight")),
    "comfy": (f"diffusion_model.{ORIGINAL}", f"text_encoders.clip_l.transformer.{TEXT}", KOHYA),
    "comfy, whole": (f"model.diffusion_model.{ORIGINAL}", f"text_encoders.clip_l.transformer.{TEXT}", PEFT),
    "comfy, diffusers' names": (f"diffusion_model.{UNET}", f"text_encoders.clip_l.{TEXT}", KOHYA),
    "lycoris": (f"lycoris_{UNET.replace('.', '_')}", f"lycoris_{TEXT.replace('.', '_')}", KOHYA),
    "peft": (f"base_model.model.{UNET}", f"base_model.model.{TEXT}", PEFT),
    "peft, named": (f"base_model.model.{UNET}", f"base_model.model.{TEXT}", ("lora_A.ink.weight", "lora_B.ink.weight")),
    "peft, bare": (UNET, TEXT, ("lora_A.default.weight", "lora_B.default.weight")),
    "compiled": (f"unet._orig_mod.{UNET}", f"text_encoder._orig_mod.{TEXT}", PEFT),
    "without a leaf": (f"diffusion_model.{ORIGINAL}", f"text_encoder.{TEXT}", ("lora_A", "lora_B")),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("layouts")
    tiny.save_diffusers_folder(folder)
    return load_checkpoint(folder)


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def changes(checkpoint, file, scale=1.0):
    """What a file adds to each weight, by component and key."""
    changed = with_loras(checkpoint, [Lora(file, scale)])
    found = {}
    for name, component in changed.components.items():
        for change in component.changes:
            zeros = torch.zeros(component.weights[change.weight].shape).numpy()
            key = name, change.weight.removeprefix("text_model.")
            found[key] = found.get(key, 0) + torch.from_numpy(change.apply(zeros))
    return found


def saved(folder, tensors, notes=None, name="a.safetensors"):
    save_file(tensors, folder / name, notes)
    return folder / name


def pairs(layout, rank=2):
    unet, text, (down, up) = LAYOUTS[layout]
    widths = {unet: 64, text: 32}
    return {
        f"{layer}.{half}": drawn(*shape, seed=seed)
        for layer, width in widths.items()
        for half, shape, seed in ((down, (rank, width), 1), (up, (width, rank), 2))
    }


EXPECTED = {
    ("unet", f"{UNET}.weight"): drawn(64, 2, seed=2) @ drawn(2, 64, seed=1),
    ("text_encoder", f"{TEXT}.weight".removeprefix("text_model.")): drawn(32, 2, seed=2) @ drawn(2, 32, seed=1),
}


def assert_same(found, expected=EXPECTED, tolerance=1e-5):
    assert found.keys() == expected.keys()
    for key, weight in expected.items():
        torch.testing.assert_close(found[key], weight, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_names_the_same_layers(checkpoint, tmp_path, layout):
    assert_same(changes(checkpoint, saved(tmp_path, pairs(layout))))


def test_both_encoders_of_sdxl_are_found_by_all_names(tmp_path):
    """Where a file says nothing of which encoder it is for, its widths do."""
    reference(TINY["sdxl"], tmp_path / "tokenizers").save_pretrained(tmp_path / "xl")
    checkpoint = load_checkpoint(tmp_path / "xl")
    path = "text_model.encoder.layers.0.self_attn.q_proj"
    names = {
        "text_encoder": ("lora_te1_", "text_encoder.", "text_encoders.clip_l.transformer.", "base_model.model."),
        "text_encoder_2": ("lora_te2_", "text_encoder_2.", "text_encoders.clip_g.transformer.", "base_model.model."),
    }
    widths = {"text_encoder": 32, "text_encoder_2": 48}
    for component, prefixes in names.items():
        width = widths[component]
        for prefix in prefixes:
            layer = f"{prefix}{path}" if prefix.endswith(".") else f"{prefix}{path}".replace(".", "_")
            tensors = {f"{layer}.lora_A.weight": drawn(2, width), f"{layer}.lora_B.weight": drawn(width, 2)}
            [(found, key)] = changes(checkpoint, saved(tmp_path, tensors))
            assert (found, key) == (component, path.removeprefix("text_model.") + ".weight")


@pytest.mark.parametrize(
    "dtype, tolerance",
    [
        (torch.float64, 1e-5),
        (torch.bfloat16, 0.1),
        (torch.float8_e4m3fn, 0.7),
        (torch.float8_e5m2, 1.5),
        (torch.float8_e4m3fnuz, 0.7),
        (torch.float8_e5m2fnuz, 1.5),
    ],
    ids=str,
)
def test_floats_of_every_type(checkpoint, tmp_path, dtype, tolerance):
    tensors = {key: tensor.to(dtype) for key, tensor in pairs("kohya").items()}
    found = changes(checkpoint, saved(tmp_path, tensors))
    halves = {key: tensor.to(dtype).float() for key, tensor in pairs("kohya").items()}
    assert_same(found, changes(checkpoint, saved(tmp_path, halves)), 1e-6)
    assert_same(found, tolerance=tolerance)


@pytest.mark.parametrize(
    "alpha", [torch.tensor(3.0), torch.tensor([3.0]), torch.tensor([[3]]), torch.tensor(3, dtype=torch.int64)], ids=repr
)
def test_alpha_is_one_number_of_any_shape_and_type(checkpoint, tmp_path, alpha):
    layers = LAYOUTS["kohya"][:2]
    file = saved(tmp_path, pairs("kohya") | {f"{layer}.alpha": alpha.clone() for layer in layers})
    assert_same(changes(checkpoint, file), {key: 1.5 * weight for key, weight in EXPECTED.items()})


def test_layers_of_rank_0_and_alphas_alone_add_nothing(checkpoint, tmp_path):
    unet, text, _ = LAYOUTS["kohya"]
    tensors = {
        **{key: tensor for key, tensor in pairs("kohya").items() if key.startswith(text)},
        **{f"{unet}.lora_down.weight": torch.zeros(0, 64), f"{unet}.lora_up.weight": torch.zeros(64, 0)},
        f"{unet}.alpha": torch.tensor(4.0),
        f"lora_unet_{UNET.replace('.', '_').replace('to_q', 'to_k')}.alpha": torch.tensor(4.0),
    }
    found = changes(checkpoint, saved(tmp_path, tensors))
    assert not found.pop(("unet", f"{UNET}.weight")).any()
    assert_same(found, {key: weight for key, weight in EXPECTED.items() if key[0] == "text_encoder"})


def test_a_suffix_in_capitals(checkpoint, tmp_path):
    assert_same(changes(checkpoint, saved(tmp_path, pairs("kohya"), name="A.SAFETENSORS")))


def test_words_that_a_file_brings_along_are_no_layers(checkpoint, tmp_path):
    words = {"bundle_emb.one.string_to_param.*": drawn(2, 32), "bundle_emb.two.v2.clip_l": drawn(2, 32)}
    words |= {"bundle_emb.two.v2.clip_g": drawn(2, 48), "bundle_emb.three.emb": drawn(32)}
    file = saved(tmp_path, pairs("kohya") | words)
    assert bundled_words(file) == ("one", "three", "two.v2")
    assert_same(changes(checkpoint, file))
    assert bundled_words(saved(tmp_path, pairs("kohya"))) == ()
    assert changes(checkpoint, saved(tmp_path, words)) == {}


# Of peft's own folders: what merges there.


@pytest.fixture(scope="module")
def unet():
    return tiny.build_unet()


def merged(checkpoint, unet, lora):
    """The weights of the UNet with a file in it, as its component makes them when it loads."""
    state = unet.state_dict()
    for change in with_loras(checkpoint, [lora]).components["unet"].changes:
        state[change.weight] = torch.from_numpy(change.apply(state[change.weight].numpy()))
    return state


def assert_merged(state, expected, plain):
    """Holds one against the other, and that they change the same weights."""
    changed = {key for key, weight in expected.items() if not torch.equal(weight, plain[key])}
    assert changed == {key for key, weight in state.items() if not torch.equal(weight, plain[key])} != set()
    for key, weight in expected.items():
        torch.testing.assert_close(state[key], weight, rtol=1e-5, atol=1e-5)


def peft_folder(folder, unet, config, scale=None):
    """Writes a random adapter of a UNet as peft does, and returns the weights that peft merges from there."""
    module = get_peft_model(deepcopy(unet), config)
    random = torch.Generator().manual_seed(0)
    for name, parameter in module.named_parameters():
        if "lora_" in name or "hada_" in name or "lokr_" in name:
            shift = 1.0 if "magnitude" in name else 0.0
            parameter.data = shift + 0.2 * torch.randn(parameter.shape, generator=random)
    module.save_pretrained(folder)
    module = PeftModel.from_pretrained(deepcopy(unet), folder)  # patterns are sorted there
    for layer in module.modules():
        if scale is not None and hasattr(layer, "set_scale"):
            layer.set_scale("default", scale)
    return module.merge_and_unload().state_dict()


TARGETS = ["attn1.to_q", "conv1", "time_emb_proj", "attn2.to_k"]
CONFIGS = {
    "alpha": LoraConfig(r=4, lora_alpha=16, target_modules=TARGETS),
    "rank-stabilised": LoraConfig(r=4, lora_alpha=16, use_rslora=True, target_modules=TARGETS),
    "patterns": LoraConfig(
        r=4,
        lora_alpha=16,
        target_modules=TARGETS,
        rank_pattern={"conv1": 2},
        alpha_pattern={"mid_block.*": 3, ".*to_q": 5, "conv1": 7},
    ),
    "dora": LoraConfig(r=4, lora_alpha=6, use_dora=True, target_modules=TARGETS),
    "fan_in_fan_out": LoraConfig(r=4, lora_alpha=16, fan_in_fan_out=True, target_modules=TARGETS),
    "bias": LoraConfig(r=4, lora_alpha=6, lora_bias=True, target_modules=["attn1.to_out.0", "conv1"]),
    "loha": LoHaConfig(r=4, alpha=6, target_modules=TARGETS, alpha_pattern={"conv1": 3}),
    "lokr": LoKrConfig(r=4, alpha=6, target_modules=TARGETS, rank_pattern={"conv1": 2}),
    "lokr, whole": LoKrConfig(r=64, alpha=16, target_modules=TARGETS),
}


@pytest.mark.filterwarnings("ignore:.*fan_in_fan_out")
@pytest.mark.filterwarnings("ignore:.*lora_bias=True")
@pytest.mark.filterwarnings("ignore:.*have invalid shape")  # so peft says of biases
@pytest.mark.parametrize("case, given", [*((case, ".") for case in CONFIGS), ("alpha", "adapter_model.safetensors")])
def test_an_adapter_as_peft_saves_it_is_what_peft_merges(checkpoint, unet, tmp_path, case, given):
    expected = peft_folder(tmp_path / "adapter", unet, CONFIGS[case])
    assert_merged(merged(checkpoint, unet, Lora(tmp_path / "adapter" / given)), expected, unet.state_dict())


@pytest.mark.parametrize("scale", [0.0, 0.5])
def test_dora_of_peft_at_another_scale_is_what_peft_merges(checkpoint, unet, tmp_path, scale):
    """There the scale is part of the adapter, whose norm is taken of the weight with it."""
    expected = peft_folder(tmp_path, unet, CONFIGS["dora"], scale)
    assert_merged(merged(checkpoint, unet, Lora(tmp_path, scale)), expected, unet.state_dict())


def test_diffusers_own_files_of_one_module(checkpoint, unet, tmp_path):
    """`save_lora_adapter` notes the settings in the header without the component's name."""
    theirs = deepcopy(unet)
    theirs.add_adapter(LoraConfig(r=4, lora_alpha=16, target_modules=TARGETS, init_lora_weights=False))
    theirs.save_lora_adapter(tmp_path)
    theirs.fuse_lora()
    theirs.unload_lora()
    assert_merged(merged(checkpoint, unet, Lora(tmp_path)), theirs.state_dict(), unet.state_dict())


def test_a_folder_is_named_and_its_weights_are_hashed(unet, tmp_path):
    peft_folder(tmp_path / "ink", unet, CONFIGS["alpha"])
    [said] = applied([Lora(tmp_path / "ink", 0.5)])
    [file] = applied([Lora(tmp_path / "ink" / "adapter_model.safetensors", 0.5)])
    assert said.file == "ink" and said.sha256 == file.sha256
    assert loras_provenance([Lora(tmp_path / "ink", 0.5, 0.25)]) == {
        "lora 1": f"ink, scale 0.5, text scale 0.25, sha256 {said.sha256}"
    }
