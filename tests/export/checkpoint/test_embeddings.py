"""Textual inversion added at export: what diffusers' load_textual_inversion makes of the same files."""

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from latentrt.bundle.folder import sha256_of
from latentrt.errors import CheckpointError
from latentrt.lora.files import Lora
from latentrt.pipeline.load import load_tokenizer
from latentrt_export import options as options_module
from latentrt_export.checkpoint.embeddings import Embedding, words_of
from latentrt_export.cli.export import embedding_of
from latentrt_export.cli.export import export as command
from latentrt_export.export import ExportOptions, prepare_checkpoint
from tests.export.embeddings import images, saved, vectors, with_words
from tests.export.samplers import MARKS, psnr
from tests.export.tiny_families import TINY, reference
from tests.export.untraced import untraced

pytestmark = MARKS

LEAST_DB = 45.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("embeddings"))


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
    "one token for several": (
        {"<cat>": vectors(0, 32), "<dog>": vectors(0, 32)},
        "pet",
        "holds the words <cat>, <dog>, got the one token 'pet' for them",
    ),
    "second encoder": ({"clip_g": vectors(0, 48)}, None, "holds clip_g, expected one"),
    "quantized": ({"a.weight": torch.ones(32, dtype=torch.int8)}, None, "is quantized (I8: a.weight)"),
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


FP8 = torch.float8_e4m3fn
LAYOUTS = {
    "a word a tensor": ({"<cat>": vectors(0, 2, 32), "<dog>": vectors(1, 32)}, {"<cat>": 2, "<dog>": 1}),
    "what comes out as well": ({"emb_params": vectors(0, 3, 32), "emb_params_out": vectors(1, 3, 32)}, {"my-x": 3}),
    "string_to_param": (
        {"string_to_param.*": vectors(0, 2, 32), "string_to_token.*": torch.tensor(265)},
        {"my-x": 2},
    ),
    "one encoder by its name": ({"clip_l": vectors(0, 2, 32)}, {"my-x": 2}),
    "bundled": (
        {"bundle_emb.my.word.string_to_param.*": vectors(0, 2, 32), "lora_a.lora_up.weight": vectors(1, 2, 2)},
        {"my.word": 2},
    ),
    "bundled by encoder": (
        {"bundle_emb.w-ab.clip_l": vectors(0, 32), "bundle_emb.w-cd.clip_l": vectors(1, 32)},
        {"w-ab": 1, "w-cd": 1},
    ),
    "fp8": ({"<cat>": vectors(0, 2, 32).to(FP8)}, {"<cat>": 2}),
    "fp64": ({"<cat>": vectors(0, 2, 32).double()}, {"<cat>": 2}),
}


def added(checkpoint, tokenizer, **options):
    """What opening a checkpoint with a file's words gives, and the lines that say so."""
    lines = []
    found = prepare_checkpoint(checkpoint, ExportOptions(tokenizer=tokenizer, **options), lines.append)
    return found, words_of(found.tokenizer), lines


def rows(found, encoder, count):
    """The last rows of an encoder's table of tokens."""
    state = found.checkpoint.components[encoder].load().state_dict()
    [table] = [tensor for key, tensor in state.items() if key.endswith("embeddings.token_embedding.weight")]
    return table[-count:]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_files_for_one_text_encoder(folder, tmp_path, layout):
    tensors, words = LAYOUTS[layout]
    save_file(tensors, tmp_path / "my-x.safetensors")
    tokenizer = folder / "tokenizers" / "sd1" / "tokenizer"
    found, got, lines = added(folder / "sd1", tokenizer, embeddings=(Embedding(tmp_path / "my-x.safetensors"),))
    assert got == words
    wanted = [key for key in sorted(tensors) if not key.endswith(("_out", "string_to_token.*", "lora_up.weight"))]
    expected = torch.cat([tensors[key].float().reshape(-1, 32) for key in wanted])
    assert torch.equal(rows(found, "text_encoder", sum(words.values())), expected)
    assert any("emb_params_out is left out" in line for line in lines) == ("emb_params_out" in tensors)


@pytest.mark.parametrize("names", [("clip_l", "clip_g"), ("text_encoders_0", "text_encoders_1")])
@pytest.mark.parametrize("kept", [(0, 1), (0,), (1,)], ids=["both", "first", "second"])
def test_where_one_of_two_encoders_has_no_vectors_it_sees_zeros(folder, tmp_path, names, kept):
    given = {names[0]: vectors(3, 2, 32), names[1]: vectors(4, 2, 48)}
    save_file({name: given[name] for name in names if names.index(name) in kept}, tmp_path / "my-x.safetensors")
    tokenizer = folder / "tokenizers" / "sdxl" / "tokenizer"
    found, words, lines = added(folder / "sdxl", tokenizer, embeddings=(Embedding(tmp_path / "my-x.safetensors"),))
    assert words == {"my-x": 2}
    for number, encoder in enumerate(("text_encoder", "text_encoder_2")):
        expected = given[names[number]] if number in kept else torch.zeros_like(given[names[number]])
        assert torch.equal(rows(found, encoder, 2), expected)
        assert any(f"no vectors for {encoder}, which" in line for line in lines) == (number not in kept)


def test_words_that_a_lora_brings_are_added(folder, tmp_path, monkeypatch):
    """A word that is there already is left as it is, which is no error: no one asked for it."""
    monkeypatch.setattr(
        options_module, "with_loras", lambda checkpoint, loras: checkpoint
    )  # which tests of its own hold
    brought = {"bundle_emb.mine.clip_l": vectors(0, 32), "bundle_emb.<cat>.clip_l": vectors(1, 32)}
    save_file(brought, tmp_path / "a.safetensors")
    tokenizer = folder / "tokenizers" / "sd1" / "tokenizer"
    options = {"loras": (Lora(tmp_path / "a.safetensors"),), "embeddings": (Embedding(folder / "cat.safetensors"),)}
    found, words, lines = added(folder / "sd1", tokenizer, **options)
    assert words == {"<cat>": 3, "mine": 1}
    assert torch.equal(rows(found, "text_encoder", 4), torch.cat([vectors(1, 3, 32), vectors(0, 32)[None]]))
    assert "a.safetensors: the word '<cat>' is there already, the file's own is left out" in lines
    assert "a.safetensors brings words: mine" in lines
    assert found.words["embedding 2"].startswith("a.safetensors, mine, sha256 ")


def test_a_file_whose_name_has_a_colon(folder, tmp_path):
    save_file({"emb_params": vectors(0, 32)}, tmp_path / "a:b.safetensors")
    assert embedding_of(f"{tmp_path}/a:b.safetensors") == (tmp_path / "a:b.safetensors", None)
    assert embedding_of(f"{tmp_path}/a:b.safetensors:word") == (tmp_path / "a:b.safetensors", "word")
