"""`latentrt generate`: a prompt becomes pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from latentrt.cli.lora_option import lora_option
from latentrt.cli.output import as_json, echo, print_json, progress_bar
from latentrt.cli.parsing import controls_of, numbers_of, pixels_of, sigmas_of, size_of
from latentrt.errors import RequestError

if TYPE_CHECKING:
    from latentrt.lora.files import Lora
    from latentrt.pipeline.pipeline import Pipeline
    from latentrt.pipeline.result import Result
    from latentrt.pipeline.run import Run
    from latentrt.request.request import Request
    from latentrt.request.settings import Settings


@click.command()
@click.argument("prompt", required=False)
@click.option(
    "--bundle", default="emoji", metavar="DIR", show_default=True, help="A bundle's folder or a built-in name."
)
@lora_option("A LoRA to add, and how much of it.")
@click.option(
    "--lora-dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The LoRA files that prompts name: <lora:NAME:0.8>.  [default: LATENTRT_LORAS]",
)
@click.option("--negative", default="", metavar="TEXT", help="What the picture should not show.")
@click.option("--steps", type=int, help="How many denoising steps.")
@click.option("--guidance", callback=numbers_of, metavar="G[,G...]", help="Guidance, one or one a step; 1 is none.")
@click.option("--guidance-rescale", type=float, default=0.0, metavar="PHI", help="0 to 1; against overexposure.")
@click.option(
    "--guidance-interval", callback=numbers_of, metavar="LO,HI", help="The sigmas between which guidance works."
)
@click.option("--image-guidance", type=float, metavar="S", help="InstructPix2Pix: keep to the init.  [default: 1.5]")
@click.option("--split-guidance", is_flag=True, help="One UNet call a prompt: less memory, more time.")
@click.option(
    "--memory-budget",
    type=click.FloatRange(min=0, min_open=True),
    metavar="GB",
    help="The most that the process may need, on a CPU.",
)
@click.option("--seed", type=int, help="Of the first image; image k has SEED + k. Random if -1 or not given.")
@click.option("--size", callback=size_of, metavar="WxH", help="Width and height in pixels, multiples of 8.")
@click.option("--original-size", callback=size_of, metavar="WxH", help="SDXL: of the picture it is to look like.")
@click.option("--crop", callback=size_of, metavar="XxY", help="SDXL: what is missing of that at its left and top.")
@click.option("--target-size", callback=size_of, metavar="WxH", help="SDXL: what that was cut to.")
@click.option("--aesthetic-score", type=float, help="SDXL's refiner: how well liked it is to look.  [default: 6]")
@click.option("--negative-aesthetic-score", type=float, help="The same of the negative prompt.  [default: 2.5]")
@click.option("--refiner", metavar="DIR", help="A bundle that takes over; such as SDXL's refiner.")
@click.option(
    "--refine-from", type=float, default=0.8, show_default=True, metavar="F", help="Where on the way, 0 to 1."
)
@click.option("--noise", metavar="NAME", default="cpu", show_default=True, help="Whose seeds: torch's on cpu or cuda.")
@click.option("--variation-seed", type=int, help="Turn the noise of SEED towards this seed's.")
@click.option("--variation-strength", type=float, default=0.0, metavar="F", help="How far, 0 to 1.")
@click.option("--blend", metavar="TEXT", help="Mix what the prompt says with this.")
@click.option("--blend-strength", type=float, default=0.0, metavar="F", help="How far, 0 to 1.")
@click.option("--init", metavar="IMG", help="An image to start from; the picture has its size.")
@click.option("--strength", type=float, metavar="F", help="Share of the steps taken from there.  [default: 0.8]")
@click.option("--fit", metavar="NAME", default="stretch", show_default=True, help="To --size: stretch or crop.")
@click.option("--posterior", metavar="NAME", default="mean", show_default=True, help="Or sample, as diffusers.")
@click.option("--mask", metavar="IMG", help="Of the init's size: only what is white is painted anew.")
@click.option("--mask-blur", type=float, default=0.0, metavar="PX", help="Soften the mask's edges.")
@click.option("--mask-padding", type=int, metavar="PX", help="Paint the masked part alone, so much around it.")
@click.option("--extend", callback=pixels_of, metavar="L,T,R,B", help="Paint so many pixels beyond the init's sides.")
@click.option("--overlay", is_flag=True, help="Put what is not masked back exactly.")
@click.option("--hires", type=float, metavar="X", help="So much larger in a second pass, from image to image.")
@click.option("--hires-steps", type=int, metavar="N", help="Its steps.  [default: as many]")
@click.option("--hires-strength", type=float, metavar="F", help="Share of these that is taken.  [default: 0.5]")
@click.option("--hires-upscaler", default="latent", metavar="NAME", show_default=True, help="latent or lanczos.")
@click.option(
    "--control",
    "controls",
    callback=controls_of,
    multiple=True,
    metavar="NAME=IMG[:SCALE[:START:END]]",
    help="An image for one of the bundle's ControlNets, T2I-Adapters or IP-Adapters; may be repeated.",
)
@click.option("--guess", is_flag=True, help="ControlNets make up for a prompt that says little.")
@click.option("--window", type=int, metavar="PX", help="Large pictures: the side of windows that are seen at once.")
@click.option("--stride", type=int, metavar="PX", help="From one window to the next.  [default: a quarter of one]")
@click.option("--seamless", metavar="AXES", help="Edges that meet: x, y or xy.")
@click.option("--prompts", type=click.Path(path_type=Path), metavar="FILE", help="One prompt a line, not PROMPT.")
@click.option("--frames", type=int, metavar="N", help="So many pictures on the way to what the --to options say.")
@click.option("--to-prompt", metavar="TEXT", help="The prompt of the last frame.")
@click.option("--to-seed", type=int, help="Its seed.")
@click.option("--to-guidance", type=float, metavar="G", help="Its guidance.")
@click.option("--to-strength", type=float, metavar="F", help="Its strength.")
@click.option("--per-second", type=click.FloatRange(0.01, 1000), default=8, show_default=True, help="Frames, in --out.")
@click.option("--fast-decode", is_flag=True, help="Draw the picture with the bundle's tiny decoder.")
@click.option("--sampler", metavar="NAME", help="ddim, euler, 'DPM++ 2M Karras' ...; any other word lists all.")
@click.option("--eta", type=float, help="How much noise the sampler adds, 0 to 1.")
@click.option("--gamma", type=float, help="The same of tcd.")
@click.option("--order", type=int, help="Of lms, dpmpp_2m, unipc, deis.")
@click.option("--solver", metavar="NAME", help="midpoint or heun; bh1 or bh2 for unipc.")
@click.option("--sigmas", callback=sigmas_of, metavar="NAME|LIST", help="A curve such as karras, or levels 14,7,3,1.")
@click.option("--spacing", metavar="NAME", help="leading, trailing or linspace.")
@click.option("--clip-skip", type=int, default=1, show_default=True, help="1: the text encoder's last layer.")
@click.option("--syntax", metavar="NAME", default="strict", show_default=True, help="strict, lenient or plain prompts.")
@click.option(
    "--lora-tags",
    metavar="NAME",
    default="a1111",
    show_default=True,
    help="Whose order <lora:NAME:A:B> has: a1111 (text encoder, UNet) or comfyui (UNet, text encoder).",
)
@click.option("--batch", type=int, default=1, show_default=True, help="How many images.")
@click.option("--engine", default="auto", metavar="NAME", show_default=True, help="What runs the graphs.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A .png, .jpg or .webp to write; of frames also .gif or .apng.  [default: SEED.png]",
)
@click.option("--no-metadata", is_flag=True, help="Leave prompt and settings out of the picture.")
@as_json
def generate(
    prompt: str | None,
    prompts: Path | None,
    bundle: str,
    loras: list[Lora],
    lora_dir: Path | None,
    engine: str,
    out: Path | None,
    no_metadata: bool,
    split_guidance: bool,
    memory_budget: float | None,
    refiner: str | None,
    refine_from: float,
    as_json: bool,
    per_second: float,
    **options: Any,
) -> None:
    """Generate pictures for PROMPT. What is not given is the bundle's default."""
    from latentrt.images.pillow import save_animation
    from latentrt.pipeline.pipeline import load
    from latentrt.pipeline.refine import handed_over
    from latentrt.request.request import RANDOM

    animated = check_out(out, frames=options["frames"] is not None)
    wanted = requests(prompt, prompts, **options)
    budget = None if memory_budget is None else int(memory_budget * 1e9)
    opened = partial(load, engine=engine, split_guidance=split_guidance, memory_budget=budget, lora_dir=lora_dir)
    if refiner is not None:
        with with_loras(opened(bundle), loras) as base:
            wanted = [handed_over(base, request, refine_from) for request in wanted]
        loras = []
    with with_loras(opened(refiner or bundle), loras) as pipeline:
        runs = [pipeline.steps(request) for request in wanted]  # all are checked before the first picture is made
        results = [finished(runs.pop(0)) for _ in wanted]  # a run that is done holds no weights of its tags
    if out is not None and animated:
        save_animation([result.images[0] for result in results], out, per_second)
        files = [[out]] * len(results)
    else:
        files = save(results, out, metadata=not no_metadata)
    if as_json:
        reports = [report(result, named) for result, named in zip(results, files, strict=True)]
        print_json(reports[0] if len(results) == 1 else {"runs": reports})
    else:
        for file in dict.fromkeys(file for named in files for file in named):
            echo(file)
        if out is not None and options["seed"] in (None, RANDOM):
            seeds = dict.fromkeys(result.seeds[0] for result in results)
            echo(f"seed {', '.join(map(str, seeds))}", err=True)


