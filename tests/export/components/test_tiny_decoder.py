"""The tiny decoder: the same picture as diffusers' pipeline with an AutoencoderTiny as its VAE, and clear refusals."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny
from safetensors.torch import save_file

import latentrt
from latentrt.bundle.catalog import folder_of
from latentrt.bundle.folder import open_bundle
from latentrt.engines.nvidia import lowered
from latentrt.errors import CheckpointError, RequestError
from latentrt.images.pillow import to_images
from latentrt.pipeline.metadata import read_png
from latentrt.request.request import Request
from latentrt_export.build import cpu
from latentrt_export.components.tiny_decoder import open_tiny_decoder, tiny_part
from latentrt_export.export import ExportOptions, write_component
from latentrt_export.lower.tensorrt import lower
from tests.export import builtin, tiny
from tests.export.parts import written
from tests.export.samplers import MARKS, Pair, diffusers_pipeline
from tests.export.untraced import untraced

pytestmark = MARKS

CONFIG = {
    "encoder_block_out_channels": (8, 8, 8, 8),
    "decoder_block_out_channels": (8, 8, 8, 8),
    "num_encoder_blocks": (1, 1, 1, 1),
    "num_decoder_blocks": (1, 1, 1, 1),
}
ASKED = {"steps": 2, "guidance": 4.0, "seed": 3, "width": 72, "height": 40, "batch": 2}


def build_tiny_decoder(**config: object) -> AutoencoderTiny:
    return tiny.seeded(lambda: AutoencoderTiny(**{**CONFIG, **config}))


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny decoder, and the bundle of the built-in model with it."""
    path = tmp_path_factory.mktemp("tiny")
    build_tiny_decoder().save_pretrained(path / "taesd")
    (path / "bundle").mkdir()
    known = open_bundle(folder_of("emoji"), verify=False)
    part = tiny_part(open_tiny_decoder(path / "taesd"), (4, 8))
    decoder = write_component(part, path / "bundle", "fp32", lambda line: None)
    written(path / "bundle", known, {**known.manifest.components, "tiny_decoder": decoder})
    return path


def test_an_export_adds_it(origin: Path, tmp_path: Path) -> None:
    tiny.save_diffusers_folder(tmp_path / "checkpoint")
    options = ExportOptions(tiny_decoder=origin / "taesd")
    ours = untraced(tmp_path / "checkpoint", tmp_path / "bundle", options)
    assert ours.generate("a red apple", fast_decode=True, **ASKED).images[0].size == (72, 40)


def test_pictures_are_those_of_diffusers(origin: Path) -> None:
    modules = builtin.build_unet(), build_tiny_decoder(), builtin.build_text_encoder()
    theirs = diffusers_pipeline(origin / "tokenizer", *modules)
    ours = latentrt.load(origin / "bundle", engine="onnxruntime")
    pair = Pair(ours, theirs, builtin.config("scheduler"))
    pair = pair.with_schedule("ddim", "v_prediction", "trailing", "normal")
    run = pair.ours.steps(Request("a red apple", negative="blue", sampler="ddim", fast_decode=True, **ASKED))
    latents = run.latents()
    expected = pair.theirs(
        "a red apple",
        negative_prompt="blue",
        num_inference_steps=ASKED["steps"],
        guidance_scale=ASKED["guidance"],
        width=ASKED["width"],
        height=ASKED["height"],
        num_images_per_prompt=2,
        generator=[torch.Generator().manual_seed(seed) for seed in (3, 4)],
        output_type="np",
    ).images
    got = np.clip(pair.ours.decode(latents, "tiny_decoder") / 2 + 0.5, 0, 1).transpose(0, 2, 3, 1)
    assert got.shape == expected.shape and -20 * math.log10(np.sqrt(np.mean((got - expected) ** 2))) > 60


def test_fast_runs_leave_the_vae_alone_and_say_so(origin: Path, tmp_path: Path) -> None:
    with latentrt.load(origin / "bundle", engine="onnxruntime", memory_budget=2_000_000_000) as pipe:
        run = pipe.steps(Request("a red apple", fast_decode=True, **ASKED))
        *_, last = run
        assert pipe.engines["vae_decoder"].session is None
        images = to_images(pipe.decode(last.latents, "tiny_decoder"))
        assert run.result.images == images and "tiny_decoder" in run.timings and "vae_decoder" not in run.timings
        assert pipe.generate("a red apple", **ASKED).images != images
    run.result.save(tmp_path / "fast.png")
    assert read_png(tmp_path / "fast.png")["fast_decode"] is True


def test_previews_are_the_tiny_decoder_s(origin: Path) -> None:
    with latentrt.load(origin / "bundle", engine="onnxruntime") as pipe:
        step = next(pipe.steps(Request("a red apple", **ASKED)))
        assert step.preview(1) == to_images(pipe.decode(step.denoised[1:], "tiny_decoder"))[0]
        assert step.preview(1).size == (ASKED["width"], ASKED["height"])


def test_single_files_are_read_like_folders(origin: Path, tmp_path: Path) -> None:
    state = build_tiny_decoder().decoder.layers.state_dict()
    original = {f"{int(key.split('.')[0]) + 1}.{key.split('.', 1)[1]}": value for key, value in state.items()}
    save_file(original, tmp_path / "taesd_decoder.safetensors")
    loaded = open_tiny_decoder(origin / "taesd").load().decoder.layers.state_dict()
    assert loaded.keys() == state.keys() and all(torch.equal(loaded[key], state[key]) for key in state)


def test_it_is_lowered_and_optimised_like_the_others(origin: Path, tmp_path: Path) -> None:
    bundle = open_bundle(origin / "bundle")
    alone = {"tiny_decoder": bundle.manifest.components["tiny_decoder"]}
    bundle = replace(bundle, manifest=replace(bundle.manifest, components=alone))
    lower(bundle, tmp_path, "decomposed")
    assert lowered.find(bundle, [tmp_path], "tiny_decoder", "decomposed").lowered.fidelity.psnr_db is None
    lost = cpu.write(bundle, "tiny_decoder", tmp_path / "built", {}).fidelity.psnr_db
    assert lost is None or lost > 120


def test_a_bundle_without_one_says_how_to_add_it() -> None:
    with latentrt.load("emoji") as pipe, pytest.raises(RequestError, match="latentrt export --tiny-decoder PATH"):
        pipe.generate("a red apple", fast_decode=True)


REFUSED = {
    "nothing": (lambda path: None, "no tiny decoder at"),
    "another module": (lambda path: tiny.build_vae().save_pretrained(path), "got a AutoencoderKL, expected"),
    "another file": (lambda path: save_file({"weight": torch.zeros(2)}, path), "got no 1.weight, expected the layout"),
    "other latents": (lambda path: build_tiny_decoder(latent_channels=16).save_pretrained(path), "got 16 channels"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_tiny_decoder_of_these_latents_is_refused(tmp_path: Path, kind: str) -> None:
    make, message = REFUSED[kind]
    path = tmp_path / "given.safetensors"
    make(path)
    with pytest.raises(CheckpointError, match=message):
        tiny_part(open_tiny_decoder(path), (4, 8))
