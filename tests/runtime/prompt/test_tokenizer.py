import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizers import AddedToken

from latentrt.bundle.catalog import MODELS
from latentrt.errors import BundleError, RequestError
from latentrt.prompt.tokenizer import BOS, EOS, Tokenizer, backend_from_vocabulary

EMOJI = MODELS / "emoji" / "tokenizer" / "tokenizer.json"
NUMBERS = {"length": 32, "bos": 0, "eos": 1, "pad": 1}

# transformers 5.23: CLIPTokenizer.from_pretrained(<folder of this file>)(text).input_ids[1:-1]. Its vocabulary has
# every byte, inside a word and at its end, so nothing is unknown.
# tests/export/checkpoint/test_tokenizer.py compares the two on thousands of texts.
GOLDEN = {
    "": [],
    "a red apple": [322, 571, 1002],
    " \tA  RED\xa0apple!\r\n": [322, 571, 1002, 258],
    "the cat's 2 hats": [702, 907, 739, 275, 73, 638, 340],
    "woman: medium-dark skin tone": [928, 283, 661, 655, 1338, 270, 2503, 682, 554, 593, 660],
    "<|endoftext|>a<|startoftext|>": [1, 322, 0],
    "<|EndOfText|>": [29, 349, 678, 645, 71, 2536, 93, 287],
    "nin\u0303o": [836, 129, 111, 336],
    "ni\xf1o": [836, 129, 111, 336],
    "\u732b": [165, 236, 362],
    "\u0130": [330, 138, 487],
    "x" * 40: [89] * 39 + [345],
}

SMALL = {"a": 0, "b": 1, "a</w>": 2, "b</w>": 3, "ab</w>": 4, "c</w>": 5, BOS: 6, EOS: 7}
MERGES = [("a", "b</w>")]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(EMOJI, **NUMBERS)


def rewritten(tmp_path: Path, **changes: object) -> Path:
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(json.loads(EMOJI.read_text(encoding="utf-8")) | changes), encoding="utf-8")
    return file


@pytest.mark.parametrize(("text", "ids"), GOLDEN.items(), ids=ascii)
def test_ids_are_those_of_transformers(tokenizer: Tokenizer, text: str, ids: list[int]) -> None:
    assert tokenizer.ids(text) == ids


@pytest.mark.parametrize("count", [0, 1, 3])
def test_rows_have_one_shape_and_type(tokenizer: Tokenizer, count: int) -> None:
    rows = tokenizer(["a red apple"] * count)
    assert rows.shape == (count, 32)
    assert rows.dtype == np.int64


def test_a_row_is_bos_ids_eos_and_padding(tokenizer: Tokenizer) -> None:
    rows = tokenizer(["a red apple", ""])
    assert rows.tolist() == [[0, 322, 571, 1002, 1] + [1] * 27, [0] + [1] * 31]


def test_padding_need_not_be_eos() -> None:
    assert Tokenizer.load(EMOJI, length=6, bos=0, eos=1, pad=9)(["a red"]).tolist() == [[0, 322, 571, 1, 9, 9]]


@pytest.mark.parametrize(("words", "kept"), [(29, 29), (30, 30), (31, 30), (500, 30)])
def test_a_long_text_is_cut_and_still_ends(tokenizer: Tokenizer, words: int, kept: int) -> None:
    row = tokenizer(["red " * words])[0].tolist()
    assert row == [0] + [571] * kept + [1] * (31 - kept)
    assert len(tokenizer.ids("red " * words)) == words


def test_the_shortest_row_has_room_for_no_word() -> None:
    assert Tokenizer.load(EMOJI, **NUMBERS | {"length": 2})(["a red apple"]).tolist() == [[0, 1]]


