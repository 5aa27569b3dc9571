"""`latentrt calibrate`: a float bundle is quantized to 8 or 4 bits."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from latentrt.cli.grouped import GroupedCommand
from latentrt.cli.output import as_json, echo, extra_of, note, print_json
from latentrt.cli.paths import bundle_argument, check_files
from latentrt.storage.atomic import refuse_existing

if TYPE_CHECKING:
    from latentrt.bundle.quantization import PictureLoss
    from latentrt_calib.evaluate.cached import CachedLoss
    from latentrt_calib.report.report import Report

FOLDER = click.Path(path_type=Path, file_okay=False)
PICTURES = click.Path(path_type=Path, exists=True)
FILE = click.Path(path_type=Path, dir_okay=False)
COUNT = click.IntRange(min=1)


GROUPS = {
    "Quantization": ("precision", "target", "block", "budget_db", "vae_gate_db", "text_gate_db", "sensitivity"),
    "Calibration and evaluation pictures": (
        *("prompts", "evaluation", "init", "images", "evaluations", "steps", "sampler", "seed"),
    ),
}


@click.command(cls=GroupedCommand, groups=GROUPS)
@bundle_argument("bundle")
@click.argument("out", type=FOLDER)
@click.option(
    "--precision",
    type=click.Choice(["int8", "w8", "w4", "fp16"]),
    default="int8",
    show_default=True,
    help="int8: weights and arithmetic. w8, w4: weights only, smaller but not faster; w4 has linear layers in 4 bits. "
    "fp16: weights and arithmetic, except where values leave its range.",
)
@click.option(
    "--target",
    type=click.Choice(["cpu", "tensorrt"]),
    default="cpu",
    show_default=True,
    help="Engine of an int8 graph; each needs Q/DQ nodes at other places.",
)
@click.option(
    "--block",
    type=click.Choice(["32", "64"]),
    default="32",
    show_default=True,
    help="Input channels of a scale of w4: 64 is 5 % smaller.",
)
@click.option(
    "--prompts",
    type=FILE,
    metavar="FILE",
    help="Calibration prompts or classes, one per line.  [default: 64 of photographs, or all sorts of classes]",
)
@click.option(
    "--evaluation",
    type=FILE,
    metavar="FILE",
    help="Evaluation prompts or classes, one per line.  [default: 100 of photographs, or other classes]",
)
@click.option(
    "--init",
    type=PICTURES,
    metavar="DIR",
    help="Pictures for upscalers, inpainting models and InstructPix2Pix; all masks are drawn.  [default: drawn ones]",
)
@click.option("--images", type=COUNT, default=16, show_default=True, help="Calibration pictures.")
@click.option("--evaluations", type=COUNT, default=16, show_default=True, help="Evaluation pictures.")
@click.option("--steps", type=COUNT, help="Denoising steps of all pictures.  [default: the bundle's]")
@click.option("--sampler", metavar="NAME", help="Sampler: ddim, euler, dpmpp_2m, ...  [default: the bundle's]")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the first calibration picture."
)
@click.option(
    "--budget",
    "budget_db",
    type=float,
    default=30.0,
    show_default=True,
    metavar="DB",
    help="Least mean PSNR of the evaluation pictures; layers stay float, or in 8 bits, for it.",
)
@click.option(
    "--vae-gate",
    "vae_gate_db",
    type=float,
    metavar="DB",
    help="Quantize the VAE decoder if its pictures keep this mean PSNR.  [default: off]",
)
@click.option(
    "--text-gate",
    "text_gate_db",
    type=float,
    metavar="DB",
    help="Quantize text encoders, of w8, w4, fp16, whose prompts' pictures keep this mean PSNR.  [default: off]",
)
@click.option("--sensitivity", is_flag=True, help="Measure each layer's damage even if the budget holds.")
@as_json
def calibrate(
    bundle: str,
    out: Path,
    precision: str,
    target: str,
    block: str,
    prompts: Path | None,
    evaluation: Path | None,
    init: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Quantize BUNDLE, a bundle's folder or the name of a built-in model, to the new bundle OUT.

    A bundle is the folder that `latentrt export` writes. The model generates calibration pictures, the input ranges of
    all layers are measured, the denoiser is quantized, and evaluation pictures are compared with those of BUNDLE: PSNR
    in dB; at 30 dB differences are hard to see. OUT/report.html shows all figures.

    \b
    latentrt calibrate my-bundle my-int8 --prompts prompts.txt
    latentrt compare my-bundle my-int8 --html compare.html

    Give prompts like those that you will use; the ones that ship describe photographs (for emoji:
    emoji/prompts/calibration.txt). A class model draws classes of all sorts, one without any condition draws by seeds.
    A model that is shown a picture gets drawn ones; your own, with --init DIR, measure better. A stopped run continues
    with the same command. Stable Diffusion 1.5 at 512x512 needs about 10 GB of memory. Needs
    `pip install 'latentrt[cpu,export]'`.
    """
    check_files(prompts, evaluation)
    refuse_existing(out)
    with extra_of("calibrate"):
        from latentrt.bundle.catalog import folder_of
        from latentrt.bundle.folder import open_bundle
        from latentrt_calib.calibrate import CalibrationOptions
        from latentrt_calib.calibrate import calibrate as write_bundle
        from latentrt_calib.evaluate.compare import EVALUATION
        from latentrt_calib.quantize.planning import Recipe
        from latentrt_calib.recording.inits import inits_in
        from latentrt_calib.recording.prompts import SHIPPED
        from latentrt_calib.recording.subjects import subjects_of
        from latentrt_calib.report.report import figures

    manifest = open_bundle(folder_of(bundle), verify=False).manifest
    calibration = CalibrationOptions(
        subjects_of(manifest, prompts, SHIPPED, "calibration"),
        subjects_of(manifest, evaluation, EVALUATION, "evaluation"),
        Recipe(target=target, block=int(block)),
        inits_in(init, manifest),
        **options,
    )
    try:
        report = write_bundle(bundle, out, precision, calibration, progress=lambda line: echo(line, err=True))
    except KeyboardInterrupt:
        note("what is measured is kept: the same command continues from there")
        raise
    if as_json:
        print_json(figures(report))
    else:
        show(report, out)


