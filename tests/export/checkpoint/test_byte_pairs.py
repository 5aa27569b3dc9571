"""Qwen's tokenizer gives the ids of transformers' Qwen2Tokenizer, and rows those of a chat with one message."""

import json

import pytest
from transformers import Qwen2Tokenizer

from latentrt.errors import BundleError, CheckpointError
from latentrt.prompt.tokenizer import Tokenizer
from latentrt_export.checkpoint.byte_pairs import QWEN
from tests.export import klein

TEXTS = [
    *("a photograph of two cats, 4k", "", "  two  Cats \non\ta TABLE ", "<|im_end|> cats <think>", "it's 1234 we'LL"),
    *("Ünïcode 猫 ﬁ ① é", "(red) [blue] 1:2\r\n\r\nx", "cats" * 80, " ", "photo\n"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder that transformers saved."""
    path = tmp_path_factory.mktemp("tokenizer")
    klein.build_tokenizer().save_pretrained(path)
    return path


def rows(tokenizer, text):
    """The ids and the mask that diffusers' pipeline makes of a text."""
    chat = [{"role": "user", "content": text}]
    whole = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    found = tokenizer(whole, padding="max_length", truncation=True, max_length=512)
    return found.input_ids, found.attention_mask


@pytest.mark.parametrize("text", TEXTS)
def test_rows_are_those_of_a_chat(folder, text):
    ours, theirs = QWEN.read(folder), Qwen2Tokenizer.from_pretrained(folder)
    ids, mask = rows(theirs, text)
    assert ours([text])[0].tolist() == ids
    used = len(ours.start) + len(ours.ids(text)) + len(ours.end)
    assert [1] * used + [0] * (512 - used) == mask


@pytest.mark.parametrize("text", TEXTS)
def test_a_vocabulary_in_two_files_gives_the_same_ids(folder, tmp_path, text):
    stored = json.loads((folder / "tokenizer.json").read_text())
    model, added = stored["model"], {token["content"]: token["id"] for token in stored["added_tokens"]}
    (tmp_path / "added_tokens.json").write_text(json.dumps(added))
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]))
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *map(" ".join, model["merges"])]))
    for name in ("tokenizer_config.json", "chat_template.jinja"):
        (tmp_path / name).write_text((folder / name).read_text())
    assert QWEN.read(tmp_path)([text]).tolist() == QWEN.read(folder)([text]).tolist()


def test_a_template_in_the_config_is_read_too(folder, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "chat_template.jinja").unlink()
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": klein.TEMPLATE}))
    assert QWEN.read(tmp_path).after == QWEN.read(folder).after


def test_a_loaded_tokenizer_makes_the_same_rows(folder, tmp_path):
    tokenizer = QWEN.read(folder)
    tokenizer.backend.save(str(tmp_path / "tokenizer.json"))
    ends = {"bos": None, "eos": tokenizer.eos, "pad": tokenizer.pad}
    template = {"before": tokenizer.before, "after": tokenizer.after}
    again = Tokenizer.load(tmp_path / "tokenizer.json", length=512, **ends, **template)
    assert again(["two cats"]).tolist() == tokenizer(["two cats"]).tolist()
    with pytest.raises(BundleError, match="rows of 5 tokens, expected at least 14 .the chat's template"):
        Tokenizer.load(tmp_path / "tokenizer.json", length=5, **ends, **template)
    with pytest.raises(BundleError, match="token 9999 of the chat's template is token 9999"):
        Tokenizer.load(tmp_path / "tokenizer.json", length=512, **ends, before=(9999,))


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (None, "got no chat_template.jinja"),
        ("{{ messages[0].role }}", "0 times, expected once"),
        ("{{ messages[0].content }}{{ messages[0].content }}", "2 times, expected once"),
        ("{% for", "cannot be read"),
    ],
    ids=["none", "no text", "twice", "damaged"],
)
def test_other_templates_are_refused(folder, tmp_path, template, words):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "chat_template.jinja").unlink()
    if template is not None:
        (tmp_path / "chat_template.jinja").write_text(template)
    with pytest.raises(CheckpointError, match=words):
        QWEN.read(tmp_path)


def test_a_folder_without_a_vocabulary_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="looked for tokenizer.json, or vocab.json and merges.txt"):
        QWEN.read(tmp_path)
