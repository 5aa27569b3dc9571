"""Chunks: a prompt of any length, cut into rows of the length that the text encoder takes.

Every chunk is a row of the tokenizer's length, BOS and EOS included, and is encoded by itself; the encoder's outputs
are concatenated. A token that does not fit starts the next chunk. If the last comma is close, the tokens after it move
to the next chunk too, so that a phrase is not cut in two.

Source: the language of AUTOMATIC1111's stable-diffusion-webui 1.10, `tokenize_line` in modules/sd_hijack_clip.py.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from latentrt.prompt.attention import BREAK, Part
from latentrt.prompt.tokenizer import Tokenizer

REACH = 20  # the most tokens after the last comma that move to the next chunk

Token = tuple[int, float]


@dataclass(frozen=True)
class Chunk:
    """One row for the text encoder: ids in the layout of `Tokenizer.__call__`, and the weight of each.

    The tokens around the text and padding have weight 1. padding: the number of padding ids at the end; text encoders
    differ in the id.
    """

    ids: tuple[int, ...]
    weights: tuple[float, ...]
    padding: int = 0

    def padded(self, pad: int) -> tuple[int, ...]:
        """The ids with `pad` as the padding id."""
        return (*self.ids[: len(self.ids) - self.padding], *[pad] * self.padding)


def chunked(parts: Iterable[Part], tokenizer: Tokenizer) -> list[Chunk]:
    """Returns the chunks of weighted text, at least one. Every part is tokenized by itself.

    BREAK ends a chunk, even an empty one: at the start of a prompt it makes an empty chunk, at the end none. A comma
    that starts a chunk is not a place to cut, as in A1111. Raises RequestError as `Tokenizer.ids` does.
    """
    room = tokenizer.room
    comma = tokenizer.comma
    chunks: list[list[Token]] = []
    chunk: list[Token] = []
    cut = 0  # the position after the chunk's last comma; 0 for none
    for part in parts:
        if part is BREAK:
            chunks.append(chunk)
            chunk, cut = [], 0
            continue
        for piece in tokenizer.pieces(part[0]) if room else []:
            token = piece[0]
            if len(chunk) == room:
                keep = cut if cut and token != comma and room - cut < REACH else room
                chunks.append(chunk[:keep])
                chunk, cut = chunk[keep:], 0
            elif token == comma:
                cut = len(chunk) + 1
            if len(chunk) + len(piece) > room:  # an embedding stays in one piece
                chunks.append(chunk)
                chunk, cut = [], 0
            chunk.extend((number, part[1]) for number in piece)
    if chunk or not chunks:
        chunks.append(chunk)
    return [_row(chunk, tokenizer) for chunk in chunks]


def _row(chunk: list[Token], tokenizer: Tokenizer) -> Chunk:
    padding = tokenizer.room - len(chunk) if tokenizer.padded else 0
    ids = (*tokenizer.start, *(token for token, _ in chunk), *tokenizer.end, *[tokenizer.pad] * padding)
    before, after = [1.0] * len(tokenizer.start), [1.0] * (padding + len(tokenizer.end))
    return Chunk(ids, (*before, *(weight for _, weight in chunk), *after), padding)
