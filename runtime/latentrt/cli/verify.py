"""`latentrt verify`: compares every file of a bundle with the size and hash that the exporter recorded."""

from __future__ import annotations

import click

from latentrt.cli.output import as_json, echo, print_json


@click.command()
@click.argument("bundle")
@as_json
def verify(bundle: str, as_json: bool) -> None:
    """Compare every file of BUNDLE with its recorded size and hash.

    BUNDLE is a folder or a built-in model's name. Exit status 3 if a file differs or is missing.
    """
    from latentrt.bundle.catalog import folder_of
    from latentrt.bundle.folder import open_bundle

    opened = open_bundle(folder_of(bundle, export=False))
    files = opened.manifest.files
    size = sum(record.bytes for record in files.values())
    if as_json:
        print_json({"bundle": str(opened.folder), "sha256": opened.sha256, "files": len(files), "bytes": size})
    else:
        echo(f"{opened.folder}: {len(files)} files, {size / 1e6:.1f} MB, all as exported")
