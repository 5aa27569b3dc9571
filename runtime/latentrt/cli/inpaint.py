"""`latentrt inpaint`: the masked part of a picture is painted anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from latentrt.cli.engine_option import engine_option
from latentrt.cli.file_options import bundle_option, out_option
from latentrt.cli.generate import check_out, report, save
from latentrt.cli.memory_option import memory_option
from latentrt.cli.output import as_json, echo, print_json
from latentrt.cli.parsing import seed_of
from latentrt.cli.text_options import text_options, texts_kept


@click.command()
@click.argument("image", metavar="IN")
@click.argument("mask", metavar="MASK")
@out_option()
@bundle_option("Bundle that inpaints.")
@click.option("--prompt", default="", metavar="TEXT", help="Text of what is painted, for models that take prompts.")
@click.option("--negative", default="", metavar="TEXT", help="Negative prompt: content to avoid.")
@click.option("--steps", type=int, metavar="N", help="Denoising steps.  [default: the bundle's]")
@click.option("--guidance", type=float, metavar="G", help="Guidance scale; 1 is off.  [default: the bundle's]")
@click.option("--sampler", metavar="NAME", help="Sampler; docs/samplers.md lists them.  [default: the bundle's]")
@click.option("--seed", type=int, default=0, show_default=True, callback=seed_of, help="Seed of the noise; -1: random.")
@click.option("--batch", type=int, default=1, metavar="N", show_default=True, help="Pictures, each of another seed.")
@click.option("--mask-blur", type=float, default=0.0, metavar="PX", help="Blur of the mask's edges, in pixels.")
@engine_option()
@memory_option()
@text_options()
@as_json
def inpaint(
    image: str,
    mask: str,
    out: Path,
    bundle: str,
    engine: str,
    memory_budget: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Paint the white part of MASK in the picture IN anew; both have the same size, which may be any.

    \b
    latentrt inpaint photo.jpg hole.png --out whole.png --bundle DIR
    latentrt inpaint photo.jpg hole.png --out dog.png --bundle DIR --prompt "a dog"

    All other pixels stay exactly as they are.
    """
    from latentrt.pipeline.inpaint import inpaint as inpainted
    from latentrt.pipeline.load import load

    check_out(out, frames=False)
    texts = texts_kept(options)
    with load(bundle, engine=engine, memory_budget=memory_budget) as pipeline:
        result = inpainted(pipeline, image, mask, **options)
    [files] = save([result], out, texts)
    if as_json:
        print_json(report(result, files))
        return
    for file in files:
        echo(file)
