"""`latentrt decode`: the picture of latents, by a bundle's autoencoder."""

from __future__ import annotations

from pathlib import Path

import click

from latentrt.cli.engine_option import engine_option
from latentrt.cli.file_options import bundle_option, out_option, tile_option
from latentrt.cli.generate import check_out
from latentrt.cli.output import as_json, echo, print_json


@click.command()
@click.argument("latents", metavar="LATENTS")
@out_option()
@bundle_option("Bundle with an autoencoder.")
@tile_option()
@engine_option()
@as_json
def decode(latents: str, out: Path, bundle: str, tile: int | None, engine: str, as_json: bool) -> None:
    """Decode LATENTS, a .npy file as `latentrt encode` writes it, to a picture.

    \b
    latentrt encode photo.png --out latents.npy --bundle DIR
    latentrt decode latents.npy --out decoded.png --bundle DIR

    BUNDLE may be an autoencoder alone or a whole model. Latents of a VQ model are quantized first.
    """
    from latentrt.pipeline.codec import Codec
    from latentrt.pipeline.load import load
    from latentrt.pipeline.metadata import save_with_text

    check_out(out, frames=False)
    with load(bundle, engine=engine) as pipeline:
        picture = Codec(pipeline, tile=tile).decode(latents)
    save_with_text(picture, out, {})
    if as_json:
        print_json({"file": str(out), "size": picture.size})
    else:
        echo(out)
