"""Pictures of the latent diffusion paper's models against diffusers' pipelines, and short loops where it has none."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, LDMPipeline, LDMSuperResolutionPipeline, UNet2DConditionModel, UNet2DModel
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel
from PIL import Image

import latentrt
from latentrt.errors import RequestError
from latentrt_export.export import ExportOptions, export
from tests.export import compvis, tiny
from tests.export.ldm import FIRST_STAGE, KL, RESAMPLING, UNET, first_stage, pixels, psnr, sampled, saved, scheduler

pytestmark = pytest.mark.usefixtures("one_thread")

LEAST_DB = 110.0
WITHOUT_ATTENTION = {
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "mid_block_add_attention": False,
}
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
    more = {"cond_stage_model.embedding.weight": table.weight.detach()}
    configs = {"class_embedding": {"num_embeddings": 1001, "embedding_dim": 24}}
    file, configs = saved(folder, unet, stage, configs, **more)
    ours = opened(file, folder / "bundle", configs=configs, name="class")
    return ours, unet, table, stage


@pytest.fixture(scope="module")
def inpainter(tmp_path_factory):
    """The inpainting pipeline here, its UNet with ResNets that resample, and its first stage without attention."""
    folder = tmp_path_factory.mktemp("inpainter")
    unet = tiny.seeded(lambda: UNet2DModel(**{**RESAMPLING, "in_channels": 7, "out_channels": 3})).eval()
    stage = first_stage({**FIRST_STAGE, **WITHOUT_ATTENTION})
    copied = {
        key.replace("first_stage_model", "cond_stage_model"): one for key, one in compvis.vae_tensors(stage).items()
    }
    file, configs = saved(folder, unet, stage, **copied)
    return opened(file, folder / "bundle", configs=configs), unet, stage


@pytest.fixture(scope="module")
def semantic(tmp_path_factory):
    """The pipeline of label maps here, its UNet, its first stage and its map from labels to channels."""
    folder = tmp_path_factory.mktemp("semantic")
    unet = tiny.seeded(lambda: UNet2DModel(**{**UNET, "in_channels": 6})).eval()
    stage, mapper = first_stage(), tiny.seeded(lambda: torch.nn.Conv2d(182, 3, 1, bias=False))
    more = {"cond_stage_model.channel_mapper.weight": mapper.weight.detach()}
    file, configs = saved(folder, unet, stage, {"segmentation": {"labels": 182, "channels": 3}}, **more)
    return opened(file, folder / "bundle", configs=configs, name="labels"), unet, stage, mapper


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


@pytest.mark.parametrize(("steps", "eta", "seeds"), [(1, 0.0, (0,)), (2, 1.0, (0,)), (20, 0.0, (0, 1, 2))])
def test_inpainting(inpainter, steps, eta, seeds):
    """As `inpaint.py` of the original: a mask of -1 and 1, black holes, and the picture put back outside the mask."""
    ours, unet, stage = inpainter
    random = np.random.default_rng(0)
    image = random.integers(0, 255, (64, 96, 3), np.uint8)
    white = np.zeros((64, 96), bool)
    white[10:50, 20:70] = True
    shown, mask = (torch.from_numpy(one).float() for one in (image / 127.5 - 1, white))
    masked = torch.where(mask[..., None] > 0, -1.0, shown).permute(2, 0, 1)[None]
    with torch.no_grad():
        extra = torch.cat([stage.encode(masked).latents, (mask * 2 - 1)[None, None, ::4, ::4]], 1)

    def predict(x, timestep, unguided):
        return unet(torch.cat([x, extra.expand(len(x), -1, -1, -1)], 1), timestep).sample

    expected = sampled(predict, stage, scheduler(), (3, 16, 24), steps=steps, eta=eta, seeds=seeds)
    request = {"init": Image.fromarray(image), "mask": Image.fromarray(white), "seed": 0, "batch": len(seeds)}
    assert psnr(pixels(ours, steps=steps, eta=eta, **request), expected) >= LEAST_DB
    result = ours.generate(steps=steps, eta=eta, **request)
    for picture, wanted in zip(result.images, expected, strict=True):
        whole = np.where(white[..., None], wanted, image / 255)
        assert np.abs(np.asarray(picture) / 255 - whole).max() <= 1 / 255


@pytest.mark.parametrize(("steps", "eta", "seeds"), [(1, 0.0, (0,)), (2, 1.0, (0,)), (20, 0.0, (0, 1, 2))])
def test_label_maps(semantic, tmp_path, steps, eta, seeds):
    ours, unet, stage, mapper = semantic
    labels = np.random.default_rng(1).integers(0, 182, (64, 96))
    one_hot = torch.nn.functional.one_hot(torch.from_numpy(labels), 182).permute(2, 0, 1)[None].float()
    half = {"scale_factor": 0.5, "mode": "bilinear"}
    with torch.no_grad():
        extra = mapper(torch.nn.functional.interpolate(torch.nn.functional.interpolate(one_hot, **half), **half))

    def predict(x, timestep, unguided):
        return unet(torch.cat([x, extra.expand(len(x), -1, -1, -1)], 1), timestep).sample

    expected = sampled(predict, stage, scheduler(), (3, 16, 24), steps=steps, eta=eta, seeds=seeds)
    Image.fromarray(labels.astype(np.uint8)).save(tmp_path / "labels.png")
    for given in (labels, tmp_path / "labels.png"):
        got = pixels(ours, segmentation=given, steps=steps, eta=eta, seed=0, batch=len(seeds))
        assert psnr(got, expected) >= LEAST_DB


def test_what_models_of_label_maps_refuse(semantic, tmp_path):
    labels = np.zeros((64, 64), np.int64)
    unknown = labels.copy()
    unknown[3, 5] = 182
    Image.new("RGB", (64, 64)).save(tmp_path / "colours.png")
    for options, message in (
        ({}, "segmentation: got none, but labels draws from a label map; give one"),
        ({"segmentation": unknown}, "got the label 182 at pixel 5, 3, expected 0 to 181"),
        ({"segmentation": labels, "width": 128}, "got 64x64 pixels, expected 128x64, the size of the picture"),
        ({"segmentation": labels[:60]}, "segmentation: got 64x60 pixels, expected 64x48"),
        ({"segmentation": tmp_path / "colours.png"}, "got an image of mode RGB, expected one number per pixel"),
        ({"segmentation": tmp_path / "none.png"}, "is not a readable image"),
        ({"segmentation": labels.astype(float)}, "expected an image, its file, or labels"),
    ):
        with pytest.raises(RequestError, match=message):
            semantic[0].generate(steps=1, **options)


def test_only_models_of_label_maps_take_one(unconditional):
    with pytest.raises(RequestError, match="takes no label map; leave it out"):
        unconditional[0].generate(steps=1, segmentation=np.zeros((64, 64), int))


@pytest.fixture(scope="module")
def retrieval(tmp_path_factory):
    """The retrieval-augmented pipeline here, its UNet and its KL first stage."""
    folder = tmp_path_factory.mktemp("retrieval")
    config = {**CLASS_UNET, "in_channels": 4, "out_channels": 4, "attention_head_dim": [2, 4]}
    config |= {"down_block_types": ("CrossAttnDownBlock2D",) * 2, "up_block_types": ("CrossAttnUpBlock2D",) * 2}
    unet = tiny.seeded(lambda: UNet2DConditionModel(**config)).eval()
    stage = tiny.seeded(lambda: AutoencoderKL(**KL)).eval()
    file, configs = saved(folder, unet, stage)
    return opened(file, folder / "bundle", configs=configs, name="rdm"), unet, stage


@pytest.mark.parametrize(
    ("steps", "guidance", "eta", "seeds", "count"),
    [(1, 1.0, 0.0, (0,), 1), (2, 5.0, 0.0, (0, 1, 2), 4), (20, 5.0, 0.0, (0,), 2), (2, 5.0, 1.0, (0,), 11)],
)
def test_vectors(retrieval, tmp_path, steps, guidance, eta, seeds, count):
    """As `knn2img.py` of the original: vectors of length 1, and zeros without guidance."""
    ours, unet, stage = retrieval
    vectors = np.random.default_rng(0).standard_normal((count, 24)).astype(np.float32)
    context = torch.from_numpy(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))[None]

    def predict(x, timestep, unguided):
        known = torch.zeros_like(context) if unguided else context
        return unet(x, timestep, known.expand(len(x), -1, -1)).sample

    options = {"steps": steps, "guidance": guidance, "eta": eta}
    expected = sampled(predict, stage, scheduler(), (4, 16, 24), **options, seeds=seeds)
    np.save(tmp_path / "vectors.npy", vectors)
    got = pixels(ours, vectors=tmp_path / "vectors.npy", batch=len(seeds), seed=0, width=96, height=64, **options)
    assert psnr(got, expected) >= LEAST_DB


def test_what_models_of_vectors_refuse(retrieval, tmp_path):
    vectors = np.ones((2, 24), np.float32)
    for given, message in (
        (None, "vectors: got none, but rdm draws from vectors; give some"),
        (vectors[:, :20], r"got the shape \(2, 20\), expected 1 to 64 vectors, \(vectors, 24\)"),
        (vectors * 0, "got one of zeros"),
        (vectors * np.nan, "not finite"),
        (tmp_path / "none.npy", "is not a readable .npy file"),
        ([[1.0] * 24], "expected floats"),
    ):
        with pytest.raises(RequestError, match=message):
            retrieval[0].generate(steps=1, vectors=given)


BOXES = [
    {"label": 15, "box": [0.1, 0.2, 0.5, 0.6]},
    {"label": 351, "box": [0.0, 0.0, 1.0, 1.0]},
    {"label": 0, "box": [0.25, 0.75, 0.75, 0.25]},
]


@pytest.fixture(scope="module")
def layouts(tmp_path_factory):
    """The pipeline of layouts here, its UNet with transformers of depth 2, its first stage and its LDM-BERT."""
    folder = tmp_path_factory.mktemp("layouts")
    unet = tiny.seeded(lambda: UNet2DConditionModel(**{**CLASS_UNET, "transformer_layers_per_block": 2})).eval()
    bert = {"d_model": 24, "encoder_layers": 2, "encoder_ffn_dim": 96, "encoder_attention_heads": 8, "head_dim": 8}
    bert |= {"vocab_size": 8192, "max_position_embeddings": 92}
    encoder = tiny.seeded(lambda: LDMBertModel(LDMBertConfig(**bert))).eval()
    stage, more = first_stage(), compvis.bert_tensors(encoder)
    file, configs = saved(folder, unet, stage, {"layout_encoder": {**bert, "model_type": "ldmbert"}}, **more)
    return opened(file, folder / "bundle", configs=configs, name="boxes"), unet, stage, encoder


def tokens_of(boxes):
    """The tokens as taming-transformers' builder describes them: class, top left, bottom right, on a grid of 90."""
    corners = [((x, y), (x + w, y + h)) for x, y, w, h in (box["box"] for box in boxes)]
    grid = [[round(y * 89) * 90 + round(x * 89) for x, y in pair] for pair in corners]
    objects = [[box["label"], *pair] for box, pair in zip(boxes, grid, strict=True)]
    objects += [[8191] * 3] * (30 - len(objects))
    return torch.tensor([[*(token for one in objects for token in one), 0, 8099]])