def with_loras(pipeline: Pipeline, loras: list[Lora]) -> Pipeline:
    """The pipeline with these files added."""
    scales: dict[str | Path, Any] = {one.file: (one.scale, one.scale_of("text_encoder")) for one in loras}
    return pipeline.with_loras(scales) if loras else pipeline


def check_out(out: Path | None, *, frames: bool) -> bool:
    """Whether an animation is to be written. Raises RequestError for a name that nothing can be written to."""
    from latentrt.images.pillow import ANIMATIONS, PICTURES

    if out is None:
        return False
    endings = list(dict.fromkeys([*PICTURES, *(ANIMATIONS if frames else ())]))
    if out.suffix.lower() not in endings:
        raise RequestError(f"--out: got {out}, expected a name that ends in {' or '.join(endings)}")
    if not out.parent.is_dir():
        raise RequestError(f"--out: there is no folder {out.parent}; make it with `mkdir -p {out.parent}`")
    return frames and out.suffix.lower() in ANIMATIONS


def requests(
    prompt: str | None, prompts: Path | None, size: tuple[int, int] | None, frames: int | None, **options: Any
) -> list[Request]:
    """What is asked for: one request, one a line of a file, or one a frame."""
    from latentrt.request.interpolation import CHANGING, between
    from latentrt.request.request import Request

    if (prompt is None) == (prompts is None):
        problem = "Missing argument 'PROMPT'" if prompt is None else "got both PROMPT and --prompts"
        raise click.UsageError(f"{problem}; give one prompt, or a file of them with --prompts")
    ends = {name: options.pop(f"to_{name}") for name in CHANGING}
    changes = {name: value for name, value in ends.items() if value is not None}
    options["width"], options["height"] = size or (None, None)
    asked = [Request(text, **options) for text in texts_of(prompt, prompts)]
    if frames is None:
        for name, value in changes.items():
            raise RequestError(f"--to-{name}: got {value!r} without --frames; say how many there are to be")
        return asked
    return [request for start in asked for request in between(start, replace(start, **changes), frames)]


