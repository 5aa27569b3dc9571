"""LoRA files fused into a checkpoint: the weights that peft merges, and every file that does not fit."""

import pytest
import torch
from click.testing import CliRunner
from diffusers import LCMScheduler
from peft import LoHaConfig, LoKrConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import set_peft_model_state_dict
from safetensors.torch import save_file

from latentrt.bundle.folder import sha256_of
from latentrt.errors import CheckpointError
from latentrt.lora.files import Lora
from latentrt.lora.names import part_of, weights_by_name
from latentrt.request.request import Request
from latentrt_export.checkpoint.load import load_checkpoint
from latentrt_export.checkpoint.lora import loras_provenance, with_loras
from latentrt_export.cli.export import export as command
from latentrt_export.export import ExportOptions, export
from tests.export import compvis, loras, tiny
from tests.export.samplers import MARKS, PROMPT, Pair, diffusers_pipeline
from tests.export.untraced import untraced

pytestmark = MARKS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint and a LoRA file for it."""
    path = tmp_path_factory.mktemp("lora")
    tiny.save_diffusers_folder(path / "checkpoint")
    loras.save_kohya(path / "kohya.safetensors", loras.adapters(1), alpha=5)
    return path


def fused(folder, *chosen):
    """Returns the checkpoint's UNet and text encoder with the files fused into them."""
    checkpoint = with_loras(load_checkpoint(folder / "checkpoint"), chosen)
    return checkpoint.load_unet(), checkpoint.load_text_encoder()


@pytest.mark.filterwarnings("ignore")
def test_four_steps_with_a_lora_of_a_latent_consistency_model(folder, tmp_path):
    """The recipe of docs/lora.md: a LoRA of the UNet alone, fused, whose name brings its settings as defaults."""
    name = "lcm-lora-sdv1-5.safetensors"
    loras.save_kohya(tmp_path / name, loras.adapters(3) | {"text_encoder": {}}, alpha=3)
    options = ExportOptions(loras=(Lora(tmp_path / name),))
    ours = untraced(folder / "checkpoint", tmp_path / "bundle", options)
    defaults = ours.bundle.manifest.defaults
    assert (defaults.sampler, defaults.sigmas, defaults.steps, defaults.guidance) == ("lcm", "normal", 4, 1.0)
    modules = tiny.build_unet(), tiny.build_vae(), tiny.build_text_encoder()
    theirs = diffusers_pipeline(tmp_path / "tokenizer", *modules)
    theirs.scheduler = LCMScheduler.from_config(theirs.scheduler.config)
    theirs.load_lora_weights(tmp_path, weight_name=name)
    theirs.fuse_lora()
    asked = [Request(PROMPT, "", None, guidance, 0, 80, 56) for guidance in (None, 2.0)]
    found = [min(Pair(ours, theirs, {}).losses(request)) for request in asked]
    print(" ".join(f"{db:.1f} dB" for db in found))
    assert min(found) >= 45


def test_provenance_names_file_scale_and_hash(folder):
    file = folder / "kohya.safetensors"
    said = loras_provenance([Lora(file, 0.8)])
    assert said == {"lora 1": f"kohya.safetensors, scale 0.8, sha256 {sha256_of(file)}"}


@pytest.mark.parametrize(
    "kind, options",
    [
        (LoHaConfig, {"use_effective_conv2d": True}),
        (LoKrConfig, {"use_effective_conv2d": True, "decompose_both": True}),
    ],
)
def test_loha_and_lokr_are_what_peft_merges(folder, tmp_path, kind, options):
    made = loras.adapters(3, alpha=5, kind=kind, **options)["unet"]
    module = tiny.build_unet()
    module.add_adapter(kind(r=3, alpha=5, target_modules=loras.UNET_LAYERS, **options))
    set_peft_model_state_dict(module, made)
    tensors = {f"lora_unet_{layer.replace('.', '_')}.{name}": t for (layer, name), t in split(made).items()}
    alphas = {f"{key.split('.')[0]}.alpha": torch.tensor(5.0) for key in tensors}
    save_file(tensors | alphas, tmp_path / "a.safetensors")
    unet, _ = fused(folder, Lora(tmp_path / "a.safetensors", 1.0))
    ours, plain = unet.state_dict(), tiny.build_unet().state_dict()
    changed = 0
    for name, layer in module.named_modules():
        if isinstance(layer, BaseTunerLayer):
            layer.merge()
            key = f"{name}.weight"
            torch.testing.assert_close(ours[key], layer.get_base_layer().weight, rtol=1e-5, atol=1e-5)
            changed += not torch.equal(ours[key], plain[key])
    assert changed == len(alphas)


def split(adapter):
    return {tuple(key.removesuffix(".weight").rsplit(".", 1)): tensor for key, tensor in adapter.items()}


def test_every_layer_is_found_by_its_original_name():
    unet = tiny.build_unet()
    weights = unet.state_dict()
    found = weights_by_name("unet", weights)
    kinds = [key for key in weights if key.endswith("weight") and weights[key].ndim > 1]
    originals = {tensor.data_ptr(): name for name, tensor in compvis.unet_tensors(unet).items()}
    for key in kinds:
        layer = originals[weights[key].data_ptr()].removeprefix("model.diffusion_model.").removesuffix(".weight")
        assert found[f"lora_unet_{layer.replace('.', '_')}"] == key


