"""BERT's tokenizer of a folder gives the ids of transformers' BertTokenizer."""

import json
import re

import numpy as np
import pytest
from transformers import BertTokenizer

from latentrt.errors import CheckpointError
from latentrt.prompt import chunked, weighted
from latentrt.prompt.tokenizer import Tokenizer
from latentrt_export.checkpoint.tokenizer import CLIP
from latentrt_export.checkpoint.word_pieces import BERT
from tests.export import tiny
from tests.export.odd_texts import texts
from tests.export.word_pieces import SPECIALS, save_vocabulary

ODD = [
    *("", " ", "\x00", "a\x00b\x07", "\u200b\ufeff", "É é é ñ Ångström", "猫的photo", "\U0001f600 a\U0001f600b"),
    *("e" * 100, "e" * 101, "red " + "e" * 101 + " apple", "3.14 1,000,000 ½ ²", "don't re-riding", "reds s ##s"),
    *("[CLS]a[SEP] [sep] [MASK]s [PAD]", "a[UNK]b", "\ufffd \xa0\u3000a", "İstanbul ẞ ǅ", "(masterpiece:1.2), a, b"),
]
CONFIGS = {
    "none": None,
    "bert-base-uncased": {"do_lower_case": True, "model_max_length": 512},
    "saved": {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "strip_accents": None, "unk_token": "[UNK]"},
    "cased": {"tokenizer_class": "BertTokenizerFast", "do_lower_case": False, "tokenize_chinese_chars": False},
    "accents": {"strip_accents": False},
    "other names": {
        "pad_token": {"__type": "AddedToken", "content": "!", "lstrip": True},
        "mask_token": "<mask>",
        "cls_token": "a",
    },
}


@pytest.fixture(scope="module")
def corpus():
    return [*ODD, *texts(1500)]


def assert_same(folder, corpus):
    ours, theirs = BERT.read(folder), BertTokenizer.from_pretrained(folder)
    known, expected = (json.loads(one) for one in (ours.backend.to_str(), theirs.backend_tokenizer.to_str()))
    assert known | {"post_processor": None} == expected | {"post_processor": None}
    assert (ours.bos, ours.eos, ours.pad) == (theirs.cls_token_id, theirs.sep_token_id, theirs.pad_token_id)
    rows = theirs(corpus, padding="max_length", truncation=True, max_length=77).input_ids
    np.testing.assert_array_equal(ours(corpus), rows)
    assert len(np.unique(rows)) > 150, "of many tokens"
    return ours


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_vocabulary_of_lines(tmp_path, corpus, config):
    folder = save_vocabulary(tmp_path)
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    ours = assert_same(folder, corpus if config is None else corpus[:300])
    assert ours.length == 77


def test_a_folder_that_transformers_saved_and_the_bundles_file(tmp_path, corpus):
    BertTokenizer.from_pretrained(save_vocabulary(tmp_path / "lines")).save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved" / "vocab.txt").exists()
    ours = assert_same(tmp_path / "saved", corpus)
    ours.backend.save(str(tmp_path / "tokenizer.json"))
    loaded = Tokenizer.load(tmp_path / "tokenizer.json", length=77, bos=ours.bos, eos=ours.eos, pad=ours.pad)
    np.testing.assert_array_equal(loaded(corpus), ours(corpus))


def test_words_without_parts_are_unknown_and_long_ones_too(tmp_path):
    ours = BERT.read(save_vocabulary(tmp_path))
    unknown = SPECIALS.index("[UNK]")
    assert ours.ids("") == [] and ours.ids("e" * 101) == [unknown] and unknown not in ours.ids("e" * 100)
    assert ours.ids("É") == ours.ids("e") and ours.ids("a red")[:1] == ours.ids("a")


def test_long_prompts_are_cut_at_a_comma(tmp_path):
    """As with CLIP's tokens: see test_chunks.py in tests/runtime/prompt."""
    ours = BERT.read(save_vocabulary(tmp_path))
    assert ours.comma == ours.ids(",")[0] == ours.ids("red, apple")[1]
    first, second = chunked(weighted("red " * 60 + ", " + "apple " * 20), ours)
    assert first.ids[61:63] == (ours.comma, ours.eos) and second.ids[1:21] == tuple(ours.ids("apple")) * 20
    assert first.padding == 75 - 61 and {*first.ids[63:]} == {ours.pad}
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIALS, "a"]))
    assert BERT.read(tmp_path).comma is None


FILES = {
    ("vocab.txt", None): r"looked for tokenizer\.json or vocab\.txt, found an empty folder; .*--tokenizer DIR",
    ("vocab.txt", "[CLS]\n[SEP]\n[PAD]\na\n"): r"unk_token is '\[UNK\]', expected one of its 4 tokens",
    ("vocab.txt", "[UNK]\n[SEP]\n[PAD]\n"): r"cls_token is '\[CLS\]', expected one of its 3 tokens",
    ("tokenizer_config.json", '{"tokenizer_class": "CLIPTokenizer"}'): "'CLIPTokenizer', expected 'BertTokenizer' or",
    ("tokenizer_config.json", '{"padding_side": "left"}'): "padding_side is 'left', expected 'right'",
    ("tokenizer_config.json", "{"): r"tokenizer_config\.json: not json",
    ("tokenizer_config.json", '{"strip_accents": "some"}'): "cannot be read .*transformers.BertTokenizer saves",
    ("tokenizer.json", "{}"): "cannot be read",
    ("tokenizer.json", '{"model": {"vocab": {}, "merges": []}}'): r"tokenizer\.json: not BERT's, expected a WordPiece",
}


@pytest.mark.parametrize(("name", "content"), FILES, ids=[f"{name} {number}" for number, (name, _) in enumerate(FILES)])
def test_a_damaged_file(tmp_path, name, content):
    folder = save_vocabulary(tmp_path)
    (folder / name).unlink(missing_ok=True)
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(CheckpointError, match=FILES[name, content]) as caught:
        BERT.read(folder)
    assert str(folder) in str(caught.value)


def test_clips_and_berts_are_not_taken_for_each_other(tmp_path):
    tiny.save_tokenizer(tmp_path / "clip")
    BertTokenizer.from_pretrained(save_vocabulary(tmp_path / "lines")).save_pretrained(tmp_path / "bert")
    for kind, folder in ((BERT, "clip"), (CLIP, "bert")):
        with pytest.raises(CheckpointError, match=f"tokenizer_class .* expected '{re.escape(kind.classes[0])}'"):
            kind.read(tmp_path / folder)
        (tmp_path / folder / "tokenizer_config.json").write_text('{"model_max_length": 77}')
        with pytest.raises(CheckpointError, match="tokenizer.json: not "):
            kind.read(tmp_path / folder)
