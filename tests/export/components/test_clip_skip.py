"""The exported text encoder at each of its layers, held against transformers and against diffusers' own clip skip."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from transformers import CLIPTokenizer

from latentrt.bundle.folder import open_bundle
from latentrt.engines import open_engine
from latentrt.prompt.tokenizer import Tokenizer
from latentrt_export.components.text import text_parts
from latentrt_export.export import write_component
from tests.export import builtin, tiny

# transformers asks for torchvision by a warning as soon as diffusers imports its pipelines.
pytestmark = pytest.mark.usefixtures("one_thread")

PROMPTS = ["a red apple", "", "cat " * 40]
IDS = Tokenizer.load(tiny.TOKENIZER, length=32, bos=0, eos=1, pad=1)(PROMPTS)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The small checkpoint's text encoder, exported here, and what it was exported from."""
    folder = tmp_path_factory.mktemp("small")
    [part] = text_parts(tiny.build_text_encoder())
    component = write_component(part, folder, "fp32", lambda line: None)
    return open_engine("onnxruntime", part.name, component, folder), tiny.build_text_encoder()


@pytest.fixture(scope="module")
def trained():
    """The built-in text encoder, as a graph and as a module."""
    component = open_bundle(builtin.BUNDLE, verify=False).manifest.components["text_encoder"]
    return open_engine("onnxruntime", "text_encoder", component, builtin.BUNDLE), builtin.build_text_encoder()


def assert_close(got, expected):
    assert got.shape == expected.shape
    assert np.abs(got - expected.numpy()).max() <= 1e-5 * expected.abs().max().item()


def context_of(engine, clip_skip):
    return engine({"input_ids": IDS, "clip_skip": np.array([clip_skip])})["context"]


@pytest.mark.parametrize(("checkpoint", "layers"), [("small", 2), ("trained", 3)])
def test_each_layer_is_the_one_of_transformers(request, checkpoint, layers):
    engine, model = request.getfixturevalue(checkpoint)
    with torch.no_grad():
        encoded = model(torch.from_numpy(IDS), output_hidden_states=True)
        assert_close(context_of(engine, 1), encoded.last_hidden_state)
        for clip_skip in range(1, layers + 1):
            expected = model.final_layer_norm(encoded.hidden_states[-clip_skip])
            assert_close(context_of(engine, clip_skip), expected)


def test_the_manifest_says_how_many_layers_there_are():
    assert open_bundle(builtin.BUNDLE, verify=False).manifest.text.layers == len(
        builtin.build_text_encoder().encoder.layers
    )


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
    engine, model = request.getfixturevalue(checkpoint)
    # diffusers 0.42.1 looks for the final layer norm in a `text_model`, a level that transformers 5 has no more.
    monkeypatch.setattr(type(model), "text_model", property(lambda model: model), raising=False)
    reference = diffusers_pipeline(tmp_path / "tokenizer", model)
    with torch.no_grad():
        expected, _ = reference.encode_prompt(PROMPTS, "cpu", 1, False, clip_skip=theirs)
    assert_close(context_of(engine, ours), expected)
