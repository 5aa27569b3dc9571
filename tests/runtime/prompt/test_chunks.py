"""Chunks, written as words: `_` is padding, `|` stands between two chunks. BOS and EOS are left out."""

from dataclasses import replace

import pytest
from tokenizers import AddedToken

import latentrt
from latentrt.prompt import BREAK, chunked, weighted
from latentrt.prompt.tokenizer import BOS, EOS, Tokenizer, backend_from_vocabulary, token_id

WORDS = "abcdefghijklmnopqrstuvwxyz,"
PAD = 99


def words(length: int) -> Tokenizer:
    """A tokenizer with a token for every letter, its pad unlike its EOS."""
    vocab = {token: index for index, token in enumerate([*WORDS, *(letter + "</w>" for letter in WORDS)])}
    specials = [AddedToken(BOS, special=True), AddedToken(EOS, special=True)]
    backend = backend_from_vocabulary(vocab, [], specials)
    return Tokenizer(backend, length, token_id(backend, BOS), token_id(backend, EOS), PAD)


def layout(text: str, room: int) -> str:
    tokenizer = words(room + 2)
    shown = []
    for chunk in chunked(weighted(text), tokenizer):
        assert len(chunk.ids) == len(chunk.weights) == room + 2
        assert chunk.ids[0] == tokenizer.bos
        end = chunk.ids.index(tokenizer.eos)
        assert set(chunk.ids[end + 1 :]) <= {PAD}
        letters = [tokenizer.backend.id_to_token(number)[0] for number in chunk.ids[1:end]]
        shown.append("".join(letters) + "_" * (room - len(letters)))
    return "|".join(shown)


def test_an_embedding_is_its_vectors_in_one_piece_and_of_one_weight() -> None:
    tokenizer = words(8)
    tokenizer.backend.add_tokens(["<z>", "<z>_1", "<z>_2"])
    first = token_id(tokenizer.backend, "<z>")
    tokenizer = replace(tokenizer, vectors={first: 3})
    vectors = (first, first + 1, first + 2)
    [chunk] = chunked(weighted("a (<Z>:1.5) b"), tokenizer)
    assert chunk.ids[2:5] == vectors and chunk.weights == (1.0, 1.0, 1.5, 1.5, 1.5, 1.0, 1.0, 1.0)
    first_chunk, second = chunked(weighted("a, b c <z>"), tokenizer)
    assert first_chunk.ids[5] == tokenizer.eos and second.ids[1:5] == (*vectors, tokenizer.eos)
    assert tokenizer.ids("<z><z>_1") == [*vectors, first + 1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "______"),
        (" ", "______"),
        ("a", "a_____"),
        ("a b c d e", "abcde_"),
        ("a b c d e f", "abcdef"),
        ("a b c d e f g", "abcdef|g_____"),
        ("a b c d e f g h i j k l", "abcdef|ghijkl"),
        ("a b c d e f g h i j k l m", "abcdef|ghijkl|m_____"),
        ("BREAK", "______"),
        ("a BREAK", "a_____"),
        ("BREAK a", "______|a_____"),
        ("a BREAK b", "a_____|b_____"),
        ("a BREAK BREAK b", "a_____|______|b_____"),
        ("BREAK BREAK", "______|______"),
        ("BREAK a BREAK", "______|a_____"),
        ("a b c d e f BREAK", "abcdef"),
        ("a b c d e f BREAK g", "abcdef|g_____"),
        ("a b c d e f g BREAK h", "abcdef|g_____|h_____"),
        ("(a BREAK b)", "a_____|b_____"),
        (",", ",_____"),
        ("a , b c d e", "a,bcde"),
        ("a , b c d e f", "a,____|bcdef_"),
        ("a b c d e , f", "abcde,|f_____"),
        ("a b c d e f ,", "abcdef|,_____"),
        ("a b c d e f , g", "abcdef|,g____"),
        ("a , b c d e ,", "a,bcde|,_____"),
        ("a , b c d e , f", "a,bcde|,f____"),
        (", a b c d e f", ",_____|abcdef"),
        (", a b c d e f g", ",_____|abcdef|g_____"),
        ("a , b , c d e", "a,b,__|cde___"),
        ("a , b , c d e f g h", "a,b,__|cdefgh"),
        ("a , b , c d e f g h i", "a,b,__|cdefgh|i_____"),
        ("a b c d e f , g h i j k", "abcdef|,ghijk"),
        ("a b c d e f , g h i j k l", "abcdef|,ghijk|l_____"),
        ("a b c d e f g , h i j k l", "abcdef|g,____|hijkl_"),
        ("a , BREAK b c d e f g h", "a,____|bcdefg|h_____"),
        ("a , b (c) d e f", "a,____|bcdef_"),
    ],
)
def test_where_six_tokens_a_chunk_are_cut(text: str, expected: str) -> None:
    assert layout(text, 6) == expected


@pytest.mark.parametrize(
    ("comma", "first"),
    # The comma is the n-th of 75 tokens; 20 back from the 76th is the 56th, which is the farthest that is looked at.
    [(1, 75), (54, 75), (55, 75), (56, 56), (57, 57), (74, 74), (75, 75), (76, 75)],
)
def test_how_far_back_a_comma_is_looked_for(comma: int, first: int) -> None:
    text = " ".join("," if place == comma else "a" for place in range(1, 78))
    head, tail = layout(text, 75).split("|")
    assert len(head.rstrip("_")) == first
    assert len(tail.rstrip("_")) == 77 - first


@pytest.mark.parametrize(("count", "chunks"), [(0, 1), (1, 1), (74, 1), (75, 1), (76, 2), (150, 2), (151, 3)])
def test_how_many_chunks_there_are(count: int, chunks: int) -> None:
    assert len(chunked([("a " * count, 1.0)], words(77))) == chunks


def test_weights_stay_with_their_tokens() -> None:
    first, second = chunked(weighted("a , (b c:2) d e [f]"), words(8))
    assert first.weights == (1, 1, 1, 1, 1, 1, 1, 1)
    assert second.weights == (1, 2, 2, 1, 1, 1 / 1.1, 1, 1)


def test_every_part_is_tokenized_by_itself() -> None:
    tokenizer = words(77)
    joined = chunked(weighted("ab"), tokenizer)[0].ids
    parted = chunked(weighted("a(b)"), tokenizer)[0].ids
    assert joined != parted
    assert parted[1:3] == (*tokenizer.ids("a"), *tokenizer.ids("b"))


@pytest.mark.parametrize("text", ["", "a", "a, b", "a " * 75])
def test_one_chunk_is_a_row_of_the_tokenizer(text: str) -> None:
    tokenizer = words(77)
    (chunk,) = chunked([(text, 1.0)], tokenizer)
    assert list(chunk.ids) == tokenizer([text])[0].tolist()


def test_a_row_with_no_room_stays_empty() -> None:
    tokenizer = words(2)
    assert [chunk.ids for chunk in chunked([("a b", 1.0)], tokenizer)] == [(tokenizer.bos, tokenizer.eos)]


def test_the_word_of_the_mark_is_a_word_when_it_is_no_mark() -> None:
    assert len(chunked([("break", -1.0)], words(9))) == 1
    assert len(chunked([("a", 1.0), BREAK, ("b", 1.0)], words(9))) == 2


def test_the_built_in_models_chunks_are_its_rows() -> None:
    tokenizer = latentrt.load("emoji").tokenizer
    chunks = chunked(weighted("a (red apple:1.2) " * 30), tokenizer)
    assert len(chunks) > 1
    assert {len(chunk.ids) for chunk in chunks} == {tokenizer.length}
