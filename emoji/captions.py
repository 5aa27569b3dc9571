"""Captions: from a picture and a random generator to a text and the background that it asks for. Pure functions.

A caption is a name (the label or a synonym), sometimes in a phrase ("an emoji of ..."), sometimes with tags, and a
background in half of them: "a red apple on a blue background". Without words for it the background is white. The parts
are drawn independently of each other, so that a prompt may put them together in ways that training never showed.

Every label has one colour that it never gets in training, `held_out(label)`: those pairs show whether the model learned
colours and things, or pictures.
"""

import zlib
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from numpy.random import Generator

from emoji.index import Row
from emoji.words import COLOURS, DEFINITE, SINGULAR, SYNONYMS, UNCOUNTED

T = TypeVar("T")

PLAIN = "white"  # what no word about the background means
COLOURED = tuple(colour for colour in COLOURS if colour != PLAIN)

SYNONYM_CHANCE, ARTICLE_CHANCE, PHRASE_CHANCE, TAGS_CHANCE = 0.3, 0.8, 0.2, 0.25
BACKGROUND_CHANCE, PLAIN_CHANCE, USUAL_CHANCE = 0.55, 0.1, 0.6  # the last two: of those with a background

PHRASES = ("a picture of {}", "an emoji of {}", "an icon of {}", "a drawing of {}", "{}, emoji", "{}, 3d icon")
USUAL = "{subject} on {a_colour} background"
BACKGROUNDS = (
    "{subject} on {colour}",
    "{subject}, {colour} background",
    "{subject} in front of {a_colour} background",
    "{subject} against {a_colour} background",
    "{subject} with {a_colour} background",
    "{colour} background, {subject}",
)
PAIRS = ("{} and {}", "{} next to {}", "{} beside {}", "{} on the left and {} on the right", "{} with {}")


class Caption(NamedTuple):
    """A caption and the name of the background that it asks for, a key of `COLOURS`."""

    text: str
    colour: str


def caption(row: Row, rng: Generator) -> Caption:
    """Return a caption for a picture; the same for the same state of `rng`, and never with `held_out(row.label)`."""
    subject = named(row, rng)
    if rng.random() < PHRASE_CHANCE:
        subject = pick(PHRASES, rng).format(subject)
    text, colour = with_background(subject, {held_out(row.label)}, rng)
    tags = usable_tags(row)
    if tags and rng.random() < TAGS_CHANCE:
        drawn = rng.permutation(len(tags))[: rng.integers(1, 4)]
        text = ", ".join([text, *(tags[number] for number in drawn)])
    return Caption(text, colour)


def pair_caption(left: Row, right: Row, rng: Generator) -> Caption:
    """Return a caption for two pictures side by side (compose.beside): "a cat and a red apple on a blue background"."""
    subject = pick(PAIRS, rng).format(named(left, rng), named(right, rng))
    return with_background(subject, {held_out(left.label), held_out(right.label)}, rng)


def held_out(label: str) -> str:
    """Return the colour that training never shows behind this label; fixed by the label alone, never white.

    >>> held_out("red apple")
    'blue'
    """
    return COLOURED[zlib.crc32(label.encode()) % len(COLOURED)]


def named(row: Row, rng: Generator) -> str:
    """Return the label or one of its synonyms, mostly with its article."""
    name = row.label
    if name in SYNONYMS and rng.random() < SYNONYM_CHANCE:
        name = pick(SYNONYMS[name], rng)
    if rng.random() < ARTICLE_CHANCE:
        name = with_article(name)
    return name.replace("’", "'")


def with_background(subject: str, never: set[str], rng: Generator) -> Caption:
    """Return the subject with or without a background, whose colour is none of `never`."""
    if rng.random() >= BACKGROUND_CHANCE:
        return Caption(subject, PLAIN)
    colours = [colour for colour in COLOURED if colour not in never]
    colour = PLAIN if rng.random() < PLAIN_CHANCE else pick(colours, rng)
    pattern = USUAL if rng.random() < USUAL_CHANCE else pick(BACKGROUNDS, rng)
    return Caption(pattern.format(subject=subject, colour=colour, a_colour=with_article(colour)), colour)


def usable_tags(row: Row) -> list[str]:
    """Return the tags that add something: no colours, which would contradict the background, no words of the label."""
    known = {*row.label.lower().replace("-", " ").split(), *COLOURS}
    return [tag for tag in row.tags if tag not in known]


def with_article(name: str) -> str:
    """Return a name as it stands in a sentence: "an apple", "grapes", "the sun".

    By rule: "the" and no article at all for the names that words.py lists, none for plurals, which are the names whose
    first part ends in s but not in ss, us, os or is.
    """
    head = name.split(" with ")[0]
    plural = head.endswith("s") and not head.endswith(("ss", "us", "os", "is")) and name not in SINGULAR
    if name in DEFINITE:
        return f"the {name}"
    if plural or name in UNCOUNTED:
        return name
    vowel = name[0].lower() in "aeiou" and not name.lower().startswith(("uni", "ufo", "ewe", "eu", "one"))
    return f"{'an' if vowel else 'a'} {name}"


def pick(things: Sequence[T], rng: Generator) -> T:
    """Return one of the things, each as likely as the others."""
    return things[int(rng.integers(len(things)))]
