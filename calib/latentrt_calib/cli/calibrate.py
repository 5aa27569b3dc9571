"""`latentrt calibrate`: a float bundle becomes a quantized one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from latentrt.cli.output import as_json, echo, extra_of, print_json
from latentrt.cli.paths import bundle_argument, check_files
from latentrt.storage.atomic import refuse_existing

if TYPE_CHECKING:
    from latentrt_calib.report.report import Report

FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)
COUNT = click.IntRange(min=1)


@click.command()
@bundle_argument("bundle")
@click.argument("out", type=FOLDER)
@click.option(
    "--precision",
    type=click.Choice(["int8", "w8"]),
    default="int8",
    show_default=True,
    help="w8 stores weights in 8 bits and computes in float.",
)
@click.option(
    "--target",
    type=click.Choice(["cpu", "tensorrt"]),
    default="cpu",
    show_default=True,
    help="Whose form an int8 graph has.",
)
@click.option("--prompts", type=FILE, metavar="FILE", help="To calibrate on, one a line.  [default: 64 that ship]")
@click.option("--evaluation", type=FILE, metavar="FILE", help="To judge on, other prompts.  [default: 100 that ship]")
@click.option("--images", type=COUNT, default=16, show_default=True, help="How many pictures to calibrate on.")
@click.option("--evaluations", type=COUNT, default=16, show_default=True, help="How many pictures to judge on.")
@click.option("--steps", type=COUNT, help="Denoising steps of all of them.  [default: the bundle's]")
@click.option("--sampler", metavar="NAME", help="ddim, euler, dpmpp_2m ...  [default: the bundle's]")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the first picture.")
@click.option(
    "--budget",
    "budget_db",
    type=float,
    default=30.0,
    show_default=True,
    metavar="DB",
    help="The mean PSNR that pictures must keep; layers stay in float until it holds.",
)
@click.option(
    "--vae-gate",
    "vae_gate_db",
    type=float,
    metavar="DB",
    help="Quantize the VAE decoder too, if pictures decoded from the same latents keep this mean PSNR; else it stays "
    "float.",
)
@click.option("--sensitivity", is_flag=True, help="Measure each layer's damage even where the budget holds at once.")
@as_json
def calibrate(
    bundle: str,
    out: Path,
    precision: str,
    target: str,
    prompts: Path | None,
    evaluation: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Quantize the bundle BUNDLE, a folder or a built-in model's name, to the bundle OUT.

    Runs the model on prompts, finds ranges, quantizes the UNet, measures what that costs, and keeps layers in float
    until the budget holds; with --vae-gate, the VAE decoder as well. OUT/report.html shows all of it. A run that was
    stopped goes on where it was. Needs `pip install 'latentrt[export]'`.
    """
    check_files(prompts, evaluation)
    refuse_existing(out)
    with extra_of("calibrate"):
        from latentrt.prompt.file import read_prompts
        from latentrt_calib.calibrate import CalibrationOptions
        from latentrt_calib.calibrate import calibrate as write_bundle
        from latentrt_calib.evaluate.compare import EVALUATION
        from latentrt_calib.quantize.planning import Recipe
        from latentrt_calib.recording.prompts import SHIPPED
        from latentrt_calib.report.report import figures

    asked = CalibrationOptions(
        read_prompts(prompts or SHIPPED), read_prompts(evaluation or EVALUATION), Recipe(target=target), **options
    )
    report = write_bundle(bundle, out, precision, asked, progress=lambda line: echo(line, err=True))
    if as_json:
        print_json(figures(report))
    else:
        show(report, out)


def show(report: Report, out: Path) -> None:
    """Prints the report in short."""
    loss = report.comparison.loss
    for one in report.components:
        echo(f"{one.component:11} {one.bytes_before / 1e6:.1f} MB -> {one.bytes_after / 1e6:.1f} MB")
        shares = one.macs_int8_share_of_layers, one.macs_int8_share_of_all
        echo(f"{'int8':11} {shares[0]:.1%} of its layers' MACs, {shares[1]:.1%} of all its MACs")
        for layer in one.float_layers:
            echo(f"{'float':11} {layer.name}: {layer.reason}")
    if report.decoder:
        echo(f"{'vae_decoder':11} {report.decoder.said}")
    if loss.psnr_db is None:
        echo(f"{'pictures':11} all {loss.pictures} are equal")
    else:
        echo(f"{'pictures':11} {loss.pictures}: PSNR {loss.psnr_db:.2f} dB, worst {loss.worst_psnr_db:.2f} dB")
    echo(out)
