"""`latentrt encode`: the latents of a picture, by a bundle's autoencoder."""

from __future__ import annotations

from pathlib import Path

import click

from latentrt.cli.engine_option import engine_option
from latentrt.cli.file_options import bundle_option, out_option, tile_option
from latentrt.cli.output import as_json, echo, print_json
from latentrt.errors import RequestError


@click.command()
@click.argument("image", metavar="IN")
@out_option("Latents to write: .npy.")
@bundle_option("Bundle with an autoencoder.")
@tile_option()
@engine_option()
@as_json
def encode(image: str, out: Path, bundle: str, tile: int | None, engine: str, as_json: bool) -> None:
    """Encode the picture IN to latents: a .npy file of float32, (1, channels, rows, columns), of unit variance.

    \b
    latentrt encode photo.png --out latents.npy --bundle DIR
    latentrt decode latents.npy --out decoded.png --bundle DIR

    BUNDLE may be an autoencoder alone or a whole model. KL autoencoders give the mean of their posterior, VQ ones the
    latents before the codebook. The sides of IN must be multiples of the pixels per latent.
    """
    from latentrt.pipeline.codec import Codec
    from latentrt.pipeline.load import load
    from latentrt.storage.atomic import check_writable
    from latentrt.storage.npy import write_npy

    if out.suffix.lower() != ".npy":
        raise RequestError(f"--out: got {out}, expected a name that ends in .npy")
    check_writable(out, option="--out")
    with load(bundle, engine=engine) as pipeline:
        latents = Codec(pipeline, tile=tile).encode(image)
    write_npy(out, latents)
    if as_json:
        print_json({"file": str(out), "shape": latents.shape})
    else:
        echo(out)