def texts_of(prompt: str | None, prompts: Path | None) -> Sequence[str]:
    """The prompt, or those of a file."""
    if prompts is None:
        return [prompt or ""]
    from latentrt.prompt.file import read_prompts

    return read_prompts(prompts)


def finished(run: Run) -> Result:
    """The run's result, with a bar while it is made."""
    with progress_bar(f"{run.settings.width}x{run.settings.height}", run.total) as advance:
        for _ in run:
            advance()
    return run.result


def save(results: Sequence[Result], out: Path | None, *, metadata: bool) -> list[list[Path]]:
    """Writes every image and returns where, result by result: `out` for one, numbered beside it for more.

    Without `out` by their seeds, after a number where there are several results.
    """
    count, index = sum(len(result.images) for result in results), 0
    files: list[list[Path]] = []
    for place, result in enumerate(results):
        files.append([])
        before = f"{place}-" if len(results) > 1 else ""
        for i in range(len(result.images)):
            file = numbered(out, index, count) if out else Path(f"{before}{seed_name(result.settings, i)}.png")
            result.save(file, i, metadata=metadata)
            files[-1].append(file)
            index += 1
    return files


def seed_name(settings: Settings, image: int) -> str:
    """An image's seed, and its variation seed where it has one: what tells it from the others of its batch."""
    return "-".join(map(str, (settings.seeds[image], *settings.variation_seeds[image : image + 1])))


def numbered(out: Path, index: int, count: int) -> Path:
    """`out` itself for a single image, out-0.png, out-1.png ... for more."""
    return out if count == 1 else out.with_name(f"{out.stem}-{index}{out.suffix}")


def report(result: Result, files: list[Path]) -> dict[str, Any]:
    """What `--json` prints."""
    from latentrt.pipeline.metadata import plain

    return {
        "files": [str(file) for file in files],
        "bundle": {"name": result.bundle, "sha256": result.sha256},
        "loras": [lora.record() for lora in result.loras],
        "engine": result.engine,
        "settings": plain(result.settings),
        "seconds": {phase: round(seconds, 6) for phase, seconds in result.timings.items()},
    }
