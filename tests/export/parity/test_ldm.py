"""Pictures of the latent diffusion paper's models against diffusers' pipelines, and short loops where it has none."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from diffusers import LDMPipeline, LDMSuperResolutionPipeline, UNet2DConditionModel, UNet2DModel
from PIL import Image
from safetensors.torch import save_file

import latentrt
from latentrt.errors import RequestError
from latentrt_export.export import ExportOptions, export
from tests.export import compvis, tiny
from tests.export.ldm import FIRST_STAGE, UNET, first_stage, pixels, psnr, sampled, scheduler

pytestmark = pytest.mark.usefixtures("one_thread")

LEAST_DB = 110.0
CLASS_UNET = {
    **{key: UNET[key] for key in ("sample_size", "in_channels", "out_channels", "norm_num_groups")},
    "layers_per_block": 1,
    "block_out_channels": (32, 64),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": 1,
    "cross_attention_dim": 24,
}


def opened(checkpoint, folder, **options):
    """Exports a checkpoint and opens the bundle."""
    export(checkpoint, folder, ExportOptions(**options))
    return latentrt.load(folder, engine="onnxruntime")


@pytest.fixture(scope="module")
def unconditional(tmp_path_factory):
    """The pipeline here and diffusers'."""
    folder = tmp_path_factory.mktemp("unconditional")
    unet = tiny.seeded(lambda: UNet2DModel(**UNET)).eval()
    theirs = LDMPipeline(vqvae=first_stage(), unet=unet, scheduler=scheduler())
    theirs.set_progress_bar_config(disable=True)
    theirs.save_pretrained(folder / "checkpoint")
    return opened(folder / "checkpoint", folder / "bundle"), theirs


@pytest.fixture(scope="module")
def upscaler(tmp_path_factory):
    """The super-resolution pipeline here and diffusers', whose last step goes to no noise at all."""
    folder = tmp_path_factory.mktemp("upscaler")
    unet = tiny.seeded(lambda: UNet2DModel(**{**UNET, "in_channels": 6})).eval()
    theirs = LDMSuperResolutionPipeline(
        vqvae=first_stage(), unet=unet, scheduler=scheduler(0.0155, set_alpha_to_one=True)
    )
    theirs.set_progress_bar_config(disable=True)
    theirs.save_pretrained(folder / "checkpoint")
    return opened(folder / "checkpoint", folder / "bundle"), theirs


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """The class-conditional pipeline here, its UNet, its table of classes and its first stage."""
    folder = tmp_path_factory.mktemp("classes")
    unet = tiny.seeded(lambda: UNet2DConditionModel(**CLASS_UNET)).eval()
    stage, table = first_stage(), torch.nn.Embedding(1001, 24)
    torch.nn.init.normal_(table.weight, generator=torch.Generator().manual_seed(1))
    tensors = compvis.unet_tensors(unet) | compvis.vae_tensors(stage)
    tensors["cond_stage_model.embedding.weight"] = table.weight.detach()
    save_file({key: one.contiguous().clone() for key, one in tensors.items()}, folder / "class.safetensors")
    (folder / "configs").mkdir()
    configs = {
        "unet": {**unet.config, "_class_name": "UNet2DConditionModel"},
        "vae": {**stage.config, "_class_name": "VQModel"},
        "scheduler": {**scheduler().config, "_class_name": "DDIMScheduler"},
        "class_embedding": {"num_embeddings": 1001, "embedding_dim": 24},
    }
    for name, config in configs.items():
        (folder / "configs" / f"{name}.json").write_text(json.dumps(config))
    ours = opened(folder / "class.safetensors", folder / "bundle", configs=folder / "configs")
    return ours, unet, table, stage


@pytest.mark.parametrize("steps", [1, 2, 20])
def test_unconditional(unconditional, steps):
    ours, theirs = unconditional
    generator = torch.Generator().manual_seed(0)
    expected = theirs(generator=generator, num_inference_steps=steps, output_type="np", return_dict=False)[0]
    assert psnr(pixels(ours, seed=0, steps=steps), expected) >= LEAST_DB


