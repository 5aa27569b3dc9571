"""Textual inversion added at export: what diffusers' load_textual_inversion makes of the same files."""

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from latentrt.bundle import sha256_of
from latentrt.cli.export import export as command
from latentrt.errors import CheckpointError
from latentrt.export.embeddings import Embedding
from latentrt.export.write import ExportOptions
from latentrt.pipeline import load_tokenizer
from latentrt.request import Request
from tests.export.samplers import MARKS, psnr
from tests.export.tiny_families import SMALL, TINY, reference
from tests.export.untraced import untraced

pytestmark = MARKS

LEAST_DB = 45.0
SIZE = {"width": 56, "height": 40}
WORDS = ("<cat>", "bad-hands")


def vectors(seed, *shape):
    return 0.05 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def saved(path):
    """Checkpoints of one text encoder and of two; embeddings of three vectors, of one, and of one for each encoder."""
    for name, family in (("sd1", SMALL), ("sdxl", TINY["sdxl"])):
        reference(family, path / "tokenizers" / name).save_pretrained(path / name)
    save_file({"<cat>": vectors(1, 3, 32)}, path / "cat.safetensors")
    save_file({"emb_params": vectors(2, 32)}, path / "bad-hands.safetensors")
    save_file({"clip_l": vectors(3, 2, 32), "clip_g": vectors(4, 2, 48)}, path / "style.safetensors")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("embeddings"))


def with_words(folder, out):
    """Both sides with the words of two files; ours is in torch."""
    files = tuple(Embedding(folder / f"{name}.safetensors") for name in ("cat", "bad-hands"))
    theirs = reference(SMALL, folder / "tokenizers" / "sd1")
    theirs.load_textual_inversion(folder / "cat.safetensors")
    theirs.load_textual_inversion(folder / "bad-hands.safetensors", token="bad-hands")
    return untraced(folder / "sd1", out, ExportOptions(embeddings=files)), theirs


def images(ours, theirs, prompt, negative):
    """Both sides' pixels, not rounded."""
    asked = {"seed": 0, "steps": 2, "guidance": 5.0, "syntax": "plain", **SIZE}
    latents = ours.steps(Request(prompt, negative, **asked)).latents()
    expected = theirs(
        prompt,
        negative_prompt=negative,
        num_inference_steps=2,
        guidance_scale=5.0,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
        **SIZE,
    ).images
    return np.clip(ours.decode(latents) / 2 + 0.5, 0, 1).transpose(0, 2, 3, 1), expected


def test_words_of_one_and_of_several_vectors(folder, tmp_path):
    ours, theirs = with_words(folder, tmp_path / "bundle")
    spec, text = ours.bundle.manifest.tokenizer, "a red <Cat>, two bad-hands"
    assert spec.embeddings == {"<cat>": 3, "bad-hands": 1}
    ids = theirs.tokenizer(theirs.maybe_convert_prompt(text.lower(), theirs.tokenizer), padding="max_length").input_ids
    np.testing.assert_array_equal(load_tokenizer(ours.bundle)([text])[0], ids)
    with torch.no_grad():
        context = theirs.text_encoder(torch.tensor([ids])).last_hidden_state
    got = ours.call("text_encoder", input_ids=np.array([ids]), clip_skip=np.array([1]))["context"]
    np.testing.assert_allclose(got, context, rtol=0, atol=2e-6)
    found = psnr(*images(ours, theirs, text.lower(), "bad-hands"), 1.0)
    print(f"{found:.1f} dB")
    assert found >= LEAST_DB
    recorded = ours.bundle.manifest.provenance
    assert recorded["embedding 1"] == f"cat.safetensors, <cat>, sha256 {sha256_of(folder / 'cat.safetensors')}"


def test_a_word_for_two_encoders(folder, tmp_path):
    file = folder / "style.safetensors"
    ours = untraced(folder / "sdxl", tmp_path / "bundle", ExportOptions(embeddings=(Embedding(file, "<style>"),)))
    theirs = reference(TINY["sdxl"], folder / "tokenizers" / "sdxl")
    for suffix, embedding in (("", vectors(3, 2, 32)), ("_2", vectors(4, 2, 48))):
        parts = {name: getattr(theirs, name + suffix) for name in ("text_encoder", "tokenizer")}
        theirs.load_textual_inversion({"<style>": embedding}, token="<style>", **parts)
    found = psnr(*images(ours, theirs, "an apple <style> now", "blue"), 1.0)
    print(f"{found:.1f} dB")
    assert found >= LEAST_DB
    assert psnr(*(images(ours, theirs, text, "blue")[0] for text in ("an apple <style>", "an apple")), 1.0) < 70


REFUSED = {
    "width": (
        {"<cat>": vectors(0, 2, 48)},
        None,
        "<cat> is F32 of shape (2, 48), expected floats whose last axis",
    ),
    "type": ({"<cat>": torch.ones(32, dtype=torch.int64)}, None, "<cat> is I64 of shape (32,), expected floats"),
    "two encoders": ({"clip_l": vectors(0, 32), "clip_g": vectors(0, 48)}, None, "holds clip_g, clip_l, expected one"),
    "several": ({"<cat>": vectors(0, 32), "<dog>": vectors(0, 32)}, None, "holds <cat>, <dog>, expected one tensor"),
    "known": ({"<cat>": vectors(0, 32)}, "apple</w>", "the token 'apple</w>' is in the vocabulary already; name"),
    "spaces": ({"<cat>": vectors(0, 32)}, "my cat", "got the token 'my cat', expected a word without spaces"),
    "empty": ({"<cat>": vectors(0, 32)}, "", "got the token '', expected a word"),
    "long": (
        {"<cat>": vectors(0, 31, 32)},
        None,
        "holds 31 vectors, expected as many for each text encoder",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_that_does_not_fit_is_one_error_and_leaves_nothing(folder, tmp_path, case):
    tensors, token, said = REFUSED[case]
    save_file(tensors, tmp_path / "x.safetensors")
    options = ExportOptions(embeddings=(Embedding(tmp_path / "x.safetensors", token),))
    with pytest.raises(CheckpointError) as caught:
        untraced(folder / "sd1", tmp_path / "out", options)
    assert said in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


def test_the_command_and_files_that_cannot_be_read(folder, tmp_path):
    (tmp_path / "half.safetensors").write_bytes((folder / "cat.safetensors").read_bytes()[:-9])
    (tmp_path / "old.pt").write_bytes(b"pickle")
    twice = str(folder / "cat.safetensors")
    for files, said in (
        (["none.safetensors"], "no embedding at none.safetensors"),
        ([str(tmp_path / "half.safetensors")], "is damaged or incomplete"),
        ([str(tmp_path / "old.pt")], "is a pickle"),
        ([twice, twice], "the token '<cat>' is in the vocabulary already"),
        ([f"{twice}:<new>", f"{twice}:<new>"], "the token '<new>' is in the vocabulary already"),
    ):
        options = [part for file in files for part in ("--embedding", file)]
        done = CliRunner().invoke(command, [str(folder / "sd1"), str(tmp_path / "out"), *options])
        assert isinstance(done.exception, CheckpointError) and said in str(done.exception)
        assert not (tmp_path / "out").exists()
