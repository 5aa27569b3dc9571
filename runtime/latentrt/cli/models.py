"""`latentrt models`: the models that are there by name, and removal of those in the cache.

It answers at once: bundle.json is read as JSON, without NumPy, which the dataclasses of the manifest need.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from latentrt.cli.output import as_json, echo, print_json

FOLDER = click.Path(path_type=Path, file_okay=False, exists=True)


@click.group(invoke_without_command=True)
@click.option("--in", "folders", type=FOLDER, multiple=True, metavar="DIR", help="List bundles in DIR too. Repeatable.")
@as_json
@click.pass_context
def models(context: click.Context, folders: tuple[Path, ...], as_json: bool) -> None:
    """List models: those that ship with latentrt, and checkpoints that were exported when they were first used.

    \b
    latentrt models
    latentrt models --in bundles/
    latentrt generate "a red apple" --bundle NAME
    latentrt models remove NAME

    A checkpoint that is given as a bundle is exported once, into the user's cache; docs/export.md says more.
    """
    if context.invoked_subcommand is not None:
        return
    from latentrt.bundle.library import listed

    found = listed(folders)
    if as_json:
        print_json({"models": [one.record() for one in found]})
        return
    rows = [one.cells() for one in found]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        echo("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


@models.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Remove without asking.")
@as_json
def remove(name: str, yes: bool, as_json: bool) -> None:
    """Remove the model NAME from the cache. Its checkpoint stays where it is.

    Only models in the cache are removed; delete a bundle of your own as any folder.
    """
    from latentrt.bundle.cached import remove as remove_cached
    from latentrt.bundle.library import bytes_in, to_remove

    cached = to_remove(name)
    size = bytes_in(cached.folder)
    if not yes:
        click.confirm(f"Remove {cached.folder} ({size / 1e6:.1f} MB)?", abort=True, err=True)
    remove_cached(cached)
    if as_json:
        facts: dict[str, Any] = {"removed": cached.name, "folder": str(cached.folder), "bytes": size}
        print_json(facts)
    else:
        echo(f"removed {cached.folder}, {size / 1e6:.1f} MB")
