"""Measures export and one picture of the latent diffusion paper's models at full size, with random weights.

    python -m benchmarks.ldm [--work DIR] [--models ldm-class,rdm] [--steps 2] [--optimised]

For each model: a checkpoint in the original layout from its public config, an export in fp32, and a picture of the
model's own size. Peak memory is the operating system's figure for the whole process. Checkpoint and bundle are deleted
before the next model; a model needs up to 14 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.export_sd15 import ROOT, run_measured
from benchmarks.machine import machine, one_line

COLUMNS = ("model", "picture", "weights, GB", "export, s", "export, peak GB", "step, s", "decoder, s")
COLUMNS += ("picture, s", "picture, peak GB")


@dataclass(frozen=True)
class Model:
    """A published model: what the paper calls it, and the options of one picture."""

    title: str
    options: tuple[str, ...] = ()


MODELS = {
    "ldm-celebahq": Model("CelebA-HQ, FFHQ, bedrooms"),
    "ldm-churches": Model("churches"),
    "ldm-class": Model("cin256-v2", ("--class", "207")),
    "ldm-class-f8": Model("cin256", ("--class", "207")),
    "ldm-text-large": Model("txt2img-large", ("--prompt", "a painting of a fox")),
    "ldm-text-256": Model("text2img256", ("--prompt", "a painting of a fox")),
    "ldm-inpainting": Model("inpainting_big", ("--init", "photo.png", "--mask", "mask.png")),
    "ldm-semantic": Model("semantic_synthesis", ("--segmentation", "labels.png")),
    "ldm-layout": Model("layout2img-openimages256", ("--layout", "boxes.json")),
    "rdm": Model("rdm768x768", ("--vectors", "vectors.npy")),
}


def write_inputs(folder: Path, side: int) -> None:
    """Writes what the options name: a photo, a mask, a label map, boxes and vectors."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)).save(folder / "photo.png")
    Image.fromarray(np.pad(np.full((side // 2, side // 2), 255, np.uint8), side // 4)).save(folder / "mask.png")
    Image.fromarray(rng.integers(0, 182, (side, side)).astype(np.uint8)).save(folder / "labels.png")
    (folder / "boxes.json").write_text(json.dumps([{"label": 15, "box": [0.1, 0.2, 0.5, 0.6]}]))
    np.save(folder / "vectors.npy", rng.standard_normal((11, 768)).astype(np.float32))


def vocabulary(work: Path) -> Path:
    """Writes a vocabulary of BERT's size, of letters and of words that no text has. Returns its folder."""
    folder = work / "vocabulary"
    folder.mkdir(exist_ok=True)
    special = ["[PAD]", *(f"[unused{n}]" for n in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [f"{prefix}{letter}" for letter in ascii_lowercase for prefix in ("", "##")]
    words = [*special, *letters]
    words += [f"[word{n}]" for n in range(30522 - len(words))]
    (folder / "vocab.txt").write_text("\n".join(words))
    return folder


def row(model: str, work: Path, steps: int, *, optimised: bool) -> str:
    """Exports a model and draws a picture. Returns a row of the table."""
    checkpoint, bundle, report = work / f"{model}.safetensors", work / model, work / "report.json"
    latentrt = [sys.executable, "-m", "latentrt"]
    shutil.rmtree(bundle, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "benchmarks.ldm_checkpoint", model, str(checkpoint)], cwd=ROOT, check=True)
    size = checkpoint.stat().st_size
    tokenizer = ["--tokenizer", str(vocabulary(work))] if "text" in model else []
    exported = run_measured([*latentrt, "export", str(checkpoint), str(bundle), *tokenizer])
    checkpoint.unlink()
    if optimised:
        run_measured([*latentrt, "build", str(bundle), "--target", "cpu"])
    manifest = json.loads((bundle / "bundle.json").read_text())
    write_inputs(work, manifest["defaults"]["width"])
    known = [str(work / one) if (work / one).is_file() else one for one in MODELS[model].options]
    known = known[1:] if known[:1] == ["--prompt"] else known
    out = ["--out", str(work / f"{model}.png"), "--bundle", str(bundle), "--engine", "cpu", "--json"]
    with report.open("w") as stdout:
        drawn = run_measured([*latentrt, "generate", *known, "--steps", str(steps), *out], stdout)
    shutil.rmtree(bundle)
    return table_row(model, size, exported, drawn, json.loads(report.read_text()))


def table_row(
    model: str, size: int, exported: tuple[float, int], drawn: tuple[float, int], report: dict[str, Any]
) -> str:
    """A row of the table, from seconds and peak bytes of both processes and the picture's report."""
    settings, seconds = report["settings"], report["seconds"]
    cells = (
        MODELS[model].title,
        f"{settings['width']}x{settings['height']}",
        f"{size / 1e9:.2f}",
        f"{exported[0]:.0f}",
        f"{exported[1] / 1e9:.2f}",
        f"{seconds['unet'] / settings['steps']:.1f}",
        f"{seconds['vae_decoder']:.1f}",
        f"{drawn[0]:.0f}",
        f"{drawn[1] / 1e9:.2f}",
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measures every model and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "ldm")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--optimised", action="store_true", help="with graphs optimised for this processor")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    print(f"{one_line(machine())}; {given.steps} steps\n")
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
    for model in given.models.split(","):
        print(row(model, given.work, given.steps, optimised=given.optimised), flush=True)


if __name__ == "__main__":
    main()