def show(report: Report, out: Path) -> None:
    """Prints a summary of the report."""
    loss = report.comparison.loss
    for one in report.components:
        echo(f"{one.component:11} {one.bytes_before / 1e6:.1f} MB -> {one.bytes_after / 1e6:.1f} MB")
        show_layers(one)
    for gate in report.gates:
        echo(f"{gate.component:11} {gate.verdict}")
    echo(f"{'pictures':11} {likeness(loss)}")
    if report.cached:
        show_cached(report.cached, report.settings["budget in dB"])
    echo(out)


def show_layers(report: Report) -> None:
    """Prints the share in INT8 and the layers that stay float, or the number of layers of each width of weights."""
    from latentrt_calib.report.layer_reports import HALF

    if report.precision == "int8":
        shares = report.macs_int8_share_of_layers, report.macs_int8_share_of_all
        echo(f"{'int8':11} {shares[0]:.1%} of its layers' MACs, {shares[1]:.1%} of all its MACs")
        for layer in report.float_layers:
            echo(f"{'float':11} {layer.name}: {layer.reason}")
        return
    named = [layer for layer in report.layers if layer.reason != HALF] if report.precision == "fp16" else []
    for reason, count in Counter(layer.reason for layer in report.layers if layer not in named).items():
        echo(f"{report.precision:11} {count} layers: {reason}")
    for layer in named:
        echo(f"{'float32':11} {layer.name}: {layer.reason}")


def show_cached(cached: CachedLoss, budget_db: float | int | str) -> None:
    """Prints the losses with a step cache, and whether that of both together is below the budget."""
    echo(f"{'cached':11} one full call in {cached.every}: {likeness(cached.both)}")
    echo(f"{'':11} the cache alone, in float: {likeness(cached.cache)}")
    echo(f"{'':11} quantized alone, against cached in float: {likeness(cached.quantization)}")
    if cached.both.psnr_db is not None and cached.both.psnr_db < float(budget_db):
        echo(f"{'':11} cached pictures are below the budget of {budget_db:g} dB, which is for full calls alone")


def likeness(loss: PictureLoss) -> str:
    """The number of pictures, and how alike they are to those that they are compared with."""
    if loss.psnr_db is None:
        return f"all {loss.pictures} are equal"
    return f"{loss.pictures}: PSNR {loss.psnr_db:.2f} dB, worst {loss.worst_psnr_db:.2f} dB"
