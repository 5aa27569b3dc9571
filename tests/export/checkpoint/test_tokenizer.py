import gzip
import importlib.util
import itertools
import json
import sys
import unicodedata
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from latentrt.bundle.catalog import MODELS
from latentrt.errors import CheckpointError
from latentrt.prompt.tokenizer import BOS, EOS, Tokenizer
from latentrt_export.checkpoint.tokenizer import clip_tokenizer, tokenizer_from_folder
from tests.export.odd_texts import SPECIAL, texts

EMOJI = MODELS / "emoji" / "tokenizer" / "tokenizer.json"
EMOJI_CONFIG = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 32}
CLIP_CONFIG = EMOJI_CONFIG | {"model_max_length": 77}


def token(content: str, **flags: object) -> dict[str, object]:
    return {"content": content, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False} | flags


# As in the tokenizer/ folders of Stable Diffusion 1.5 and 2.1, and tokenizer_2/ of SDXL.
OLD_CONFIG = CLIP_CONFIG | {
    "add_prefix_space": False,
    "bos_token": token(BOS, __type="AddedToken"),
    "do_lower_case": True,
    "eos_token": token(EOS, __type="AddedToken"),
    "errors": "replace",
    "pad_token": EOS,
    "unk_token": token(EOS, __type="AddedToken"),
}
OLD_MAP = {"bos_token": token(BOS), "eos_token": token(EOS), "pad_token": EOS, "unk_token": token(EOS)}
SDXL_CONFIG = CLIP_CONFIG | {
    "added_tokens_decoder": {
        "0": token("!", normalized=False, special=True),
        "49406": token(BOS, special=True),
        "49407": token(EOS, special=True),
    },
    "bos_token": BOS,
    "eos_token": EOS,
    "pad_token": "!",
    "unk_token": EOS,
}


