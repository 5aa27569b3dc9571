"""The exported text encoder at each of its layers, held against transformers and against diffusers' own clip skip."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from transformers import CLIPTokenizer

import latentrt
from latentrt.export.write import ExportOptions, export
from tests.export import builtin, tiny

# transformers asks for torchvision by a warning as soon as diffusers imports its pipelines.
pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore:.*torchvision.*")]

PROMPTS = ["a red apple", "", "cat " * 40]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The small checkpoint's bundle, exported here, and its text encoder."""
    folder = tmp_path_factory.mktemp("small")
    tiny.save_diffusers_folder(folder / "checkpoint")
    export(folder / "checkpoint", folder / "bundle", ExportOptions())
    with latentrt.load(folder / "bundle") as pipeline:
        yield pipeline, tiny.build_text_encoder()


@pytest.fixture(scope="module")
def trained():
    """The built-in bundle and its text encoder."""
    with latentrt.load("emoji") as pipeline:
        yield pipeline, builtin.build_text_encoder()


def assert_close(got, expected):
    assert got.shape == expected.shape
    assert np.abs(got - expected.numpy()).max() <= 1e-5 * expected.abs().max().item()


def context_of(pipeline, clip_skip, prompts=PROMPTS):
    feeds = {"input_ids": pipeline.tokenizer(prompts), "clip_skip": np.array([clip_skip])}
    return pipeline.engines["text_encoder"](feeds)["context"]


@pytest.mark.parametrize(("checkpoint", "layers"), [("small", 2), ("trained", 3)])
def test_each_layer_is_the_one_of_transformers(request, checkpoint, layers):
    pipeline, model = request.getfixturevalue(checkpoint)
    assert pipeline.bundle.manifest.text.layers == layers
    with torch.no_grad():
        encoded = model(torch.from_numpy(pipeline.tokenizer(PROMPTS)), output_hidden_states=True)
        assert_close(context_of(pipeline, 1), encoded.last_hidden_state)
        for clip_skip in range(1, layers + 1):
            expected = model.final_layer_norm(encoded.hidden_states[-clip_skip])
            assert_close(context_of(pipeline, clip_skip), expected)


def diffusers_pipeline(folder, text_encoder):
    """Returns a pipeline that can encode prompts and nothing else."""
    tiny.save_tokenizer(folder)
    return StableDiffusionPipeline(
        vae=None,
        text_encoder=text_encoder,
        tokenizer=CLIPTokenizer.from_pretrained(folder),
        unet=None,
        scheduler=tiny.build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@pytest.mark.parametrize("checkpoint", ["small", "trained"])
@pytest.mark.parametrize(("theirs", "ours"), [(None, 1), (0, 1), (1, 2)])
def test_one_more_than_diffusers(request, monkeypatch, tmp_path, checkpoint, theirs, ours):
    pipeline, model = request.getfixturevalue(checkpoint)
    # diffusers 0.42.1 looks for the final layer norm in a `text_model`, a level that transformers 5 has no more.
    monkeypatch.setattr(type(model), "text_model", property(lambda model: model), raising=False)
    reference = diffusers_pipeline(tmp_path / "tokenizer", model)
    with torch.no_grad():
        expected, _ = reference.encode_prompt(PROMPTS, "cpu", 1, False, clip_skip=theirs)
    assert_close(context_of(pipeline, ours), expected)
