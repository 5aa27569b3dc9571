"""`latentrt step-cache`: a bundle with step caching is made of a bundle without."""

from __future__ import annotations

from pathlib import Path

import click

from latentrt.cli.output import as_json, echo, extra_of, print_json
from latentrt.cli.paths import bundle_argument


@click.command("step-cache")
@bundle_argument("bundle")
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--boundary",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Concatenations with skips that the shallow UNet keeps: 2 is careful, 1 is fast.",
)
@as_json
def step_cache(bundle: str, out: Path, boundary: int, as_json: bool) -> None:
    """Write the bundle OUT, which is BUNDLE with a shallow UNet for step caching (DeepCache).

    The shallow UNet is the end of BUNDLE's own, with the same weights: at most steps it can take the UNet's place, fed
    with features of an earlier step. OUT also has a short form of every ControlNet. All other files are copied. LoRA
    files and all engines work with OUT as with BUNDLE.

    \b
    latentrt step-cache emoji my-emoji --boundary 1

    Every new graph is compared with BUNDLE's and must compute the same, bit for bit. Quantize first: `latentrt
    calibrate`, then this command.
    """
    with extra_of("export"):
        from latentrt_export.step_cache import add_step_cache

    manifest = add_step_cache(bundle, out, boundary, lambda line: echo(line, err=True))
    if as_json:
        print_json({"bundle": str(out), "boundary": boundary, "components": list(manifest.components)})
    else:
        echo(out)