def test_the_json_cannot_cut_pad_or_wrap_the_ids(tmp_path: Path) -> None:
    template = [{"SpecialToken": {"id": BOS, "type_id": 0}}, *[{"Sequence": {"id": "A", "type_id": 0}}] * 2]
    file = rewritten(
        tmp_path,
        truncation={"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        padding={
            "strategy": {"Fixed": 9},
            "direction": "Left",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": BOS,
        },
        post_processor={
            "type": "TemplateProcessing",
            "single": template,
            "pair": [*template, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {BOS: {"id": BOS, "ids": [0], "tokens": [BOS]}},
        },
    )
    tokenizer = Tokenizer.load(file, **NUMBERS)
    assert tokenizer.ids("a red apple") == [322, 571, 1002]
    assert tokenizer.ids("red " * 50) == [571] * 50
    assert tokenizer([""]).tolist() == [[0] + [1] * 31]


@pytest.mark.parametrize("content", [None, b"", b"{}", b"[1, 2]", b"\xff\xfe", b'{"version": "1.0", "model": {}}'])
def test_a_file_that_is_no_tokenizer(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "tokenizer.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(BundleError, match=r"tokenizer\.json: not a tokenizer\.json .* export the bundle again"):
        Tokenizer.load(file, **NUMBERS)


@pytest.mark.parametrize("embeddings", [{"<cat>": 1}, {"apple</w>": 0}, {"apple</w>": 31}])
def test_an_embedding_outside_the_vocabulary(embeddings: dict[str, int]) -> None:
    with pytest.raises(BundleError, match=r"the embedding .* vectors is not in it, expected one of its 2660 tokens"):
        Tokenizer.load(EMOJI, **NUMBERS, embeddings=embeddings)


@pytest.mark.parametrize("name", ["bos", "eos", "pad"])
@pytest.mark.parametrize("number", [-1, 2660, 49407])
def test_an_id_outside_the_vocabulary(name: str, number: int) -> None:
    with pytest.raises(BundleError, match=rf"{name} is token {number}, expected one of its 2660 tokens"):
        Tokenizer.load(EMOJI, **NUMBERS | {name: number})


@pytest.mark.parametrize("length", [-1, 0, 1])
def test_a_length_without_room_for_bos_and_eos(length: int) -> None:
    with pytest.raises(BundleError, match=rf"rows of {length} tokens, expected at least 2"):
        Tokenizer.load(EMOJI, **NUMBERS | {"length": length})


def test_half_a_surrogate_pair(tokenizer: Tokenizer) -> None:
    with pytest.raises(RequestError, match=r"character 2 of the prompt is '\\udce9'"):
        tokenizer(["a \udce9t\udce9"])


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("ab", [4]),
        ("AB ab", [4, 4]),
        ("ba", [1, 2]),
        ("a b", [2, 3]),
        ("a\u2003\u3000\nb", [2, 3]),
        ("abz", [0, 1, 7]),
        ("ab<|endoftext|>ab", [4, 7, 4]),
        ("c1c", [5, 7, 5]),
    ],
)
def test_a_backend_of_a_small_vocabulary(text: str, ids: list[int]) -> None:
    backend = backend_from_vocabulary(SMALL, MERGES)
    assert Tokenizer(backend, 8, bos=6, eos=7, pad=7).ids(text) == ids


def test_specials_that_the_vocabulary_lacks_come_last() -> None:
    specials = [AddedToken(token) for token in ("<two>", BOS, EOS, "<one>")]
    backend = backend_from_vocabulary({"a</w>": 0, BOS: 1, "b</w>": 2}, [], specials)
    assert [backend.token_to_id(token) for token in ("a</w>", BOS, "b</w>", "<two>", EOS, "<one>")] == [*range(6)]


@pytest.mark.parametrize("name", ["bos", "eos"])
def test_bos_and_eos_must_have_an_id(name: str) -> None:
    with pytest.raises(KeyError, match="'<s>' is not in a vocabulary of 8 tokens"):
        backend_from_vocabulary(SMALL, MERGES, **{name: "<s>"})


def test_a_merge_of_unknown_tokens() -> None:
    with pytest.raises(Exception, match="out of vocabulary"):
        backend_from_vocabulary(SMALL, [("a", "c</w>")])


def test_a_backend_survives_its_file(tmp_path: Path) -> None:
    model = json.loads(EMOJI.read_text(encoding="utf-8"))["model"]
    backend = backend_from_vocabulary(model["vocab"], [tuple(pair) for pair in model["merges"]])
    backend.save(str(tmp_path / "tokenizer.json"))
    loaded = Tokenizer.load(tmp_path / "tokenizer.json", **NUMBERS)
    assert {text: loaded.ids(text) for text in GOLDEN} == GOLDEN
    assert json.loads(backend.to_str()) == json.loads(tokenizers.Tokenizer.from_file(str(EMOJI)).to_str())


def test_a_vocabulary_without_its_own_token_for_unknown_text(tmp_path: Path) -> None:
    """`tokenizers` reads such a file, and fails at the first text."""
    document = json.loads(EMOJI.read_text(encoding="utf-8"))
    document["model"]["vocab"] = {EOS: 0, "a": 1}
    document["model"]["merges"] = []
    document["added_tokens"] = []
    document["model"]["unk_token"] = "<unknown>"
    (tmp_path / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(BundleError, match="cannot read any text .*<unknown>.*; export the bundle again"):
        Tokenizer.load(tmp_path / "tokenizer.json", length=8, bos=0, eos=0, pad=0)


def replacing(tmp_path: Path, pattern: str) -> Path:
    """The built-in tokenizer.json with another pattern of what becomes a space."""
    document = json.loads(EMOJI.read_text(encoding="utf-8"))
    (rule,) = [one for one in document["normalizer"]["normalizers"] if one["type"] == "Replace"]
    rule["pattern"] = {"Regex": pattern}
    (tmp_path / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    return tmp_path / "tokenizer.json"


def test_a_rule_that_crashes_tokenizers_is_an_error_at_once(tmp_path: Path) -> None:
    """A replaced match of no characters is a crash in its Rust code, whose error is no Exception."""
    with pytest.raises(BundleError, match="cannot read any text .index out of bounds.*; export the bundle again"):
        Tokenizer.load(replacing(tmp_path, "x*"), **NUMBERS)


def test_a_text_that_crashes_tokenizers_is_an_error_and_the_next_is_read(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(replacing(tmp_path, "(?=q)"), **NUMBERS)
    with pytest.raises(RequestError, match=r"'queens' cannot be read with the tokenizer\.json .*; export it again"):
        tokenizer(["queens"])
    assert tokenizer.ids("a cat")
