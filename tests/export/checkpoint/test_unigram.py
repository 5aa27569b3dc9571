"""T5's tokenizer gives the ids of transformers' T5Tokenizer, from either of its files."""

import pytest
from transformers import T5Tokenizer
from transformers.utils import sentencepiece_model_pb2_new as messages

from latentrt.errors import CheckpointError
from latentrt.prompt.tokenizer import Tokenizer
from latentrt_export.checkpoint.unigram import T5
from tests.export import pixart

TEXTS = [
    *("a photograph of two cats, 4k", "", "   ", "  A  Cat\n on\ta TABLE ", "</s> fog </s>", "<extra_id_0> cats"),
    *("Ünïcode 猫 ﬁ ①", "ÅNGSTRÖM, İstanbul", "(red) [blue] 1:2", "cats" * 80),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder that transformers saved."""
    path = tmp_path_factory.mktemp("tokenizer")
    T5Tokenizer(vocab=pixart.vocabulary(), extra_ids=4).save_pretrained(path)
    return path


def model(**changes):
    """A SentencePiece model of the same pieces, written by protobuf's own package."""
    made = messages.ModelProto()
    kinds = {"<pad>": 3, "</s>": 3, "<unk>": 2}
    for piece, score in pixart.vocabulary():
        made.pieces.add(piece=piece, score=score, type=kinds.get(piece, 1))
    made.trainer_spec.model_type, made.trainer_spec.unk_id = changes.get("model_type", 1), 2
    made.normalizer_spec.name = "nmt_nfkc"
    return made.SerializeToString()


@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_those_of_transformers(folder, text):
    ours, theirs = T5.read(folder), T5Tokenizer.from_pretrained(folder)
    assert [*ours.ids(text), ours.eos] == theirs(text.lower().strip()).input_ids


@pytest.mark.parametrize("text", TEXTS)
def test_a_sentencepiece_model_gives_the_same_ids(folder, tmp_path, text):
    (tmp_path / "spiece.model").write_bytes(model())
    assert T5.read(tmp_path).ids(text.replace("<extra_id_0>", "")) == T5.read(folder).ids(
        text.replace("<extra_id_0>", "")
    )


def test_rows_have_an_end_and_no_start(folder, tmp_path):
    tokenizer = T5.read(folder)
    assert (tokenizer.bos, tokenizer.start, tokenizer.padded) == (None, (), False)
    assert tokenizer(["cats", ""])[1].tolist() == [tokenizer.eos, *[tokenizer.pad] * (tokenizer.length - 1)]
    tokenizer.backend.save(str(tmp_path / "tokenizer.json"))
    again = Tokenizer.load(tmp_path / "tokenizer.json", length=9, bos=None, eos=tokenizer.eos, pad=0, padded=False)
    assert again.ids("Two CATS") == tokenizer.ids("two cats") and again.room == 8


@pytest.mark.parametrize(
    ("content", "words"),
    [(model()[:-30], "cut off"), (b"", "0 pieces"), (model(model_type=2), "a unigram model")],
    ids=["cut off", "empty", "byte pairs"],
)
def test_damaged_and_other_models_are_refused(tmp_path, content, words):
    (tmp_path / "spiece.model").write_bytes(content)
    with pytest.raises(CheckpointError, match=words):
        T5.read(tmp_path)


def test_a_folder_without_a_vocabulary_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="looked for tokenizer.json or spiece.model, found an empty folder"):
        T5.read(tmp_path)
