"""`latentrt triton`: a bundle as a model of the Triton Inference Server."""

from __future__ import annotations

from pathlib import Path

import click

from latentrt.cli.engine_option import engine_option
from latentrt.cli.output import as_json, echo, print_json
from latentrt.cli.paths import bundle_argument


@click.command()
@bundle_argument("bundle")
@click.argument("repository", type=click.Path(path_type=Path, file_okay=False), metavar="REPO")
@click.option("--name", metavar="NAME", help="Name of the model.  [default: that of the bundle's folder]")
@click.option("--copy", is_flag=True, help="Copy the bundle into REPO, to move it elsewhere.")
@engine_option()
@as_json
def triton(bundle: str, repository: Path, name: str | None, copy: bool, engine: str, as_json: bool) -> None:
    """Add BUNDLE to REPO, a model repository of the Triton Inference Server.

    \b
    latentrt triton my-bundle models --copy --engine tensorrt
    tritonserver --model-repository=models

    Triton's Python backend runs it, with the Python that has latentrt installed. docs/serving.md says what it takes.
    """
    from latentrt_serve.triton.repository import write_repository

    place = write_repository(bundle, repository, name=name, engine=engine, copy=copy)
    if as_json:
        print_json({"model": place.name, "folder": str(place)})
    else:
        echo(place)