def write(folder: Path, *, merges: Sequence[Sequence[str]] = (), **files: object) -> Path:
    """Write merges.txt, and a json file for every other keyword."""
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    if merges:
        lines = ["#version: 0.2", *map(" ".join, merges), ""]
        (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def corpus() -> list[str]:
    return texts(5000)


@pytest.fixture(scope="module")
def emoji() -> dict[str, Any]:
    return json.loads(EMOJI.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def emoji_pair(emoji: dict[str, Any]) -> dict[str, Any]:
    return {"vocab": emoji["model"]["vocab"], "merges": emoji["model"]["merges"]}


@pytest.fixture(scope="module")
def clip_pair() -> dict[str, Any]:
    """Return CLIP's vocab.json and merges, built as `SimpleTokenizer.__init__` of openai/CLIP does."""
    spec = importlib.util.find_spec("open_clip")
    assert spec and spec.origin, "pip install --no-deps open_clip_torch"
    with gzip.open(Path(spec.origin).with_name("bpe_simple_vocab_16e6.txt.gz"), "rt", encoding="utf-8") as lines:
        merges = [tuple(line.split()) for line in itertools.islice(lines, 1, 49152 - 256 - 2 + 1)]
    vocab = list(bytes_to_unicode().values())
    vocab = vocab + [symbol + "</w>" for symbol in vocab]
    vocab.extend("".join(merge) for merge in merges)
    vocab.extend([BOS, EOS])
    return {"vocab": dict(zip(vocab, range(len(vocab)), strict=True)), "merges": merges}


def assert_same(ours: Tokenizer, theirs: CLIPTokenizer, corpus: Sequence[str]) -> None:
    assert json.loads(ours.backend.to_str()) == json.loads(theirs.backend_tokenizer.to_str())
    assert (ours.bos, ours.eos, ours.pad) == (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id)
    assert_same_rows(ours, theirs, corpus)
    theirs.model_max_length = sys.maxsize  # or it logs that a text is longer than a row
    assert [ours.ids(text) for text in corpus[::10]] == theirs(corpus[::10], add_special_tokens=False).input_ids


def assert_same_rows(ours: Tokenizer, theirs: CLIPTokenizer, corpus: Sequence[str]) -> None:
    rows = theirs(corpus, padding="max_length", truncation=True, max_length=ours.length).input_ids
    np.testing.assert_array_equal(ours(corpus), rows)


def test_the_texts_are_what_they_claim(corpus: Sequence[str]) -> None:
    assert len(corpus) > 5000
    every = "".join(corpus)
    categories = {unicodedata.category(character) for character in every}
    assert categories >= {
        "Lu",
        "Ll",
        "Lt",
        "Lo",
        "Lm",
        "Mn",
        "Mc",
        "Nd",
        "Nl",
        "No",
        "Zs",
        "Zl",
        "Cc",
        "Cf",
        "Cn",
        "So",
    }
    assert sum(len(text) > 300 for text in corpus) > 30
    assert all(part in every for part in (*SPECIAL, "\u0130", "\u200d\U0001f680", "\u00a0", "  ", "\x00"))


def test_emoji_from_its_json(tmp_path: Path, emoji: dict[str, Any], corpus: Sequence[str]) -> None:
    folder = write(tmp_path, tokenizer=emoji, tokenizer_config=EMOJI_CONFIG)
    theirs = CLIPTokenizer.from_pretrained(folder)
    assert_same(tokenizer_from_folder(folder), theirs, corpus[:500])
    assert_same_rows(Tokenizer.load(EMOJI, length=32, bos=0, eos=1, pad=1), theirs, corpus)


def test_emoji_from_vocabulary_and_merges(tmp_path: Path, emoji_pair: dict[str, Any], corpus: Sequence[str]) -> None:
    folder = write(tmp_path, **emoji_pair, tokenizer_config=EMOJI_CONFIG)
    ours = tokenizer_from_folder(folder)
    assert (ours.length, ours.bos, ours.eos, ours.pad) == (32, 0, 1, 1)
    assert_same(ours, CLIPTokenizer.from_pretrained(folder), corpus)


def test_a_json_from_before_tokenizers_020(tmp_path: Path, emoji: dict[str, Any], corpus: Sequence[str]) -> None:
    model = emoji["model"] | {"merges": [" ".join(pair) for pair in emoji["model"]["merges"]]}
    folder = write(tmp_path, tokenizer=emoji | {"model": model}, tokenizer_config=EMOJI_CONFIG)
    assert_same(tokenizer_from_folder(folder), CLIPTokenizer.from_pretrained(folder), corpus[:500])


def test_a_json_with_other_steps_gives_clips_ids(tmp_path: Path, emoji: dict[str, Any], corpus: Sequence[str]) -> None:
    steps = {"normalizer": None, "pre_tokenizer": {"type": "Whitespace"}, "decoder": None, "post_processor": None}
    folder = write(tmp_path, tokenizer=emoji | steps, tokenizer_config=EMOJI_CONFIG)
    assert_same(tokenizer_from_folder(folder), CLIPTokenizer.from_pretrained(folder), corpus[:500])


@pytest.mark.parametrize(
    ("files", "pad", "exclamation"),
    [
        pytest.param({"tokenizer_config": OLD_CONFIG, "special_tokens_map": OLD_MAP}, 49407, 256, id="sd1"),
        pytest.param(
            {"tokenizer_config": OLD_CONFIG, "special_tokens_map": OLD_MAP | {"pad_token": "!"}}, 0, 0, id="sd2"
        ),
        pytest.param({"tokenizer_config": SDXL_CONFIG, "special_tokens_map": OLD_MAP}, 0, 0, id="sdxl"),
        pytest.param(
            {
                "tokenizer_config": OLD_CONFIG,
                "special_tokens_map": OLD_MAP | {"additional_special_tokens": ["<cat-toy>", "|>"]},
                "added_tokens": {"<dog-toy>": 49409, "<cat-toy>": 49408},
            },
            49407,
            256,
            id="textual-inversion",
        ),
    ],
)
def test_clip_from_vocabulary_and_merges(
    tmp_path: Path,
    clip_pair: dict[str, Any],
    corpus: Sequence[str],
    files: dict[str, Any],
    pad: int,
    exclamation: int,
) -> None:
    folder = write(tmp_path, **clip_pair, **files)
    ours = tokenizer_from_folder(folder)
    assert (ours.length, ours.bos, ours.eos, ours.pad) == (77, 49406, 49407, pad)
    assert ours.ids("hi!") == [1883, exclamation]
    assert_same(ours, CLIPTokenizer.from_pretrained(folder), corpus[-500:])


def test_clip_from_open_clip(clip_pair: dict[str, Any], corpus: Sequence[str]) -> None:
    ours = clip_tokenizer()
    assert "open_clip" not in sys.modules
    assert (ours.length, ours.bos, ours.eos, ours.pad) == (77, 49406, 49407, 49407)
    assert ours.backend.get_vocab() == clip_pair["vocab"]
    assert_same(ours, CLIPTokenizer(clip_pair["vocab"], clip_pair["merges"]), corpus)


def test_clip_gives_the_ids_of_its_notebook() -> None:
    """github.com/openai/CLIP, notebooks/Interacting_with_CLIP.ipynb."""
    assert clip_tokenizer()(["Hello World!"])[0, :6].tolist() == [49406, 3306, 1002, 256, 49407, 49407]


@pytest.mark.parametrize("installed", [None, "empty"])
def test_clip_without_open_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: str | None) -> None:
    spec = ModuleSpec("open_clip", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec if installed else None)
    with pytest.raises(CheckpointError, match=r"has no vocabulary.* --no-deps open_clip_torch.* --tokenizer DIR"):
        clip_tokenizer()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], r"looked for tokenizer_config\.json, found an empty folder"),
        (["vocab", "merges"], r"looked for tokenizer_config\.json, found merges\.txt, vocab\.json"),
        (
            ["tokenizer_config"],
            r"looked for tokenizer\.json, or vocab\.json and merges\.txt, found tokenizer_config\.json",
        ),
        (["tokenizer_config", "vocab"], r"found tokenizer_config\.json, vocab\.json"),
        (["tokenizer_config", "merges"], r"found merges\.txt, tokenizer_config\.json"),
    ],
)
def test_a_folder_that_lacks_a_file(
    tmp_path: Path, emoji_pair: dict[str, Any], names: Sequence[str], message: str
) -> None:
    files = emoji_pair | {"tokenizer_config": EMOJI_CONFIG}
    with pytest.raises(CheckpointError, match=message):
        tokenizer_from_folder(write(tmp_path, **{name: files[name] for name in names}))


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="found no such folder"):
        tokenizer_from_folder(tmp_path / "tokenizer")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_max_length": None}, "model_max_length is None, expected the number of tokens"),
        ({"model_max_length": 10**30}, "model_max_length is 10+, expected"),
        ({"model_max_length": 1}, "model_max_length is 1, expected"),
        ({"model_max_length": "77"}, "model_max_length is '77', expected"),
        ({"tokenizer_class": "BertTokenizer"}, "tokenizer_class is 'BertTokenizer', expected 'CLIPTokenizer' or"),
        ({"padding_side": "left"}, "padding_side is 'left', expected 'right'"),
        ({"truncation_side": "left"}, "truncation_side is 'left', expected 'right'"),
        ({"split_special_tokens": True}, "split_special_tokens is True, expected False"),
        ({"bos_token": "<s>"}, r"bos_token is '<s>', expected one of its 2660 tokens"),
        ({"eos_token": {"content": "</s>"}}, r"eos_token is '</s>', expected"),
        ({"pad_token": "[PAD]"}, r"pad_token is '\[PAD\]', expected"),
        ({"pad_token": {"lstrip": False}}, "cannot be read"),
        ({"pad_token": 7}, "cannot be read"),
        ({"added_tokens_decoder": {"one": {"content": EOS}}}, "cannot be read"),
        ({"added_tokens_decoder": [BOS]}, "cannot be read"),
    ],
)
def test_a_config_that_cannot_be_met(
    tmp_path: Path, emoji_pair: dict[str, Any], config: dict[str, Any], message: str
) -> None:
    folder = write(tmp_path, **emoji_pair, tokenizer_config=EMOJI_CONFIG | config)
    with pytest.raises(CheckpointError, match=message) as caught:
        tokenizer_from_folder(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer_config.json", "{", r"tokenizer_config\.json: not json"),
        ("tokenizer_config.json", "[]", r"tokenizer_config\.json: holds a list, expected an object"),
        ("special_tokens_map.json", "no", r"special_tokens_map\.json: not json"),
        ("added_tokens.json", "7", r"added_tokens\.json: holds a int"),
        ("tokenizer.json", "\0", r"tokenizer\.json: not json"),
        ("tokenizer.json", "{}", "cannot be read"),
        ("tokenizer.json", '{"model": {"type": "WordPiece", "vocab": {}}}', r"tokenizer\.json: not CLIP's"),
        ("tokenizer.json", '{"model": {"vocab": {}, "merges": [], "end_of_word_suffix": null}}', "not CLIP's"),
        ("tokenizer.json", '{"model": {"vocab": [], "merges": [], "end_of_word_suffix": "</w>"}}', "bos_token is"),
        ("vocab.json", "{", "cannot be read"),
        ("vocab.json", "{}", "bos_token is"),
        ("vocab.json", f'{{"{BOS}": 0, "{EOS}": 1}}', "cannot be read .*out of vocabulary"),
        ("merges.txt", "#version: 0.2\na b c\n", "cannot be read"),
        ("merges.txt", "a\n", "cannot be read"),
    ],
)
def test_a_damaged_file(tmp_path: Path, emoji_pair: dict[str, Any], name: str, content: str, message: str) -> None:
    folder = write(tmp_path, **emoji_pair, tokenizer_config=EMOJI_CONFIG)
    (folder / name).write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError, match=message):
        tokenizer_from_folder(folder)
