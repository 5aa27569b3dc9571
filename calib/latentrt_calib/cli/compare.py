"""`latentrt compare`: the pictures of two bundles compared."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from latentrt.bundle.sources import denoiser_in
from latentrt.cli.grouped import GroupedCommand
from latentrt.cli.output import as_json, echo, print_json, progress_bar
from latentrt.cli.paths import check_files
from latentrt.cli.request_options import STEP_CACHE, request_options
from latentrt_calib.cli.picture_options import FILE, NAMES_OF_OPTIONS, picture_options

if TYPE_CHECKING:
    from latentrt.bundle.quantization import PictureLoss
    from latentrt_calib.evaluate.compare import Comparison

GROUPS = {
    "Pictures": NAMES_OF_OPTIONS,
    "Settings of OTHER alone": STEP_CACHE,
    "Result": ("min_psnr", "min_worst", "html", "as_json"),
}


@click.command(cls=GroupedCommand, groups=GROUPS)
@click.argument("reference")
@click.argument("other")
@picture_options("REFERENCE", images=16)
@request_options(STEP_CACHE)
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
    cache: int | tuple[int, ...] | None,
    cache_of: str,
    cache_order: int,
    **options: Any,
) -> None:
    """Generate the same pictures with the bundles REFERENCE and OTHER, and measure the differences.

    REFERENCE and OTHER are bundles' folders or names of built-in models. PSNR (dB) and SSIM (0 to 1) compare final
    pictures; at 30 dB differences are hard to see.

    \b
    latentrt compare my-bundle my-int8 --html compare.html
    latentrt compare my-bundle my-int8 --min-psnr 30
    latentrt compare my-bundle my-bundle --cache 3

    With --cache, OTHER's pictures are drawn with a step cache; fewer steps of OTHER at the same cost are measured too.
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
    shortcut = {"cache": cache, "cache_of": cache_of, "cache_order": cache_order} if cache is not None else {}
    with progress_bar("comparing", (3 if shortcut else 2) * options["images"]) as advance:
        comparison = compare_bundles(
            reference, other, subjects, shortcut=shortcut, advance=advance, inits=inits, **options
        )
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
        denoiser = denoiser_in(bundle.parts)
        precision = bundle.parts[denoiser].precision
        echo(f"{role:10} {bundle.name}  {denoiser} {precision}  {bundle.bytes / 1e6:.1f} MB  {bundle.sha256[:10]}")
    size = f"{settings['width']}x{settings['height']}"
    echo(f"{'pictures':10} {loss.pictures}, {size}, {settings['sampler']}, {settings['steps']} steps")
    echo(f"{'PSNR':10} {words(loss)}")
    echo(f"{'SSIM':10} mean {loss.ssim:.4f}, worst {loss.worst_ssim:.4f}")
    first, last = loss.latents_error[0], loss.latents_error[-1]
    echo(f"{'latents':10} off by {first:.2%} after the first step, {last:.2%} after the last")
    if worst.psnr_db is not None:
        echo(f"{'worst':10} {worst.title}")
    if (less := comparison.fewer) is not None:
        echo(f"{'work':10} {less.share:.2f} of the UNet's multiply-adds")
        echo(f"{'or':10} {less.steps} steps, which cost as much: {words(less.loss)}")
    if html is not None:
        echo(html)


def words(loss: PictureLoss) -> str:
    """The PSNR of pictures."""
    if loss.psnr_db is None or loss.worst_psnr_db is None:
        return "all pictures are equal"
    return f"mean {loss.psnr_db:.2f} dB, worst {loss.worst_psnr_db:.2f} dB"
