"""Chunks: a prompt longer than the text encoder takes, cut into rows that it does take.

Every chunk is a row of the tokenizer's length, BOS and EOS included, and encoded by itself; what the text encoder makes
of them is laid end to end. A token that does not fit starts the next chunk, and takes along what follows the last comma
when that is close, so that a phrase is not cut in two.

Source: the language of AUTOMATIC1111's stable-diffusion-webui 1.10, `tokenize_line` in modules/sd_hijack_clip.py.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from latentrt.prompt.attention import BREAK, Part
from latentrt.prompt.tokenizer import WORD_END, Tokenizer

REACH = 20  # tokens from the last comma to the end of a chunk, at most, for what follows it to move on

Token = tuple[int, float]


@dataclass(frozen=True)
class Chunk:
    """One row for the text encoder: its ids as `Tokenizer.__call__` lays them out, and a weight for each.

    BOS, EOS and padding have weight 1. padding: how many ids at the end are that, and differ between text encoders.
    """

    ids: tuple[int, ...]
    weights: tuple[float, ...]
    padding: int = 0

    def padded(self, pad: int) -> tuple[int, ...]:
        """The ids with another one for padding."""
        return (*self.ids[: len(self.ids) - self.padding], *[pad] * self.padding)


def chunked(parts: Iterable[Part], tokenizer: Tokenizer) -> list[Chunk]:
    """Returns the chunks of weighted text, at least one. Every part is tokenized by itself.

    BREAK ends a chunk, an empty one too: at the start of a prompt it makes an empty chunk, at the end none. Raises
    RequestError as `Tokenizer.ids` does.

    A comma that itself starts a chunk is no place to cut, as in A1111, and a vocabulary without a comma has none.
    """
    room = tokenizer.length - 2
    comma = tokenizer.backend.token_to_id("," + WORD_END)
    chunks: list[list[Token]] = []
    chunk: list[Token] = []
    cut = 0  # where the chunk's last comma ends; 0 for none
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
    padding = tokenizer.length - 2 - len(chunk)
    ids = (tokenizer.bos, *(token for token, _ in chunk), tokenizer.eos, *[tokenizer.pad] * padding)
    return Chunk(ids, (1.0, *(weight for _, weight in chunk), *[1.0] * (padding + 1)), padding)
