"""What an evaluation comes to: its figures, and the goals of the project that some of them have."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from emoji.fidelity import Answer
from emoji.reconstruction import Decoded


@dataclass(frozen=True)
class Figure:
    """One result and, if the project has one, its goal, the least that it should be; `unit` is "dB" or "%"."""

    name: str
    value: float
    unit: str
    goal: float | None = None

    @property
    def met(self) -> bool:
        """Return whether the goal is reached; always, where there is none."""
        return self.goal is None or self.value >= self.goal


@dataclass(frozen=True)
class Evaluation:
    """Everything that was measured: each decoded picture, and each answer to the three kinds of prompts."""

    decoded: Sequence[Decoded]
    plain: Sequence[Answer]
    seen: Sequence[Answer]
    unseen: Sequence[Answer]

    @property
    def figures(self) -> list[Figure]:
        """Return every figure, in the order of the tables."""
        return [*quality(self.decoded), *things(self.plain), *backgrounds(self.seen, self.unseen)]


def quality(decoded: Sequence[Decoded]) -> list[Figure]:
    """Return what the autoencoder keeps."""
    every = np.array([one.psnr_db for one in decoded])
    white = np.array([one.background == "white" for one in decoded])
    return [
        Figure("autoencoder: mean PSNR", float(every.mean()), "dB", 27.0),
        Figure("autoencoder: mean PSNR on white", float(every[white].mean()), "dB"),
        Figure("autoencoder: mean PSNR on colours", float(every[~white].mean()), "dB"),
        Figure("autoencoder: 5th percentile", float(np.percentile(every, 5)), "dB"),
        Figure("autoencoder: worst", float(every.min()), "dB"),
    ]


def things(plain: Sequence[Answer]) -> list[Figure]:
    """Return how often the right picture of the set is the nearest, or among the five nearest."""
    return [
        Figure("the right thing is the nearest", share(one.rank == 1 for one in plain), "%", 70.0),
        Figure("the right thing is among the 5 nearest", share(one.rank <= 5 for one in plain), "%", 85.0),
    ]


def backgrounds(seen: Sequence[Answer], unseen: Sequence[Answer]) -> list[Figure]:
    """Return how often the background is the one asked for, and the thing on it, for both kinds of pairs."""
    figures = []
    for kind, answers, goal in (("seen", seen, 95.0), ("unseen", unseen, 90.0)):
        right = share(one.background == one.asked_background for one in answers)
        figures.append(Figure(f"{kind} pairs: the right background", right, "%", goal))
        thing = share(one.rank == 1 for one in answers)
        figures.append(Figure(f"{kind} pairs: the right thing is the nearest", thing, "%"))
    return figures


def share(right: Iterable[bool]) -> float:
    """Return the percentage that is true."""
    return 100 * float(np.mean(list(right)))


def confusions(answers: Iterable[Answer]) -> list[Answer]:
    """Return the answers nearest to another picture, first those where the right one is furthest behind it."""
    wrong = [one for one in answers if one.rank > 1]
    return sorted(wrong, key=lambda one: one.nearest_distance - one.right_distance)


def wrong_backgrounds(evaluation: Evaluation) -> list[Answer]:
    """Return the answers whose background is not the one asked for, seen pairs first."""
    return [one for one in [*evaluation.seen, *evaluation.unseen] if one.background != one.asked_background]


def status(figures: Iterable[Figure]) -> str | int:
    """Return what to exit with: 0, or a message that names the goals missed, which makes the status 1."""
    missed = [f"{one.name} {one.value:.1f} {one.unit}, under {one.goal:g}" for one in figures if not one.met]
    return f"goals missed: {'; '.join(missed)}" if missed else 0