@pytest.mark.parametrize(
    ("steps", "guidance", "eta", "seeds"),
    [(1, 1.0, 0.0, (0,)), (2, 3.0, 0.0, (0, 1, 2)), (20, 1.0, 0.0, (0,)), (2, 1.0, 1.0, (0,))],
)
def test_layouts(layouts, tmp_path, steps, guidance, eta, seeds):
    ours, unet, stage, encoder = layouts
    with torch.no_grad():
        boxed, empty = (encoder(tokens_of(one))[0] for one in (BOXES, []))

    def predict(x, timestep, unguided):
        return unet(x, timestep, (empty if unguided else boxed).expand(len(x), -1, -1)).sample

    options = {"steps": steps, "guidance": guidance, "eta": eta}
    expected = sampled(predict, stage, scheduler(), (3, 16, 24), **options, seeds=seeds)
    (tmp_path / "boxes.json").write_text(json.dumps(BOXES))
    got = pixels(ours, layout=tmp_path / "boxes.json", batch=len(seeds), seed=0, width=96, height=64, **options)
    assert psnr(got, expected) >= LEAST_DB


def test_a_layout_in_metadata_makes_the_picture_again(layouts, tmp_path):
    result = layouts[0].generate(layout=BOXES, steps=1, seed=0)
    result.save(tmp_path / "boxes.png")
    with Image.open(tmp_path / "boxes.png") as picture:
        layout = json.loads(picture.info["latentrt"])["layout"]
    assert layouts[0].generate(layout=layout, steps=1, seed=0).images[0].tobytes() == result.images[0].tobytes()


def test_what_models_of_layouts_refuse(layouts, tmp_path):
    whole = [0, 0, 1, 1]
    (tmp_path / "broken.json").write_text("[{")
    for given, message in (
        (None, "layout: got none, but boxes draws from layout; give some"),
        ([{"label": 1, "box": [0.5, 0, 0.6, 1]}], r"layout\[0\]\.box: got .* not inside the picture"),
        ([{"label": 1, "box": [0, 0, 0, 1]}], "not inside the picture"),
        ([{"label": 1, "box": [0, 0, float("nan"), 1]}], "expected left, top, width and height"),
        ([{"label": 8191, "box": whole}], r"layout\[0\]\.label: got 8191, expected a whole number from 0 to 8190"),
        ([{"label": "dog", "box": whole}], "label: got 'dog', expected a whole number"),
        ([{"label": 1, "box": whole}] * 31, "got 31 boxes, expected at most 30"),
        ([{"box": whole}], "expected a label and a box"),
        ({"label": 1}, "expected a list of boxes"),
        (tmp_path / "none.json", "is not a readable JSON file"),
        (tmp_path / "broken.json", "is not a readable JSON file"),
    ):
        with pytest.raises(RequestError, match=message):
            layouts[0].generate(steps=1, layout=given)


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
