"""Several threads that draw with one pipeline, each its own pictures in its own order."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Mapping

import latentrt
from latentrt.pipeline.pipeline import Pipeline

# Sizes differ, so that axes become free while other threads call.
SIZES = ((16, 16), (24, 16), (16, 32))
PROMPTS = ("a red apple", "a (blue:1.3) car")


def asked(number: int) -> latentrt.Request:
    """One of the requests that the threads share."""
    width, height = SIZES[number % len(SIZES)]
    return latentrt.Request(PROMPTS[number % len(PROMPTS)], seed=number, steps=2, width=width, height=height)


def drawn(pipeline: Pipeline, request: latentrt.Request) -> bytes:
    """The picture's bytes."""
    run = pipeline.steps(request)
    for _ in run:
        pass
    return run.result.images[0].tobytes()


def together(pipeline: Pipeline, expected: Mapping[int, bytes], threads: int, pictures: int) -> Counter[str]:
    """What became of each picture: "ok", "wrong", or an error. expected: by number, as drawn alone."""
    counts, lock, start = Counter[str](), threading.Lock(), threading.Barrier(threads)

    def draw(thread: int) -> None:
        order = random.Random(thread)
        start.wait()
        for _ in range(pictures):
            number = order.choice(list(expected))
            try:
                outcome = "ok" if drawn(pipeline, asked(number)) == expected[number] else "wrong"
            except Exception as error:
                outcome = f"{type(error).__name__}: {error}"
            with lock:
                counts[outcome] += 1

    running = [threading.Thread(target=draw, args=(thread,)) for thread in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return counts
