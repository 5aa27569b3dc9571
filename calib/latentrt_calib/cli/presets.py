"""`latentrt presets`: settings of a bundle that compute less, measured and written into it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from latentrt.cli.grouped import GroupedCommand
from latentrt.cli.output import as_json, echo, print_json, progress_bar
from latentrt.cli.paths import check_files
from latentrt_calib.cli.picture_options import NAMES_OF_OPTIONS, picture_options

if TYPE_CHECKING:
    from latentrt.bundle.quantization import PictureLoss
    from latentrt_calib.evaluate.shortcuts import Shortcut

GROUPS = {"Pictures": NAMES_OF_OPTIONS, "Result": ("dry_run", "as_json")}
# Every variant of every preset, the references, and fewer steps at each cost.
RUNS = 20


@click.command(cls=GroupedCommand, groups=GROUPS)
@click.argument("bundle")
@picture_options("BUNDLE", images=8)
@click.option("--dry-run", is_flag=True, help="Only measure; leave BUNDLE as it is.")
@as_json
def presets(bundle: str, prompts: Path | None, init: Path | None, dry_run: bool, as_json: bool, **options: Any) -> None:
    """Measure settings of BUNDLE that compute less, and write those that pay into its bundle.json.

    BUNDLE is a folder. A preset pays if its pictures are at least 3 dB nearer to the full ones than pictures of fewer
    steps that cost as much. `latentrt inspect` lists them, and requests name them:

    \b
    latentrt presets my-bundle
    latentrt generate "a red apple" --bundle my-bundle --preset fast
    """
    check_files(prompts)
    from latentrt.bundle.catalog import folder_of
    from latentrt.bundle.folder import open_bundle
    from latentrt_calib.evaluate.compare import EVALUATION
    from latentrt_calib.presets import measure_presets, save_presets
    from latentrt_calib.recording.inits import inits_in
    from latentrt_calib.recording.subjects import subjects_of

    folder = folder_of(bundle)
    manifest = open_bundle(folder, verify=False).manifest
    subjects, inits = subjects_of(manifest, prompts, EVALUATION, "evaluation"), inits_in(init, manifest)
    with progress_bar("measuring", RUNS * options["images"]) as advance:
        settings, found = measure_presets(folder, subjects, advance=advance, inits=inits, **options)
    saved = {} if dry_run else save_presets(folder, found, settings)
    if as_json:
        print_json({name: {**asdict(one), "saved": name in saved} for name, one in found.items()})
    else:
        echo("\n".join(lines_of(found, saved)))


def lines_of(found: Mapping[str, Shortcut], saved: Mapping[str, Any]) -> Iterator[str]:
    """The table of shortcuts."""
    heads = f"{'PSNR':>7}{'worst':>7}{'SSIM':>8}"
    yield f"{'preset':15}{'work':>6}{heads}   {'fewer steps':>11}{heads}"
    for name, one in found.items():
        kept = "" if name in saved else "   -"
        yield f"{name:15}{one.share:6.2f}{columns(one.loss)}   {one.fewer_steps:11}{columns(one.fewer_loss)}{kept}"
        yield "  " + " ".join(f"--{key.replace('_', '-')} {words(value)}" for key, value in one.fields.items() if value)
    yield "- was not written."


def words(value: Any) -> str:
    """A field's value as its option takes it."""
    return ",".join(f"{one:g}" for one in value) if isinstance(value, tuple) else str(value)


def columns(loss: PictureLoss) -> str:
    """The mean and the worst PSNR, and the mean SSIM, of pictures."""
    ratios = ("equal" if one is None else f"{one:.1f}" for one in (loss.psnr_db, loss.worst_psnr_db))
    return "".join(f"{one:>7}" for one in ratios) + f"{loss.ssim:8.4f}"
