"""`latentrt export`: a checkpoint becomes a bundle."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from latentrt.cli.output import as_json, print_json
from latentrt.errors import EngineError

FOLDER = click.Path(path_type=Path, file_okay=False)
ANYTHING = click.Path(path_type=Path)


def pairs(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> list[tuple[Path, float]]:
    """The file and the scale of each FILE:SCALE, of FILE alone a scale of 1."""
    return [pair(value) for value in values]


def pair(value: str) -> tuple[Path, float]:
    """The file and the scale that `value` names. Raises BadParameter for a scale that is no number."""
    file, colon, scale = value.rpartition(":")
    if not colon:
        return Path(value), 1.0
    try:
        return Path(file), float(scale)
    except ValueError as error:
        raise click.BadParameter(
            f"got the scale {scale!r} in {value!r}, expected FILE:SCALE with a number, such as {file}:0.8"
        ) from error


@click.command()
@click.argument("checkpoint", type=ANYTHING)
@click.argument("out", type=FOLDER)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "w16"]),
    default="fp32",
    show_default=True,
    help="fp16 computes in half precision; w16 stores weights in fp16 and computes in fp32.",
)
@click.option("--name", help="The bundle's name.  [default: the checkpoint's]")
@click.option("--steps", type=click.IntRange(min=1), default=20, show_default=True, help="The bundle's default steps.")
@click.option("--guidance", type=float, default=7.5, show_default=True, help="The bundle's default guidance.")
@click.option("--vae", type=ANYTHING, metavar="PATH", help="A VAE to use in place of the checkpoint's.")
@click.option(
    "--lora",
    "loras",
    callback=pairs,
    multiple=True,
    metavar="FILE:SCALE",
    help="A LoRA to fuse, and how much of it. May be repeated.",
)
@click.option("--tokenizer", type=FOLDER, metavar="DIR", help="A tokenizer to use in place of the checkpoint's.")
@click.option("--configs", type=FOLDER, metavar="DIR", help="For a single file: its unet, vae, ... .json.")
@as_json
def export(checkpoint: Path, out: Path, as_json: bool, loras: list[tuple[Path, float]], **options: Any) -> None:
    """Export CHECKPOINT, a diffusers folder or a .safetensors file, to the bundle OUT.

    Every graph is run and compared with the original; OUT appears only if all are within their gates. Needs
    `pip install 'latentrt[export]'`.
    """
    try:
        from latentrt.export.lora import Lora
        from latentrt.export.write import ExportOptions
        from latentrt.export.write import export as write_bundle
    except ImportError as error:
        raise EngineError(f"export needs {error.name}: run `pip install 'latentrt[cpu,export]'`") from error

    chosen = ExportOptions(**options, loras=tuple(Lora(file, scale) for file, scale in loras))
    manifest = write_bundle(checkpoint, out, chosen, progress=lambda line: click.echo(line, err=True))
    losses = {name: asdict(component.fidelity) for name, component in manifest.components.items()}
    if as_json:
        print_json({"bundle": str(out), "name": manifest.name, "components": losses})
        return
    for name, loss in losses.items():
        psnr = "exact" if loss["psnr_db"] is None else f"{loss['psnr_db']:.1f} dB"
        click.echo(f"{name:14} relative error {loss['relative_error']:.1e}, {psnr}")
    click.echo(out)
