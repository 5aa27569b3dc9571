"""Loss and time of step caching on the built-in model, beside fewer steps at the same cost: docs/step-cache.md.

    python -m benchmarks.step_cache loss [--images 24] [--out FILE.json]
    python -m benchmarks.step_cache time [--rounds 8]

`loss` compares pictures of held-out prompts with those of the same settings without a cache, and takes 20 minutes on 2
cores; a row that FILE has already is not measured again. `time` runs all rows in turn and tells ratios of the UNet's
time and of the whole run's. Both cut the built-in UNet at the last two concatenations, in a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.machine import machine, one_line
from latentrt.pipeline.load import load
from latentrt.pipeline.pipeline import Pipeline
from latentrt_calib.evaluate.generate import requests_of
from latentrt_calib.evaluate.shortcuts import Shortcuts
from latentrt_calib.recording.subjects import subjects_of
from latentrt_export.step_cache import add_step_cache

PROMPTS = Path(__file__).parents[1] / "emoji" / "prompts" / "evaluation.txt"
Fields = Mapping[str, Any]


def cached(calls: int, order: int = 0, of: str = "features") -> dict[str, Any]:
    """Fields of a request with a step cache."""
    return {"cache": calls, "cache_order": order, "cache_of": of}


# Settings without a cache, and rows of (boundary, fields with one).
ROWS: list[tuple[str, Fields, list[tuple[int, Fields]]]] = [
    (
        "ddim, 20 steps",
        {},
        [
            *((boundary, cached(calls, order)) for calls in (2, 3, 4, 5) for boundary in (2, 1) for order in (0, 1)),
            *((2, cached(calls, order, "prediction")) for calls in (2, 3, 4) for order in (0, 1)),
            *((2, cached(calls, order, "features+guidance")) for calls in (2, 3) for order in (0, 1)),
            *((2, cached(calls, order, "guidance")) for calls in (2, 3) for order in (0, 1)),
            (2, {"guidance_interval": (0.0, 20.0)}),
            (2, {"guidance_interval": (0.0, 20.0), **cached(3, 1)}),
        ],
    ),
    (
        "ddim, 20 steps, guidance 5",
        {"guidance": 5.0},
        [
            *((boundary, cached(calls, order)) for calls in (2, 3) for boundary in (2, 1) for order in (0, 1)),
            (2, cached(3, 0, "features+guidance")),
            (2, cached(2, 0, "guidance")),
        ],
    ),
    (
        "ddim, 50 steps",
        {"steps": 50},
        [(2, cached(calls, order)) for calls in (2, 3, 5) for order in (0, 1)]
        + [(2, cached(calls, 1, "prediction")) for calls in (3, 5)],
    ),
    (
        "dpmpp_2m, 20 steps",
        {"sampler": "dpmpp_2m"},
        [(2, cached(3, order)) for order in (0, 1)] + [(1, cached(3)), (2, cached(3, 1, "prediction"))],
    ),
    (
        "dpmpp_2m, karras, 20 steps",
        {"sampler": "dpmpp_2m", "sigmas": "karras"},
        [(2, cached(calls, order)) for calls in (2, 3, 4) for order in (0, 1)],
    ),
    ("euler_a, 20 steps", {"sampler": "euler_a"}, [(2, cached(calls, order)) for calls in (2, 3) for order in (0, 1)]),
    (
        "heun, 10 steps",
        {"sampler": "heun", "steps": 10},
        [(2, cached(calls, order)) for calls in (2, 3) for order in (0, 1)],
    ),
]
TIMED: list[tuple[int, Fields]] = [
    (2, {}),
    (2, cached(2)),
    (2, cached(3)),
    (1, cached(3)),
    (2, cached(3, 1, "features+guidance")),
    (2, cached(3, 1, "prediction")),
]


def main() -> None:
    """Measures what is asked for, and prints it as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("loss", "time"))
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        pipelines = {boundary: cut_at(boundary, Path(scratch) / str(boundary)) for boundary in (1, 2)}
        print(one_line(machine()), flush=True)
        lines = losses(pipelines, given.images, given.out) if given.what == "loss" else times(pipelines, given.rounds)
        for line in lines:
            print(line, flush=True)


def cut_at(boundary: int, out: Path) -> Pipeline:
    """The built-in model with a shallow UNet, as a bundle in a folder."""
    add_step_cache("emoji", out, boundary)
    return load(out, engine="onnxruntime")


def losses(pipelines: Mapping[int, Pipeline], images: int, out: Path | None) -> Iterator[str]:
    """Yields the lines of a table for each sampler."""
    subjects = subjects_of(pipelines[2].bundle.manifest, PROMPTS, PROMPTS, "evaluation")
    known = json.loads(out.read_text()) if out and out.is_file() else {}
    for title, base, rows in ROWS:
        yield f"\n{title}\n\n| cut | settings | work | mean dB | worst dB | fewer steps | mean dB | worst dB |"
        yield "|---|---|---|---|---|---|---|---|"
        requests = requests_of(subjects, pipelines[2].bundle, images=images, **base)
        measured: dict[int, Shortcuts] = {}
        for boundary, fields in rows:
            key = json.dumps([images, base, boundary, fields])
            if key not in known:
                if boundary not in measured:
                    measured[boundary] = Shortcuts(pipelines[boundary], requests)
                known[key] = asdict(measured[boundary].measure(fields))
                if out:
                    out.write_text(json.dumps(known, indent=1))
            yield loss_line(boundary, fields, known[key])


def loss_line(boundary: int, fields: Fields, found: Mapping[str, Any]) -> str:
    """The row of a shortcut."""
    loss, fewer = found["loss"], found["fewer_loss"]
    words = ", ".join(f"{name} {value}" for name, value in fields.items() if value not in (0, "features"))
    figures = f"{found['share']:.3f} | {loss['psnr_db']:.1f} | {loss['worst_psnr_db']:.1f}"
    return (
        f"| {boundary} | {words} | {figures} | {found['fewer_steps']} | {fewer['psnr_db']:.1f} | "
        f"{fewer['worst_psnr_db']:.1f} |"
    )


def times(pipelines: Mapping[int, Pipeline], rounds: int) -> Iterator[str]:
    """Yields the rows of the table of times: medians, and ratios to the run without a cache in the same round."""
    taken: list[list[tuple[float, float]]] = [[] for _ in TIMED]
    for number in range(rounds + 1):
        for row, (boundary, fields) in zip(taken, TIMED, strict=True):
            result = pipelines[boundary].generate("a red apple", seed=number, **fields)
            spent = result.timings
            row.append((spent["unet"] + spent.get("unet_shallow", 0.0), sum(spent.values())))
    yield "\n| cut | settings | UNet s | of full | whole s | of full |"
    yield "|---|---|---|---|---|---|"
    for (boundary, fields), row in zip(TIMED, taken, strict=True):
        cells = []
        for part in (0, 1):
            some = [one[part] for one in row[1:]]  # the first round warms up
            ratios = [one[part] / full[part] for one, full in zip(row[1:], taken[0][1:], strict=True)]
            cells += [f"{median(some):.3f}", f"{median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"]
        words = ", ".join(f"{name} {value}" for name, value in fields.items() if value not in (0, "features"))
        yield f"| {boundary} | {words or 'off'} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
