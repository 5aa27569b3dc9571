"""What is asked of a bundle and what it draws: prompts with a label and a colour, and how each picture is judged."""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from emoji.backgrounds import background
from emoji.captions import PLAIN, USUAL, held_out, pick, with_article
from emoji.compose import Array
from emoji.neighbours import Set
from emoji.words import COLOURS

SEED = 0

Draw = Callable[[str, int], Array]


@dataclass(frozen=True)
class Ask:
    """A label and, where the prompt names one, a background."""

    label: str
    colour: str | None = None

    @property
    def prompt(self) -> str:
        """Return the label with its article, as captions write it: "a red apple on a blue background"."""
        subject = with_article(self.label).replace("’", "'")
        return USUAL.format(subject=subject, a_colour=with_article(self.colour)) if self.colour else subject

    @property
    def seed(self) -> int:
        """Return the seed of the picture, which the prompt alone decides."""
        return zlib.crc32(self.prompt.encode())


@dataclass(frozen=True)
class Answer:
    """What was drawn: its background, the nearest picture of the set, and where the one that was asked for comes.

    `rank` is 1 when the right one is nearest; `right_distance` and `nearest_distance` are those of features.py.
    """

    prompt: str
    seed: int
    asked: str
    asked_background: str
    background: str
    nearest: str
    rank: int
    right_distance: float
    nearest_distance: float


def plain(labels: Sequence[str], count: int) -> list[Ask]:
    """Return prompts without a background for `count` of the labels, for all of them if there are fewer."""
    return [Ask(label) for label in some(labels, count, np.random.default_rng(SEED))]


def seen(labels: Sequence[str], count: int) -> list[Ask]:
    """Return prompts for pairs of a label and any colour but the one held out, each label once."""
    rng = np.random.default_rng(SEED + 1)
    return [
        Ask(label, pick([colour for colour in COLOURS if colour != held_out(label)], rng))
        for label in some(labels, count, rng)
    ]


def unseen(labels: Sequence[str], count: int) -> list[Ask]:
    """Return prompts for the pairs that training never shows, each label once."""
    return [Ask(label, held_out(label)) for label in some(labels, count, np.random.default_rng(SEED + 2))]


def some(labels: Sequence[str], count: int, rng: Generator) -> list[str]:
    """Return `count` of the labels, each at most once, in an order that does not change with `count`."""
    return [labels[place] for place in rng.permutation(len(labels))[:count]]


def answer(ask: Ask, draw: Draw, pictures: Set) -> Answer:
    """Return what `draw(prompt, seed)`, (side, side, 3) float32 in [0, 1], shows of what was asked.

    Its neighbours are those among the set on the background that was asked for.
    """
    picture, colour = draw(ask.prompt, ask.seed), ask.colour or PLAIN
    near = pictures.neighbours(picture, colour)
    return Answer(
        prompt=ask.prompt,
        seed=ask.seed,
        asked=ask.label,
        asked_background=colour,
        background=background(picture),
        nearest=near.nearest,
        rank=near.rank(ask.label),
        right_distance=round(near.distance(ask.label), 4),
        nearest_distance=round(near.distance(near.nearest), 4),
    )
