"""What a training step is shown: captions as tokens, and the latents of the pictures that they describe."""

import json

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from emoji import index, latents
from emoji.captions import caption
from emoji.tokenizer import LENGTH, TOKENIZER
from latentrt.prompt.tokenizer import Tokenizer

Half = NDArray[np.float16]

EMPTY, PAIRED = 0.1, 0.12  # shares of captions: none, for guidance; of two pictures side by side


class Examples:
    """The pictures' rows, their latents, the tokenizer."""

    NO_PICTURE = -1

    def __init__(self) -> None:
        self.rows = index.load()
        self.stored = latents.load()
        self.tokenizer = Tokenizer.load(TOKENIZER / "tokenizer.json", length=LENGTH, bos=0, eos=1, pad=1)
        self.vocabulary = len(json.loads((TOKENIZER / "vocab.json").read_text(encoding="utf-8")))

    def draw(self, count: int, rng: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return ids (count, 32), latents (count, 4, 16, 16) and each picture's number, NO_PICTURE for none or two."""
        texts, drawn, numbers = [], [], []
        for _ in range(count):
            text, latent, number = self.pair(rng) if rng.random() < PAIRED else self.single(rng)
            empty = rng.random() < EMPTY
            texts.append("" if empty else text)
            drawn.append(latent)
            numbers.append(self.NO_PICTURE if empty else number)
        return self.ids(texts), torch.from_numpy(np.stack(drawn)).float(), torch.tensor(numbers)

    def single(self, rng: Generator) -> tuple[str, Half, int]:
        """Return one picture's caption, latents and number."""
        number = int(rng.integers(len(self.rows)))
        text, colour = caption(self.rows[number], rng)
        return text, self.stored.single[number, latents.NAMES.index(colour)], number

    def pair(self, rng: Generator) -> tuple[str, Half, int]:
        """Return two pictures' caption and latents, and no number."""
        number = int(rng.integers(len(self.stored.pairs)))
        return str(self.stored.texts[number]), self.stored.pairs[number], self.NO_PICTURE

    def ids(self, texts: list[str]) -> Tensor:
        """Return the tokens of texts: (texts, 32)."""
        return torch.from_numpy(np.asarray(self.tokenizer(texts), dtype=np.int64))
