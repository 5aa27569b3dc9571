"""`latentrt upscale`: a picture enlarged by a super-resolution model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from latentrt.cli.engine_option import engine_option
from latentrt.cli.file_options import bundle_option, out_option
from latentrt.cli.generate import check_out
from latentrt.cli.memory_option import memory_option
from latentrt.cli.output import as_json, echo, print_json, progress_to
from latentrt.cli.parsing import seed_of
from latentrt.cli.text_options import text_options, texts_kept

if TYPE_CHECKING:
    from latentrt.pipeline.upscale import Upscaled


@click.command()
@click.argument("image", metavar="IN")
@out_option()
@bundle_option("Bundle for super-resolution.")
@click.option("--steps", type=int, metavar="N", help="Denoising steps.  [default: the bundle's]")
@click.option("--sampler", metavar="NAME", help="Sampler; docs/samplers.md lists them.  [default: the bundle's]")
@click.option(
    "--eta", type=float, metavar="F", help="Noise that ddim adds at each step, 0 to 1.  [default: the bundle's]"
)
@click.option("--seed", type=int, default=0, show_default=True, callback=seed_of, help="Seed of the noise; -1: random.")
@click.option("--tile", type=int, metavar="PX", help="Side of a tile, in pixels of IN.  [default: the training size]")
@click.option("--times", type=int, default=1, metavar="N", show_default=True, help="Passes: 2 enlarge by 16.")
@engine_option()
@memory_option()
@text_options()
@as_json
def upscale(
    image: str,
    out: Path,
    bundle: str,
    engine: str,
    memory_budget: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Enlarge the picture IN, of any size, by the factor of a super-resolution bundle.

    \b
    latentrt upscale photo.jpg --out large.png --bundle DIR
    latentrt upscale photo.jpg --out large.png --bundle DIR --steps 50 --eta 1

    Pictures larger than a tile are enlarged in tiles that overlap. Transparency is kept. docs/tasks.md says more.
    """
    from latentrt.bundle.catalog import folder_of
    from latentrt.bundle.folder import open_bundle
    from latentrt.images.load import open_image
    from latentrt.pipeline.load import load
    from latentrt.pipeline.upscale import check_format, tile_of
    from latentrt.pipeline.upscale import upscale as upscaled

    check_out(out, frames=False)
    texts = texts_kept(options)
    tile_of(options["tile"], open_bundle(folder_of(bundle), verify=False).manifest)  # before engines are timed
    opened = open_image("image", image, "RGBA")
    check_format(out, opened)
    with load(bundle, engine=engine, memory_budget=memory_budget) as pipeline, progress_to(image) as progress:
        done = upscaled(pipeline, opened, progress=progress, **options)
    done.save(out, **texts)
    if as_json:
        print_json(report(out, done))
    else:
        echo(out)


def report(out: Path, done: Upscaled) -> dict[str, Any]:
    """The object that `--json` prints."""
    seconds = {name: round(time, 6) for name, time in done.result.timings.items()}
    return {"file": str(out), "settings": done.record(), "seconds": seconds}