@pytest.mark.parametrize(
    "key, layer, tensor",
    [
        ("unet.mid_block.attentions.0.proj_in.lora.down.weight", "unet_mid_block_attentions_0_proj_in", "down"),
        ("base_model.model.conv_in.lora_B.default.weight", "conv_in", "up"),
        ("unet.a.attn1.processor.to_out_lora.up.weight", "unet_a_attn1_to_out", "up"),
        ("text_encoder.text_model.a.q_proj.lora_linear_layer.up.weight", "text_encoder_text_model_a_q_proj", "up"),
        ("lora_te1_text_model_a.lora_mid.weight", "lora_te1_text_model_a", "mid"),
        ("lora_unet_conv_in.hada_w1_a", "lora_unet_conv_in", "hada_w1_a"),
        ("lora_unet_conv_in.oft_blocks", "lora_unet_conv_in", "oft_blocks"),
        ("lora_unet_conv_in.a1.weight", "lora_unet_conv_in", "a1.weight"),
        ("lora_unet_conv_in.diff_b", "lora_unet_conv_in", "diff_b"),
        ("base_model.model.conv_in.lora_B.ink.weight", "conv_in", "up"),
        ("base_model.model.conv_in.lora_B.bias", "conv_in", "up_bias"),
        ("base_model.model.conv_in.lora_magnitude_vector.weight", "conv_in", "lora_magnitude_vector"),
        ("diffusion_model.out.2.lora_up.weight", "diffusion_model_out_2", "up"),
    ],
)
def test_keys_of_every_layout(key, layer, tensor):
    assert part_of(key) == (layer, tensor)


def test_a_convolution_with_a_core_is_the_product_of_three(folder, tmp_path):
    random = torch.Generator().manual_seed(0)
    down, up, mid = (torch.randn(s, generator=random) for s in ((2, 4, 1, 1), (32, 2, 1, 1), (2, 2, 3, 3)))
    save_file(
        {f"conv_in.lora_{name}.weight": t for name, t in (("down", down), ("up", up), ("mid", mid))},
        tmp_path / "a.safetensors",
    )
    unet, _ = fused(folder, Lora(tmp_path / "a.safetensors", 0.5))
    x = torch.randn(1, 4, 6, 5, generator=random)
    conv = torch.nn.functional.conv2d
    expected = tiny.build_unet().conv_in(x) + 0.5 * conv(conv(conv(x, down), mid, padding=1), up)
    torch.testing.assert_close(unet.conv_in(x), expected, rtol=1e-5, atol=1e-5)


PAIR = {"conv_in.lora_A.weight": (2, 4, 3, 3), "conv_in.lora_B.weight": (32, 2, 1, 1)}
BAD = {
    "no LoRA": ({"weight": (2, 2)}, "is no LoRA: its keys are weight"),
    "another key": (PAIR | {"conv_in.bias": (2,)}, "not a LoRA's: conv_in.bias"),
    "another family": (
        {"lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": (2, 4)},
        "layers that checkpoint .sd1. does not have: lora_te2_text_model_encoder_layers_0_mlp_fc1. It was made for",
    ),
    "another width": (
        PAIR | {"conv_in.lora_B.weight": (48, 2, 1, 1)},
        r"unet conv_in.weight .got a change of shape \(48, 4, 3, 3\), expected \(32, 4, 3, 3\)",
    ),
    "half a pair": ({"conv_in.lora_A.weight": (2, 4, 3, 3)}, "tensors of conv_in do not fit each other as LoRA"),
    "ranks apart": (
        PAIR | {"conv_in.lora_B.weight": (32, 3, 1, 1)},
        "do not fit each other as LoRA .* up .32, 3, 1, 1.",
    ),
    "a kind that is not applied": (PAIR | {"conv_in.oft_R.weight": (4, 6)}, "conv_in.oft_R.weight is of peft's OFT"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_file_that_does_not_fit_is_one_error_and_leaves_nothing(folder, tmp_path, case):
    shapes, message = BAD[case]
    save_file({key: torch.ones(shape) for key, shape in shapes.items()}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=message):
        export(folder / "checkpoint", tmp_path / "out", ExportOptions(loras=(Lora(tmp_path / "a.safetensors"),)))
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_missing_or_damaged_file_and_a_scale_that_is_no_number(folder, tmp_path):
    checkpoint = load_checkpoint(folder / "checkpoint")
    (tmp_path / "a.safetensors").write_bytes(b"\0" * 30)
    for lora, message in (
        (Lora(tmp_path / "b.safetensors"), "no LoRA at"),
        (Lora(tmp_path / "a.safetensors"), "damaged"),
        (Lora(folder / "kohya.safetensors", float("nan")), "scale nan, expected a finite number"),
    ):
        with pytest.raises(CheckpointError, match=message):
            with_loras(checkpoint, [lora])


@pytest.mark.parametrize("scale", ["abc", ""])
def test_the_command_refuses_a_scale_that_is_no_number(folder, scale):
    done = CliRunner().invoke(command, ["checkpoint", "out", "--lora", f"a:b.safetensors:{scale}"])
    assert done.exit_code == 2 and f"got the scale {scale!r}" in done.output and "a:b.safetensors:0.8" in done.output
