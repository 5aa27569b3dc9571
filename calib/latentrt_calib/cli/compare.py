"""`latentrt compare`: the pictures of two bundles compared."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from latentrt.cli.grouped import GroupedCommand
from latentrt.cli.output import as_json, echo, print_json, progress_bar
from latentrt.cli.paths import check_files
from latentrt.engines.kinds import NAMES

if TYPE_CHECKING:
    from latentrt_calib.evaluate.compare import Comparison

PICTURES = click.Path(path_type=Path, exists=True)
FILE = click.Path(path_type=Path, dir_okay=False)


GROUPS = {
    "Pictures": ("prompts", "init", "images", "seed", "steps", "guidance", "sampler", "engine"),
    "Result": ("min_psnr", "min_worst", "html", "as_json"),
}


@click.command(cls=GroupedCommand, groups=GROUPS)
@click.argument("reference")
@click.argument("other")
@click.option(
    "--prompts", type=FILE, metavar="FILE", help="Prompts or classes, one per line, UTF-8.  [default: 100 that ship]"
)
@click.option(
    "--init",
    type=PICTURES,
    metavar="DIR",
    help="Pictures for upscalers, inpainting models and InstructPix2Pix.  [default: drawn ones]",
)
@click.option("--images", type=int, default=16, show_default=True, help="Pictures; prompts repeat if there are fewer.")
@click.option("--steps", type=int, help="Denoising steps.  [default: REFERENCE's]")
@click.option("--guidance", type=float, help="Guidance scale; 1 is off.  [default: REFERENCE's]")
@click.option("--sampler", metavar="NAME", help="Sampler: ddim, euler, dpmpp_2m, ...  [default: REFERENCE's]")
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Seed of the first picture; picture k has SEED + k."
)
@click.option(
    "--engine",
    default="onnxruntime",
    metavar="NAME",
    show_default=True,
    help=f"Engine of both bundles: {', '.join(NAMES)}.",
)
@click.option("--min-psnr", type=float, metavar="DB", help="Least mean PSNR; exit status 6 below it.")
@click.option("--min-worst", type=float, metavar="DB", help="Least PSNR of any picture; exit status 6 below it.")
@click.option("--html", type=FILE, metavar="FILE", help="HTML page with figures, plots and pictures.")
@as_json
def compare(
    reference: str,
    other: str,
    prompts: Path | None,
    init: Path | None,
    min_psnr: float | None,
    min_worst: float | None,
    html: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Generate the same pictures with the bundles REFERENCE and OTHER, and measure the differences.

    REFERENCE and OTHER are bundles' folders or names of built-in models. PSNR (dB) and SSIM (0 to 1) compare final
    pictures; at 30 dB differences are hard to see.

    \b
    latentrt compare my-bundle my-int8 --html compare.html
    latentrt compare my-bundle my-int8 --min-psnr 30
    """
    check_files(prompts)
    from latentrt.bundle.catalog import folder_of
    from latentrt.bundle.folder import open_bundle
    from latentrt.storage.atomic import check_writable
    from latentrt_calib.evaluate.compare import EVALUATION, Gates, check_gates, compare_bundles, document
    from latentrt_calib.recording.inits import inits_in
    from latentrt_calib.recording.subjects import subjects_of
    from latentrt_calib.report.page import save_page

    if html is not None:
        check_writable(html, option="--html")
    manifest = open_bundle(folder_of(reference), verify=False).manifest
    subjects, inits = subjects_of(manifest, prompts, EVALUATION, "evaluation"), inits_in(init, manifest)
    with progress_bar("comparing", 2 * options["images"]) as advance:
        comparison = compare_bundles(reference, other, subjects, advance=advance, inits=inits, **options)
    gates = Gates(min_psnr, min_worst)
    if html is not None:
        save_page(html, comparison, gates)
    if as_json:
        print_json(document(comparison))
    else:
        show(comparison, html)
    check_gates(comparison.loss, gates)


def show(comparison: Comparison, html: Path | None) -> None:
    """Prints the comparison."""
    loss, worst, settings = comparison.loss, comparison.worst, comparison.settings
    for role, bundle in (("reference", comparison.reference), ("other", comparison.other)):
        precision = bundle.parts["unet"].precision
        echo(f"{role:10} {bundle.name}  unet {precision}  {bundle.bytes / 1e6:.1f} MB  {bundle.sha256[:10]}")
    size = f"{settings['width']}x{settings['height']}"
    echo(f"{'pictures':10} {loss.pictures}, {size}, {settings['sampler']}, {settings['steps']} steps")
    if loss.psnr_db is None or loss.worst_psnr_db is None:
        echo(f"{'PSNR':10} all pictures are equal")
    else:
        echo(f"{'PSNR':10} mean {loss.psnr_db:.2f} dB, worst {loss.worst_psnr_db:.2f} dB")
    echo(f"{'SSIM':10} mean {loss.ssim:.4f}, worst {loss.worst_ssim:.4f}")
    first, last = loss.latents_error[0], loss.latents_error[-1]
    echo(f"{'latents':10} off by {first:.2%} after the first step, {last:.2%} after the last")
    if worst.psnr_db is not None:
        echo(f"{'worst':10} {worst.title}")
    if html is not None:
        echo(html)
