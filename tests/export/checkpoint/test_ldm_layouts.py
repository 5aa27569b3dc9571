"""Original files of the latent diffusion paper's models give the same weights as diffusers' modules."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers import AutoencoderKL, LDMPipeline, UNet2DModel, VQModel
from safetensors.torch import save_file

from latentrt.errors import CheckpointError
from latentrt_export.checkpoint.load import load_checkpoint
from tests.export import compvis, tiny
from tests.export.ldm import FIRST_STAGE, KL, RESAMPLING, UNET, same, saved, scheduler

MODELS = {
    "attention at two levels, VQ": (UNET, FIRST_STAGE, VQModel),
    "ResNets that resample, scale and shift, KL": (RESAMPLING, KL, AutoencoderKL),
}


@pytest.fixture(params=MODELS)
def model(request):
    """The modules of a small model."""
    unet, stage, kind = MODELS[request.param]
    return tiny.seeded(lambda: UNet2DModel(**unet)).eval(), tiny.seeded(lambda: kind(**stage)).eval()


def test_a_file_has_the_weights_of_the_folder(model, tmp_path):
    file, configs = saved(tmp_path, *model)
    LDMPipeline(vqvae=model[1], unet=model[0], scheduler=scheduler()).save_pretrained(tmp_path / "folder")
    same(load_checkpoint(file, configs=configs), load_checkpoint(tmp_path / "folder"))


def test_moving_averages_are_taken_where_there_are_some(model, tmp_path):
    unet, stage = model
    file, configs = saved(tmp_path, unet, stage, **compvis.averages(compvis.plain_unet_tensors(unet)))
    found = load_checkpoint(file, configs=configs)
    assert torch.equal(found.load_unet().conv_in.weight, unet.conv_in.weight)
    assert "moving averages" in found.declarations["weights"]


def test_the_measured_factor_of_latents_is_read(model, tmp_path):
    file, configs = saved(tmp_path, *model, scale_factor=torch.tensor(0.25))
    assert load_checkpoint(file, configs=configs).load_vae().config.scaling_factor == 0.25


def test_a_vq_model_without_a_factor_has_latents_of_unit_variance(tmp_path):
    unet, stage = UNet2DModel(**UNET), VQModel(**FIRST_STAGE)
    LDMPipeline(vqvae=stage, unet=unet, scheduler=scheduler()).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "vqvae" / "config.json").read_text())
    del config["scaling_factor"]
    (tmp_path / "vqvae" / "config.json").write_text(json.dumps(config))
    assert load_checkpoint(tmp_path).load_vae().config.scaling_factor == 1.0


def test_heads_of_every_width_are_those_of_the_config(tmp_path):
    unet, stage = tiny.seeded(lambda: UNet2DModel(**UNET)), tiny.seeded(lambda: VQModel(**FIRST_STAGE))
    file, configs = saved(tmp_path, unet, stage)
    text = json.loads((configs / "unet.json").read_text()) | {"num_heads": 2}
    (configs / "unet.json").write_text(json.dumps(text))
    attentions = [one for one in load_checkpoint(file, configs=configs).load_unet().modules() if hasattr(one, "to_q")]
    assert {one.heads for one in attentions} == {2}


def test_a_lost_tensor_is_named(model, tmp_path):
    file, configs = saved(tmp_path, *model)
    tensors = compvis.plain_unet_tensors(model[0]) | compvis.vae_tensors(model[1])
    lost = "model.diffusion_model.middle_block.1.qkv.weight"
    save_file({key: one.contiguous().clone() for key, one in tensors.items() if key != lost}, file)
    with pytest.raises(CheckpointError, match=r"missing: mid_block\.attentions\.0\.to_q\.weight"):
        load_checkpoint(file, configs=configs)
