"""`latentrt sign`: Content Credentials (C2PA) in the file of a picture."""

from __future__ import annotations

from pathlib import Path

import click

from latentrt.cli.output import as_json, echo, print_json

FILE = click.Path(path_type=Path, dir_okay=False, exists=True)


@click.command()
@click.argument("picture", type=FILE)
@click.option(
    "--certificate",
    type=FILE,
    required=True,
    metavar="CHAIN.pem",
    help="Your certificate, then its issuers'.",
)
@click.option("--key", type=FILE, required=True, metavar="KEY.pem", help="Its private key, without a password.")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Signed file.  [default: PICTURE]"
)
@as_json
def sign(picture: Path, certificate: Path, key: Path, out: Path | None, as_json: bool) -> None:
    """Write into PICTURE, a PNG, JPEG or WebP, a signed statement of how it came about.

    \b
    latentrt generate "a red apple" --out apple.png
    latentrt sign apple.png --certificate chain.pem --key key.pem

    The statement is that of the mark which `latentrt generate` leaves in every picture. Nothing is asked of a network.
    Needs `pip install 'latentrt[c2pa]'`.
    """
    from latentrt.images.credentials import Signer
    from latentrt.storage.atomic import output_file

    out = out or picture
    before = picture.read_bytes()
    signed = Signer(certificate, key).sign(before)
    with output_file(out) as temporary:
        temporary.write_bytes(signed)
    if as_json:
        print_json({"file": str(out), "bytes": len(signed), "added": len(signed) - len(before)})
    else:
        echo(out)
