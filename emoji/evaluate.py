"""Evaluates a bundle as the runtime runs it: its autoencoder, the things it draws, the backgrounds; against the goals.

    python -m emoji.evaluate [--bundle emoji] [--steps 20] [--guidance G] [--labels 300] [--out FOLDER]

Everything is drawn from fixed seeds, with the bundle's own sampler and, unless told otherwise, its guidance. Leaves
evaluation.md, evaluation.json with every prompt and what it gave, and gallery.png. The exit status is 1 if a goal is
missed.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

import latentrt
from emoji import fidelity, gallery, index, neighbours, reconstruction, report
from emoji.compose import Array
from emoji.fetch import FOLDER
from emoji.fidelity import Answer, Ask
from emoji.goals import Evaluation, status
from emoji.neighbours import Set

T = TypeVar("T")

OUT = FOLDER / "evaluation"
PROGRESS_SECONDS = 10.0


def main() -> None:
    """Evaluate a bundle, print and write the tables, and exit with 1 if a goal is missed."""
    given = arguments()
    try:
        pictures = neighbours.load(index.load())
        with latentrt.load(given.bundle) as pipe:
            defaults = pipe.bundle.manifest.defaults
            guidance = defaults.guidance if given.guidance is None else given.guidance
            options = {"steps": given.steps, "guidance": guidance, "sampler": defaults.sampler}
            about = {"bundle": pipe.bundle.manifest.name, "sha256": pipe.bundle.sha256} | options
            evaluation = evaluate(pipe, options, pictures, given.labels, given.pairs)
            sheet = gallery.draw(pipe)
    except (FileNotFoundError, latentrt.LatentError) as error:
        raise SystemExit(f"error: {error}") from error
    print(report.save(given.out, about, evaluation))
    sheet.save(given.out / "gallery.png", optimize=True)
    raise SystemExit(status(evaluation.figures))


def arguments() -> argparse.Namespace:
    """Return the command's arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="emoji", help="a bundle's folder or a built-in model")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, help="the bundle's own unless given")
    parser.add_argument("--labels", type=int, default=300, help="prompts without a background")
    parser.add_argument("--pairs", type=int, default=200, help="prompts with one: of seen pairs, and again of unseen")
    parser.add_argument("--out", type=Path, default=OUT)
    return parser.parse_args()


def evaluate(pipe: latentrt.Pipeline, options: dict[str, Any], pictures: Set, labels: int, pairs: int) -> Evaluation:
    """Return what a bundle does: the whole set through its autoencoder, `labels` plain prompts, 2 x `pairs` others.

    One picture at a time: a batch of the runtime is one prompt with several seeds.
    """

    def draw(prompt: str, seed: int) -> Array:
        image = pipe.generate(prompt, seed=seed, syntax="plain", **options).images[0]
        return np.asarray(image, dtype=np.float32) / np.float32(255)

    def answers(name: str, asks: list[Ask]) -> list[Answer]:
        return list(watched(name, (fidelity.answer(ask, draw, pictures) for ask in asks), len(asks)))

    if "vae_encoder" not in pipe.engines:
        raise latentrt.BundleError(f"{pipe.bundle.folder}: got no vae_encoder; export it anew with `latentrt export`")
    decoded = reconstruction.measure(pipe.call, pictures)
    return Evaluation(
        list(watched("autoencoder", decoded, 2 * len(pictures.labels))),
        answers("labels", fidelity.plain(pictures.labels, labels)),
        answers("seen pairs", fidelity.seen(pictures.labels, pairs)),
        answers("unseen pairs", fidelity.unseen(pictures.labels, pairs)),
    )


def watched(name: str, some: Iterator[T], total: int) -> Iterator[T]:
    """Yield what there is, saying on stderr every few seconds how much that has been."""
    started = said = time.monotonic()
    for number, one in enumerate(some, start=1):
        yield one
        now = time.monotonic()
        if now - said > PROGRESS_SECONDS or number == total:
            print(f"{name}: {number} of {total}, {(now - started) / number:.2f} s each", file=sys.stderr, flush=True)
            said = now


if __name__ == "__main__":
    main()
