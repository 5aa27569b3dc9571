"""Autoencoders alone as checkpoints: diffusers' folders, and the files that the latent diffusion paper publishes."""

import json

import pytest
import torch
from diffusers import AutoencoderTiny
from safetensors.torch import save_file

from latentrt.errors import CheckpointError
from latentrt.lora.files import Lora
from latentrt_export.checkpoint.builders import BUILDERS
from latentrt_export.checkpoint.first_stages import config_of
from latentrt_export.checkpoint.load import load_checkpoint
from latentrt_export.checkpoint.named import NamedNetwork
from latentrt_export.export import ExportOptions, export
from tests.export.first_stages import SMALL, built, kl, original_tensors, saved, vq
from tests.export.ldm import same

# The published files' autoencoders, and the millions of parameters of their encoders and decoders in the original.
PUBLISHED = {
    "vq-f4": (vq((128, 256, 512), (), 3, 8192), (22.3, 33.0)),
    "vq-f4-noattn": (vq((128, 256, 512), (), 3, 8192, mid_block_add_attention=False), (21.3, 31.9)),
    "vq-f8": (vq((128, 256, 256, 512), (3,), 4, 16384), (27.4, 40.3)),
    "vq-f8-n256": (vq((128, 256, 256, 512), (3,), 4, 256), (27.4, 40.3)),
    "vq-f16": (vq((128, 128, 256, 256, 512), (4,), 8, 16384), (28.2, 41.3)),
    "kl-f4": (kl((128, 256, 512), (), 3), (22.4, 33.0)),
    "kl-f8": (kl((128, 256, 512, 512), (), 4, scaling_factor=0.18215), (34.2, 49.5)),
    "kl-f16": (kl((128, 128, 256, 256, 512), (4,), 16), (28.3, 41.3)),
    "kl-f32": (kl((128, 128, 256, 256, 512, 512), (4, 5), 64), (42.6, 61.2)),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_shapes_of_a_published_file_give_its_config(name):
    (kind, values), counts = PUBLISHED[name]
    module = BUILDERS["vae"]({"_class_name": kind.__name__, **values})
    got = config_of({key: tuple(one.shape) for key, one in original_tensors(module).items()})
    expected = {key: list(one) if isinstance(one, tuple) else one for key, one in values.items()}
    assert got.items() >= {"_class_name": kind.__name__, **expected}.items()
    found = BUILDERS["vae"](got)
    sizes = [sum(one.numel() for one in half.parameters()) / 1e6 for half in (found.encoder, found.decoder)]
    assert sizes == [pytest.approx(one, abs=0.06) for one in counts]


@pytest.mark.parametrize("name", SMALL)
def test_a_file_has_the_weights_of_the_folder(name, tmp_path):
    module = built(name)
    module.save_pretrained(tmp_path / "folder")
    found = load_checkpoint(saved(module, tmp_path / "model.safetensors"))
    same(found, load_checkpoint(tmp_path / "folder"))
    assert found.family.name == "autoencoder" and not found.draws
    assert found.left_out == ("loss.*",)
    assert found.load_vae().config.scaling_factor == SMALL[name][1]["scaling_factor"]


def test_a_file_of_diffusers_is_read_with_the_config_beside_it(tmp_path):
    module = built("kl-f8")
    module.save_pretrained(tmp_path / "folder")
    same(
        load_checkpoint(tmp_path / "folder" / "diffusion_pytorch_model.safetensors"),
        load_checkpoint(tmp_path / "folder"),
    )
    alone = tmp_path / "model.safetensors"
    save_file(module.state_dict(), alone)
    with pytest.raises(CheckpointError, match=r"without its config.json: .* --configs DIR"):
        load_checkpoint(alone)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "vae.json").write_text((tmp_path / "folder" / "config.json").read_text())
    same(load_checkpoint(alone, configs=tmp_path / "configs"), load_checkpoint(tmp_path / "folder"))
    with pytest.raises(CheckpointError, match="has its own: leave it out"):
        load_checkpoint(tmp_path / "folder", configs=tmp_path / "configs")


def test_configs_replace_what_the_shapes_say(tmp_path):
    module = built("vq-f4")
    file = saved(module, tmp_path / "model.safetensors")
    values = {**module.config, "_class_name": "VQModel", "scaling_factor": 0.5}
    (tmp_path / "vae.json").write_text(json.dumps(values))
    assert load_checkpoint(file, configs=tmp_path).load_vae().config.scaling_factor == 0.5


def test_moving_averages_are_left_out(tmp_path):
    """The original reads first stages without them."""
    module = built("vq-f4")
    more = {"model_ema.encoderconv_inweight": module.encoder.conv_in.weight + 1, "model_ema.decay": torch.ones(())}
    found = load_checkpoint(saved(module, tmp_path / "model.safetensors", **more))
    assert torch.equal(found.load_vae().encoder.conv_in.weight, module.encoder.conv_in.weight)
    assert found.left_out == ("loss.*", "model_ema.*")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder.mid.block_1.norm1.weight": None}, "missing: encoder.mid_block.resnets.0.norm1.weight"),
        ({"encoder.down.0.block.0.spare.weight": torch.ones(2)}, "unexpected: encoder.down.0.block.0.spare.weight"),
        ({"quant_conv.weight": torch.ones(2)}, r"of another shape: quant_conv.weight \(got \(2,\)"),
        ({"post_quant_conv.weight": None}, "the vae lacks 'post_quant_conv.weight'"),
        ({"decoder.conv_in.weight": None}, "look like a VAE alone"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, change, message):
    tensors = original_tensors(built("vq-f4")) | {key: one for key, one in change.items() if one is not None}
    kept = {key: one.detach().contiguous() for key, one in tensors.items() if change.get(key, one) is not None}
    save_file(kept, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "model.safetensors")


def test_a_folder_of_another_module_is_refused(tmp_path):
    AutoencoderTiny(encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"has no model_index.json: .* or one of an AutoencoderKL or a VQModel"):
        load_checkpoint(tmp_path)


def test_latents_of_many_means_are_refused(tmp_path):
    """As other families refuse them: pictures would be wrong."""
    kind, values = SMALL["kl-f8"]
    kind(**values, latents_mean=[0.5] * 4).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"vae has latents_mean \[0.5, 0.5, 0.5, 0.5\], expected None"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"vae": "x"}, "--vae"),
        ({"steps": 3}, "--steps"),
        ({"guidance": 2.0}, "--guidance"),
        ({"prediction": "v_prediction"}, "--prediction"),
        ({"zero_snr": False}, "--zero-snr"),
        ({"loras": "lora"}, "--lora"),
        ({"controls": "network"}, "--controlnet"),
        ({"image_prompts": "network"}, "--ip-adapter"),
        ({"tiny_decoder": "x"}, "--tiny-decoder"),
    ],
)
def test_options_about_pictures_are_refused(tmp_path, options, name):
    module = built("vq-f4")
    module.save_pretrained(tmp_path / "folder")
    made = {"x": tmp_path / "folder", "lora": (Lora(tmp_path),), "network": (NamedNetwork("a", tmp_path),)}
    given = {key: made.get(one, one) if isinstance(one, str) else one for key, one in options.items()}
    with pytest.raises(CheckpointError, match=f"^{name}: got it for an autoencoder alone, .* leave it out"):
        export(tmp_path / "folder", tmp_path / "bundle", ExportOptions(**given))
    assert not (tmp_path / "bundle").exists()
