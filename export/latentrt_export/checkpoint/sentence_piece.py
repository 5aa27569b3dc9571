"""Pieces of a SentencePiece model, read without its package.

Source: `sentencepiece_model.proto` of github.com/google/sentencepiece: ModelProto has pieces in field 1, the trainer's
settings in 2 and the normalizer's in 3. The wire format is protobuf's: keys of a field's number and its kind.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

Value: TypeAlias = int | bytes

PIECES, TRAINER, NORMALIZER = 1, 2, 3
TEXT, SCORE = 1, 2
MODEL_TYPE, UNKNOWN = 3, 40
REPLACEMENTS = 2
UNIGRAM = 1
# Kinds of a field: a number of any length, eight bytes, bytes with their length before them, four bytes.
VARINT, EIGHT, BYTES, FOUR = 0, 1, 2, 5
CUT_OFF = "got {} bytes, expected more: the file is cut off"
WIDTHS = {EIGHT: 8, FOUR: 4}


@dataclass(frozen=True)
class UnigramModel:
    """A unigram model. pieces: each with the logarithm of its probability. unknown: the piece for all else.

    replacements: the compiled table of characters that are replaced before a text is split; empty for none.
    """

    pieces: tuple[tuple[str, float], ...]
    unknown: int
    replacements: bytes = b""


def unigram_model(file: Path) -> UnigramModel:
    """Return the model in a `.model` file. Raises ValueError for another kind of model, and for a damaged file."""
    whole = [*fields_of(file.read_bytes())]
    messages = {number: dict(fields_of(content)) for number, content in whole if number in (TRAINER, NORMALIZER)}
    trainer, normalizer = (messages.get(number, {}) for number in (TRAINER, NORMALIZER))
    kind, unknown = trainer.get(MODEL_TYPE, UNIGRAM), trainer.get(UNKNOWN, 0)
    if kind != UNIGRAM:
        raise ValueError(f"got a model of the type {kind!r}, expected a unigram model, {UNIGRAM}")
    pieces = tuple(piece_of(content) for number, content in whole if number == PIECES)
    replacements = normalizer.get(REPLACEMENTS, b"")
    if not pieces or not isinstance(unknown, int) or not isinstance(replacements, bytes):
        raise ValueError(f"got {len(pieces)} pieces, expected a SentencePiece model")
    return UnigramModel(pieces, unknown, replacements)


def piece_of(content: Value) -> tuple[str, float]:
    """The text and the score of a piece."""
    found = dict(fields_of(content))
    text, score = found[TEXT], found.get(SCORE, bytes(4))
    if not isinstance(text, bytes) or not isinstance(score, bytes):
        raise ValueError("got a piece without text or score, expected a SentencePiece model")
    return text.decode("utf-8"), struct.unpack("<f", score)[0]


def fields_of(content: Value) -> Iterator[tuple[int, Value]]:
    """Yields the number and the value of each field of a message. Raises ValueError for what is none."""
    if not isinstance(content, bytes):
        raise ValueError(f"got the number {content}, expected a message of a SentencePiece model")
    place = 0
    while place < len(content):
        key, place = varint(content, place)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            value, place = varint(content, place)
            yield number, value
            continue
        length, place = varint(content, place) if kind == BYTES else (WIDTHS[kind], place)
        if place + length > len(content):
            raise ValueError(CUT_OFF.format(len(content)))
        yield number, content[place : place + length]
        place += length


def varint(content: bytes, place: int) -> tuple[int, int]:
    """The number that begins there, seven bits a byte and the lowest first, and the place after it."""
    number = shift = 0
    while place < len(content):
        byte = content[place]
        number |= (byte & 0x7F) << shift
        shift, place = shift + 7, place + 1
        if byte < 0x80:
            return number, place
    raise ValueError(CUT_OFF.format(len(content)))
