"""An evaluation on disk: tables in Markdown for people, everything in JSON."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from emoji.goals import Evaluation, Figure, confusions, wrong_backgrounds

SHOWN = 10  # rows of the tables of what went wrong


def save(folder: Path, about: dict[str, Any], evaluation: Evaluation) -> str:
    """Write evaluation.md and evaluation.json, and return the former.

    The JSON has `about`, the figures with their goals, the pairs (asked, got) that were confused, and every picture.
    """
    text = markdown(about, evaluation)
    figures = [asdict(figure) | {"met": figure.met} for figure in evaluation.figures]
    confused = [(one.asked, one.nearest) for one in confusions(evaluation.plain)]
    content = {"about": about, "figures": figures, "confusions": confused} | asdict(evaluation)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "evaluation.md").write_text(text, encoding="utf-8")
    (folder / "evaluation.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return text


def markdown(about: dict[str, Any], evaluation: Evaluation) -> str:
    """Return the tables: the figures and their goals, then the worst of each kind."""
    confused, missed = confusions(evaluation.plain), wrong_backgrounds(evaluation)
    lossy = sorted(evaluation.decoded, key=lambda one: one.psnr_db)[:SHOWN]
    parts = (
        ", ".join(f"{name} {value}" for name, value in about.items()),
        table(("figure", "value", "goal", ""), [cells(figure) for figure in evaluation.figures]),
        f"{len(confused)} of {len(evaluation.plain)} things are nearer to another; those furthest off, with distances:",
        table(
            ("asked", "got", "to what it got", "to what was asked", "rank of that"),
            [(o.asked, o.nearest, o.nearest_distance, o.right_distance, o.rank) for o in confused[:SHOWN]],
        ),
        f"{len(missed)} of {len(evaluation.seen) + len(evaluation.unseen)} backgrounds are another colour:",
        table(("asked", "got"), [(one.prompt, one.background) for one in missed[:SHOWN]]),
        "What the autoencoder keeps least of:",
        table(("picture", "on", "PSNR"), [(one.label, one.background, f"{one.psnr_db:.1f} dB") for one in lossy]),
    )
    return "\n\n".join(parts) + "\n"


def cells(figure: Figure) -> tuple[str, str, str, str]:
    """Return the row of a figure: name, value, goal, and whether that is met."""
    value = f"{figure.value:.1f} {figure.unit}"
    if figure.goal is None:
        return figure.name, value, "", ""
    return figure.name, value, f"at least {figure.goal:g} {figure.unit}", "met" if figure.met else "**missed**"


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
