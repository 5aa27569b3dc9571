"""Texts without padding keep their lengths, but for those of one token, of which copies say the same."""

import numpy as np
import pytest

from latentrt.bundle.sources import Positions
from latentrt.conditioning.positions import position_table
from latentrt.conditioning.prompts import Conditioning
from latentrt.conditioning.text import TextConditioning
from latentrt.tensors import TensorSpec


def text(tokens):
    """A text of that many tokens, each of which is its number."""
    return TextConditioning({"kv": np.arange(1.0, tokens + 1).reshape(1, tokens, 1)}, {})


@pytest.mark.parametrize(
    ("positive", "negative", "lengths"),
    [
        ([9], 1, [9, 9]),
        ([9], 4, [9, 4]),
        ([1], 5, [5, 5]),
        ([1], 1, [2, 2]),
        ([1], None, [2]),
        ([9, 4], 1, [9, 4, 9]),
        ([1, 7], 3, [7, 7, 3]),
    ],
)
def test_lengths_of_a_call(positive, negative, lengths):
    counts = [*positive, *([] if negative is None else [negative])]
    guides = tuple((1.0, (place,)) for place in range(len(positive)))
    own = () if negative is None else (len(positive),)
    conditioning = Conditioning(tuple(map(text, counts)), guides, own, padded=False)
    first, others = conditioning.rows(0)
    rows = [*(row for _, row in others), *([] if first is None else [first])]
    assert [row.tokens for row in rows] == lengths
    for row, count in zip(rows, counts, strict=True):
        found = conditioning.sequence(row, "kv").ravel().tolist()
        assert found == ([1.0] * row.tokens if count == 1 else list(range(1, count + 1)))


def test_attention_to_copies_of_a_token_is_attention_to_it():
    rng = np.random.default_rng(0)
    query, key, value = (rng.standard_normal((1, 8)) for _ in range(3))
    scores = query @ np.repeat(key, 7, axis=0).T
    weights = np.exp(scores) / np.exp(scores).sum()
    np.testing.assert_allclose(weights @ np.repeat(value, 7, axis=0), value, rtol=1e-14)


def test_positions_have_columns_first_and_do_not_depend_on_the_size_of_the_picture():
    """By the definition: place p of n is at p / (n / base) / scale; its first sine is of that number itself."""
    spec = TensorSpec("positions", "float32", (16, "height/2", "width/2"))
    table = position_table(spec, Positions(8, 2.0), 8, 12)
    assert table.shape == (16, 4, 6) and table.dtype == np.float32
    columns, rows = np.arange(6) / (6 / 8) / 2, np.arange(4) / (4 / 8) / 2
    np.testing.assert_allclose(table[0], np.broadcast_to(np.sin(columns), (4, 6)), atol=1e-6)
    np.testing.assert_allclose(table[4], np.broadcast_to(np.cos(columns), (4, 6)), atol=1e-6)
    np.testing.assert_allclose(table[8], np.broadcast_to(np.sin(rows)[:, None], (4, 6)), atol=1e-6)
    np.testing.assert_allclose(table[13], np.broadcast_to(np.cos(rows / 10)[:, None], (4, 6)), atol=1e-6)
    assert position_table(spec, Positions(8, 2.0), 8, 12) is table
