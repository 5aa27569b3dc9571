"""Classes and layouts of checkpoints without prompts: the names and numbers that requests may use."""

from __future__ import annotations

from pathlib import Path

from latentrt.bundle.manifest import Classes, Layout
from latentrt_export.networks.component import Config

NAMES = Path(__file__).parents[1] / "classes" / "imagenet.txt"
IMAGENET = 1000


def classes_of(config: Config) -> Classes:
    """The classes of a table of class embeddings.

    A table of one more than ImageNet's ends with the unconditional class: Rombach et al. (2022), cin256-v2. Tables of
    other sizes have neither names nor an unconditional class.
    """
    count = int(config["num_embeddings"])
    if count not in (IMAGENET, IMAGENET + 1):
        return Classes(count)
    return Classes(IMAGENET, IMAGENET if count > IMAGENET else None, imagenet_names())


def imagenet_names() -> tuple[str, ...]:
    """The names of ImageNet's classes, synonyms divided by ", "."""
    lines = NAMES.read_text(encoding="utf-8").splitlines()
    return tuple(line for line in lines if not line.startswith("#"))


def layout_of(config: Config) -> Layout:
    """The layouts of an encoder of tokens: three tokens per object, and two for the crop."""
    return Layout(int(config["vocab_size"]), (int(config["max_position_embeddings"]) - 2) // 3)