@pytest.mark.parametrize(("eta", "seeds"), [(0.0, (3, 4, 5)), (1.0, (0,))])
def test_unconditional_of_other_sizes(unconditional, eta, seeds):
    ours, theirs = unconditional
    options = {"steps": 4, "eta": eta, "width": 96, "height": 64, "batch": len(seeds), "seed": seeds[0]}

    def predict(x, timestep, unguided):
        return theirs.unet(x, timestep).sample

    expected = sampled(predict, theirs.vqvae, scheduler(), (3, 16, 24), steps=4, eta=eta, seeds=seeds)
    assert psnr(pixels(ours, **options), expected) >= LEAST_DB


@pytest.mark.parametrize("steps", [1, 2, 20])
def test_super_resolution(upscaler, steps):
    ours, theirs = upscaler
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 64, 3), np.uint8))
    generator = torch.Generator().manual_seed(0)
    expected = theirs(image, num_inference_steps=steps, eta=0.0, generator=generator, output_type="np").images
    got = pixels(ours, init=image, seed=0, steps=steps, eta=0.0, width=256, height=128)
    assert psnr(got, expected) >= LEAST_DB


@pytest.mark.parametrize(
    ("steps", "guidance", "eta", "seeds"),
    [(1, 1.0, 0.0, (0,)), (2, 3.0, 0.0, (0, 1, 2)), (20, 3.0, 0.0, (0,)), (3, 3.0, 1.0, (0,))],
)
def test_classes(classes, steps, guidance, eta, seeds):
    ours, unet, table, stage = classes

    def predict(x, timestep, unguided):
        label = torch.full((len(x),), 1000 if unguided else 207)
        return unet(x, timestep, table(label)[:, None]).sample

    options = {"steps": steps, "guidance": guidance, "eta": eta}
    expected = sampled(predict, stage, scheduler(), (3, 16, 24), **options, seeds=seeds)
    got = pixels(ours, class_label="golden retriever", batch=len(seeds), seed=0, width=96, height=64, **options)
    assert psnr(got, expected) >= LEAST_DB


REFUSED = [
    ({}, "got none, but class draws a class; give 0 to 999 or a name"),
    ({"class_label": 1001}, "got 1001, expected a whole number from 0 to 999"),
    ({"class_label": -1}, "got -1, expected a whole number from 0 to 999"),
    ({"class_label": True}, "got True, expected a whole number"),
    ({"class_label": "golden retreiver"}, "no class of the model; expected 'golden retriever'"),
    ({"class_label": "crane"}, "the name of 134 and 517; give the number"),
    ({"class_label": 1, "prompt": "a dog"}, "takes no prompt; give a class"),
    ({"class_label": 1, "width": 62}, "width: got 62, expected a multiple of 4"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=[message[:30] for _, message in REFUSED])
def test_what_class_models_refuse(classes, options, message):
    with pytest.raises(RequestError) as caught:
        classes[0].generate(steps=1, **options)
    assert message in str(caught.value)


def test_what_unconditional_models_refuse(unconditional):
    for options, message in (
        ({"prompt": "a dog"}, "takes no prompt; leave it out"),
        ({"guidance": 3.0}, "no unconditional input to guide from"),
        ({"class_label": 3}, "takes no class"),
        ({"width": 60}, "expected a multiple of 16; the nearest are 48 or 64"),
    ):
        with pytest.raises(RequestError, match=message):
            unconditional[0].generate(steps=1, **options)


def test_an_upscaler_asks_for_a_picture(upscaler):
    with pytest.raises(RequestError, match="init: got none, but checkpoint upscales a picture"):
        upscaler[0].generate(steps=1)


def test_the_class_goes_into_the_picture_s_metadata(classes, tmp_path):
    classes[0].generate(class_label="tench", steps=1, seed=0).save(tmp_path / "tench.png")
    with Image.open(tmp_path / "tench.png") as picture:
        assert json.loads(picture.info["latentrt"])["class_label"] == 0


def test_a_codebook_s_nearest_vectors_are_float64_s(unconditional):
    ours, theirs = unconditional
    latents = np.random.default_rng(0).standard_normal((2, 3, 40, 36)).astype(np.float32)
    codebook = theirs.vqvae.quantize.embedding.weight.detach().double().numpy()
    vectors = latents.transpose(0, 2, 3, 1).reshape(-1, 3)
    nearest = ((vectors[:, None].astype(np.float64) - codebook) ** 2).sum(-1).argmin(1)
    expected = codebook[nearest].reshape(2, 40, 36, 3).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(ours.quantized(latents), expected.astype(np.float32))
    assert FIRST_STAGE["num_vq_embeddings"] == len(codebook)
