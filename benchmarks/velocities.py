"""What a transformer's predictions lose in few bits, on random weights; no picture tells it for such models.

    python -m benchmarks.velocities [--work DIR]

Both models are small in depth and width, with the blocks of the published ones. The prediction of every step is
computed from the same inputs, those of the model in fp32, and compared with that model's: signal to noise in dB. The
last column is of the latents after all steps, each model going its own way, its text encoder in the same precision
where the command quantizes it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import latentrt
from benchmarks.machine import machine, one_line
from latentrt.engines.wrapped import Wrapped
from latentrt.tensors import Array
from latentrt_export.export import ExportOptions, export
from tests.export import klein, pixart

PROMPT, SIDE = "a photograph of two cats on a wooden table", 128
WIDE_KLEIN = {"num_layers": 1, "num_single_layers": 4, "num_attention_heads": 4, "attention_head_dim": 128}
WIDE_KLEIN |= {"axes_dims_rope": (32, 32, 32, 32)}
WIDE_PIXART = {"num_layers": 4, "num_attention_heads": 8, "attention_head_dim": 72, "cross_attention_dim": 576}


@dataclass(frozen=True)
class Model:
    """A small model. patched: while it is exported."""

    steps: int
    reference: Callable[[], Any]
    patched: Callable[[], AbstractContextManager[None]]


MODELS = {
    "FLUX.2 klein": Model(4, lambda: klein.reference(changes=WIDE_KLEIN), klein.small_states),
    "PixArt-Sigma": Model(20, lambda: pixart.reference(**WIDE_PIXART), nullcontext),
}
# Of layers that make shifts, scales and gates. As they are drawn, gates are near 0.04, and no block would count.
LIVELIER, MODULATIONS = 20, ("modulation", "adaln_single.linear")
# How each row is made: by an export in this precision, or by a calibration of the bundle in fp32 with these words.
ROWS: Mapping[str, str | list[str]] = {
    "`export --precision w16`": "w16",
    "`calibrate --precision w8`": ["--precision", "w8"],
    "`export --precision w4`, rounded to the nearest": "w4",
    "`calibrate --precision w4`": ["--precision", "w4"],
}


class Recorder(Wrapped):
    """An engine that keeps its inputs and outputs."""

    def __init__(self, engine: latentrt.engines.Engine) -> None:
        super().__init__(engine)
        self.calls: list[tuple[dict[str, Array], dict[str, Array]]] = []

    def __call__(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The engine's outputs."""
        made = super().__call__(feeds)
        self.calls.append(({name: one.copy() for name, one in feeds.items()}, made))
        return made


def bundles(model: Model, work: Path) -> dict[str, Path]:
    """The bundle in fp32, by the name "fp32", and that of each row; those that exist are not made again."""
    if not (work / "checkpoint").exists():
        livelier(model.reference()).save_pretrained(work / "checkpoint")
    made = {}
    with model.patched():
        for name, how in {"fp32": "fp32", **ROWS}.items():
            made[name] = work / f"bundle-{len(made)}"
            if made[name].exists():
                continue
            if isinstance(how, str):
                export(work / "checkpoint", made[name], ExportOptions(precision=how))
            else:
                calibrate(made["fp32"], made[name], how, model.steps)
    return made


@torch.no_grad()
def livelier(pipeline: Any) -> Any:
    """The pipeline with gates of about one."""
    for name, weight in pipeline.transformer.named_parameters():
        if any(part in name for part in MODULATIONS):
            weight.mul_(LIVELIER)
    return pipeline


def calibrate(bundle: Path, out: Path, words: list[str], steps: int) -> None:
    """A calibration without a budget, which only pictures of trained models could ask for."""
    command = [sys.executable, "-m", "latentrt", "calibrate", bundle, out, *words, "--budget", 0]
    counts = {"--images": 1, "--evaluations": 1, "--steps": min(steps, 4)}
    command += [word for pair in counts.items() for word in pair]
    subprocess.run([str(word) for word in command], check=True, stdout=sys.stderr)


def drawn(bundle: Path, steps: int) -> tuple[Recorder, Array]:
    """The transformer's calls of a picture, and the latents after the last step."""
    pipeline = latentrt.load(bundle, engine="onnxruntime")
    recorder = Recorder(pipeline.engines["transformer"])
    request = latentrt.Request(PROMPT, steps=steps, width=SIDE, height=SIDE, seed=0)
    *_, last = pipeline.with_engines({"transformer": recorder}).steps(request)
    return recorder, last.latents


def decibels(found: Array, wanted: Array) -> float:
    """Signal to noise."""
    return float(10 * np.log10(np.square(wanted).mean() / np.square(found - wanted).mean()))


def row(name: str, bundle: Path, steps: int, recorder: Recorder, latents: Array) -> str:
    """A row of the table."""
    other, end = drawn(bundle, steps)
    found = [
        decibels(other.engine(feeds)["prediction"], made["prediction"])
        for feeds, made in (recorder.calls[place] for place in (0, len(recorder.calls) // 2, -1))
    ]
    size = sum(file.stat().st_size for file in bundle.glob("transformer.onnx*")) / 1e6
    return f"| {name} | {' / '.join(f'{one:.1f}' for one in found)} | {decibels(end, latents):.1f} | {size:.1f} |"


def main() -> None:
    """Makes the bundles and prints a table for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="a folder to keep the bundles in")
    given = parser.parse_args()
    print(one_line(machine()))
    with tempfile.TemporaryDirectory() as scratch:
        for place, (name, model) in enumerate(MODELS.items()):
            work = (given.work or Path(scratch)) / str(place)
            made = bundles(model, work)
            recorder, latents = drawn(made.pop("fp32"), model.steps)
            print(f"\n| {name} | prediction, first / middle / last step, dB | latents at the end, dB | MB |")
            print("|---|---|---|---|", flush=True)
            for how, bundle in made.items():
                print(row(how, bundle, model.steps, recorder, latents), flush=True)


if __name__ == "__main__":
    main()
