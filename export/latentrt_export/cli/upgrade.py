"""`latentrt upgrade`: bundles of earlier versions, rewritten in the newest format. Needs neither torch nor onnx."""

from __future__ import annotations

import click

from latentrt.cli.output import as_json, echo, print_json


@click.command()
@click.argument("bundle")
@click.option("--edited", is_flag=True, help="Accept a bundle.json that was edited by hand.")
@as_json
def upgrade(bundle: str, edited: bool, as_json: bool) -> None:
    """Check every file of BUNDLE, and rewrite its bundle.json in the newest format, with its own hash.

    Add the table of weights that LoRA files may change, if there is none; and with the extra `export`, the memory of
    activations that --memory-budget counts with.
    """
    from latentrt.bundle.catalog import folder_of
    from latentrt_export.upgrade import upgrade as upgrade_bundle

    opened, changed = upgrade_bundle(folder_of(bundle, export=False), edited=edited)
    if as_json:
        print_json({"bundle": str(opened.folder), "sha256": opened.sha256, "changed": changed})
    else:
        echo(f"{opened.folder}: {'upgraded' if changed else 'already in the current format'}")
