"""Small models of the latent diffusion paper: configs, modules from a seed, and pixels of both sides."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DModel, VQModel
from safetensors.torch import save_file

from latentrt.request.request import Request
from tests.export import compvis, tiny

UNET = {
    "sample_size": 16,
    "in_channels": 3,
    "out_channels": 3,
    "layers_per_block": 2,
    "block_out_channels": (32, 64, 64),
    "norm_num_groups": 8,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": 16,
}
RESAMPLING = {
    **UNET,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("AttnDownBlock2D", "ResnetDownsampleBlock2D", "ResnetDownsampleBlock2D"),
    "up_block_types": ("ResnetUpsampleBlock2D", "ResnetUpsampleBlock2D", "AttnUpBlock2D"),
    "downsample_type": "resnet",
    "upsample_type": "resnet",
    "resnet_time_scale_shift": "scale_shift",
    "attn_norm_num_groups": 8,
}
STAGE = {
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (16, 32, 32),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "down_block_types": ("DownEncoderBlock2D", "DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
    "up_block_types": ("AttnUpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"),
}
FIRST_STAGE = {**STAGE, "latent_channels": 3, "num_vq_embeddings": 64, "scaling_factor": 1.0}
KL = {**STAGE, "latent_channels": 4, "scaling_factor": 0.3}


def scheduler(beta_end=0.0195, **more):
    """The schedule of the paper's DDIM."""
    usual = {"beta_schedule": "scaled_linear", "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
    return DDIMScheduler(**{"beta_start": 0.0015, "beta_end": beta_end, **usual, **more})


def first_stage(config=FIRST_STAGE):
    """A VQ model, whose codebook is spread as latents are."""
    module = tiny.seeded(lambda: VQModel(**config)).eval()
    with torch.no_grad():
        module.quantize.embedding.weight.normal_(generator=torch.Generator().manual_seed(3))
    return module


def same(got, expected):
    """Asserts that two checkpoints have the same weights."""
    assert got.family == expected.family
    for name, component in expected.components.items():
        ours, theirs = got.components[name].load().state_dict(), component.load().state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs), name


def pixels(pipeline, **request):
    """The pictures of a request as floats in [0, 1], (batch, height, width, 3)."""
    run = pipeline.steps(Request(**request))
    *_, last = itertools.islice(run, run.total)
    return np.clip(pipeline.decode(last.latents) / 2 + 0.5, 0, 1).transpose(0, 2, 3, 1)


def psnr(got, expected):
    """The PSNR in dB of pictures in [0, 1]."""
    assert got.shape == expected.shape
    return 20 * math.log10(1 / max(np.sqrt(np.mean((got - expected) ** 2)), 1e-9))


def sampled(predict, stage, scheduler, size, *, steps, guidance=1.0, eta=0.0, seeds=(0,)):
    """Pictures of a short loop around diffusers' modules. predict: the noise, from latents, timestep and "unguided"."""
    scheduler.set_timesteps(steps)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    x = torch.cat([torch.randn(1, *size, generator=one) for one in generators])
    with torch.no_grad():
        for timestep in scheduler.timesteps:
            noise = predict(x, timestep, False)
            if guidance != 1:
                unguided = predict(x, timestep, True)
                noise = unguided + guidance * (noise - unguided)
            more = torch.cat([torch.randn(1, *size, generator=one) for one in generators]) if eta else None
            x = scheduler.step(noise, timestep, x, eta=eta, variance_noise=more).prev_sample
        decoded = stage.decode(x / stage.config.scaling_factor).sample
    return (decoded / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()


def saved(folder, unet, stage, configs=None, **more):
    """Writes a model as an original file, and its configs as a folder; returns both paths. more: further tensors."""
    unet_tensors = compvis.plain_unet_tensors if isinstance(unet, UNet2DModel) else compvis.unet_tensors
    tensors = unet_tensors(unet) | compvis.vae_tensors(stage) | more
    save_file({key: tensor.contiguous().clone() for key, tensor in tensors.items()}, folder / "model.safetensors")
    modules = {"unet": unet, "vae": stage, "scheduler": scheduler()}
    known = {name: {**one.config, "_class_name": type(one).__name__} for name, one in modules.items()}
    (folder / "configs").mkdir()
    for name, config in (known | (configs or {})).items():
        (folder / "configs" / f"{name}.json").write_text(json.dumps(config))
    return folder / "model.safetensors", folder / "configs"
