"""The options of the pictures that bundles and settings are compared on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from latentrt.engines.kinds import NAMES

PICTURES = click.Path(path_type=Path, exists=True)
FILE = click.Path(path_type=Path, dir_okay=False)
NAMES_OF_OPTIONS = ("prompts", "init", "images", "seed", "steps", "guidance", "sampler", "engine")


def picture_options(bundle: str, images: int) -> Callable[[Any], Any]:
    """The options. bundle: the argument whose defaults count. images: how many pictures by default."""
    usual = f"[default: {bundle}'s]"
    options = [
        click.option(
            "--prompts",
            type=FILE,
            metavar="FILE",
            help="Prompts or classes, one per line, UTF-8.  [default: 100 that ship]",
        ),
        click.option(
            "--init",
            type=PICTURES,
            metavar="DIR",
            help="Pictures for upscalers, inpainting models and InstructPix2Pix.  [default: drawn ones]",
        ),
        click.option(
            "--images",
            type=int,
            default=images,
            show_default=True,
            help="Pictures; prompts repeat if there are fewer.",
        ),
        click.option("--steps", type=int, help=f"Denoising steps.  {usual}"),
        click.option("--guidance", type=float, help=f"Guidance scale; 1 is off.  {usual}"),
        click.option("--sampler", metavar="NAME", help=f"Sampler: ddim, euler, dpmpp_2m, ...  {usual}"),
        click.option(
            "--seed", type=int, default=0, show_default=True, help="Seed of the first picture; picture k has SEED + k."
        ),
        click.option(
            "--engine",
            default="onnxruntime",
            metavar="NAME",
            show_default=True,
            help=f"Engine: {', '.join(NAMES)}.",
        ),
    ]

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate
