"""`latentrt upscale`: a picture enlarged by a super-resolution model, or by a network in an ONNX file."""

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
from latentrt.cli.paths import bundle_or_network, is_network
from latentrt.cli.text_options import text_options, texts_kept
from latentrt.errors import RequestError

if TYPE_CHECKING:
    from PIL.Image import Image

    from latentrt.pipeline.enlarger import Enlarged
    from latentrt.pipeline.upscale import Upscaled


@click.command()
@click.argument("image", metavar="IN")
@out_option()
@bundle_option("Bundle for super-resolution, or an ONNX file such as Real-ESRGAN's.", bundle_or_network)
@click.option("--steps", type=int, metavar="N", help="Denoising steps.  [default: the bundle's]")
@click.option("--sampler", metavar="NAME", help="Sampler; docs/samplers.md lists them.  [default: the bundle's]")
@click.option(
    "--eta", type=float, metavar="F", help="Noise that ddim adds at each step, 0 to 1.  [default: the bundle's]"
)
@click.option("--seed", type=int, default=0, show_default=True, callback=seed_of, help="Seed of the noise; -1: random.")
@click.option("--tile", type=int, metavar="PX", help="Side of a tile, in pixels of IN.  [default: the model's]")
@click.option(
    "--times", type=int, default=1, metavar="N", show_default=True, help="Passes: 2 of a factor of 4 enlarge by 16."
)
@click.option(
    "--keep-colours",
    is_flag=True,
    help="Correct the result, so that reduced it has the colours of IN; models drift in flat parts.",
)
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
    """Enlarge the picture IN, of any size, by the factor of a super-resolution bundle or network.

    \b
    latentrt upscale photo.jpg --out large.png --bundle DIR
    latentrt upscale photo.jpg --out large.png --bundle DIR --steps 50 --eta 1
    latentrt upscale photo.jpg --out large.png --bundle RealESRGAN_x4plus.onnx

    Pictures larger than a tile are enlarged in tiles that overlap. Transparency is kept. An ONNX file is run once per
    tile, so it has no steps, no sampler and no noise. docs/tasks.md says more.
    """
    from latentrt.images.load import open_image
    from latentrt.pipeline.upscale import check_format

    check_out(out, frames=False)
    texts = texts_kept(options)
    check_model(bundle, memory_budget=memory_budget, **options)
    opened = open_image("image", image, "RGBA")
    check_format(out, opened)
    done: Enlarged | Upscaled
    if is_network(bundle):
        done = enlarged(bundle, engine, opened, image, {name: options[name] for name in ("tile", "times")})
    else:
        done = sampled(bundle, engine, memory_budget, opened, image, options)
    done.save(out, **texts)
    if as_json:
        print_json(report(out, done))
    else:
        echo(out)


# Options that a network of one call has no use for.
SAMPLING = ("steps", "sampler", "eta", "memory_budget", "keep_colours")


def check_model(bundle: str, **options: Any) -> None:
    """Raises RequestError for a bundle of another kind, and for an option that the network in an ONNX file lacks."""
    from latentrt.bundle.catalog import folder_of
    from latentrt.bundle.folder import open_bundle
    from latentrt.pipeline.upscale import tile_of

    if not is_network(bundle):  # before engines are timed
        tile_of(options["tile"], open_bundle(folder_of(bundle), verify=False).manifest)
        return
    for name in (one for one in SAMPLING if options[one] not in (None, False)):
        raise RequestError(
            f"--{name.replace('_', '-')}: got {options[name]} with an ONNX file, which runs once per tile; leave it out"
        )


def enlarged(file: str, engine: str, opened: Image, name: str, options: dict[str, Any]) -> Enlarged:
    """The picture, enlarged by the network in an ONNX file."""
    from latentrt.pipeline.enlarger import Enlarger

    with progress_to(name) as progress:
        return Enlarger(file, engine).enlarge(opened, progress=progress, **options)


def sampled(
    bundle: str, engine: str, memory_budget: int | None, opened: Image, name: str, options: dict[str, Any]
) -> Upscaled:
    """The picture, enlarged by a bundle."""
    from latentrt.pipeline.load import load
    from latentrt.pipeline.upscale import upscale as upscaled

    with load(bundle, engine=engine, memory_budget=memory_budget) as pipeline, progress_to(name) as progress:
        return upscaled(pipeline, opened, progress=progress, **options)


def report(out: Path, done: Enlarged | Upscaled) -> dict[str, Any]:
    """The object that `--json` prints."""
    seconds = {name: round(time, 6) for name, time in done.seconds.items()}
    return {"file": str(out), "settings": done.record(), "seconds": seconds}
