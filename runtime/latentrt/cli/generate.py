"""`latentrt generate`: a prompt becomes pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from latentrt.cli.engine_option import engine_option
from latentrt.cli.lora_option import lora_option
from latentrt.cli.memory_option import memory_option
from latentrt.cli.output import as_json, echo, note, print_json, progress_bar
from latentrt.cli.parsing import size_of
from latentrt.cli.request_options import (
    AFTER_SIZE,
    BEFORE_SIZE,
    FirstOption,
    GroupedOption,
    RequestCommand,
    first,
    grouped,
    request_options,
)
from latentrt.cli.show_option import show, show_option
from latentrt.cli.text_options import text_options, texts_kept
from latentrt.errors import RequestError
from latentrt.request.request import RANDOM

if TYPE_CHECKING:
    from latentrt.lora.files import Lora
    from latentrt.pipeline.pipeline import Pipeline
    from latentrt.pipeline.result import Result
    from latentrt.pipeline.run import Run
    from latentrt.request.request import Request
    from latentrt.request.settings import Settings


@click.command(cls=RequestCommand)
@click.argument("prompt", required=False)
@first(
    "--bundle",
    default="emoji",
    metavar="MODEL",
    show_default=True,
    help="Bundle's folder, name in `latentrt models`, or checkpoint, exported once.",
)
@request_options(first=BEFORE_SIZE)
@first(
    "--size",
    callback=size_of,
    metavar="WxH",
    help="Width and height in pixels, multiples of 8.  [default: the bundle's]",
)
@request_options(first=AFTER_SIZE)
@lora_option("LoRA file and its scale.", cls=FirstOption)
@engine_option(cls=FirstOption)
@first(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Picture to write, or to replace: .png, .jpg, .webp; of frames .gif, .apng.  [default: SEED.png]",
)
@request_options()
@grouped(
    "prompt",
    "--prompts",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File with one prompt per line, in place of PROMPT; - is stdin.",
)
@grouped(
    "prompt",
    "--lora-dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of the LoRA files in <lora:NAME:0.8>.  [default: LATENTRT_LORAS]",
)
@grouped("sampling", "--refiner", metavar="MODEL", help="Model that takes the last steps, such as SDXL's refiner.")
@grouped(
    "sampling",
    "--refine-from",
    type=float,
    default=0.8,
    show_default=True,
    metavar="F",
    help="Share of the schedule before --refiner, 0 to 1.",
)
@grouped("sampling", "--split-guidance", is_flag=True, help="One denoiser call per prompt: less memory, more time.")
@memory_option(GroupedOption)
@grouped("output", "--frames", type=int, metavar="N", help="Animation: pictures from the request to the --to options.")
@grouped("output", "--to-prompt", metavar="TEXT", help="Animation: prompt of the last frame.")
@grouped("output", "--to-seed", type=int, help="Animation: seed of the last frame.")
@grouped("output", "--to-guidance", type=float, metavar="G", help="Animation: guidance scale of the last frame.")
@grouped("output", "--to-strength", type=float, metavar="F", help="Animation: strength of the last frame, 0 to 1.")
@grouped(
    "output",
    "--per-second",
    type=click.FloatRange(0.01, 1000),
    default=8,
    show_default=True,
    help="Animation: frames per second.",
)
@text_options(partial(grouped, "output"))
@show_option(partial(grouped, "output"))
@as_json
def generate(
    prompt: str | None,
    prompts: Path | None,
    bundle: str,
    loras: list[Lora],
    out: Path | None,
    refiner: str | None,
    refine_from: float,
    as_json: bool,
    per_second: float,
    form: str | None,
    **options: Any,
) -> None:
    """Generate pictures for PROMPT.

    \b
    latentrt generate "a red apple" --seed 7 --out apple.png
    latentrt generate "a green apple" --init apple.png --strength 0.6
    latentrt generate "a red apple" --bundle model.safetensors

    A checkpoint (.safetensors file or diffusers folder) is exported into your cache when it is first used, which needs
    `pip install 'latentrt[cpu,export]'`; `latentrt models` lists what is there. Options that are not given take the
    bundle's default, or the sampler's. docs/options.md says more of each.
    """
    from latentrt.pipeline.load import load
    from latentrt.pipeline.refine import handed_over

    animated, texts = check_out(out, frames=options["frames"] is not None), texts_kept(options)
    loading = {name: options.pop(name) for name in ("engine", "split_guidance", "lora_dir", "memory_budget")}
    opened: Callable[[str], Pipeline] = partial(load, **loading)
    if prompt is None and prompts is None and not needs_prompt(bundle):
        prompt = ""
    wanted = requests(prompt, prompts, **options)
    if refiner is not None:
        with with_loras(opened(bundle), loras) as base:
            wanted = [handed_over(base, request, refine_from) for request in wanted]
        loras = []
    with with_loras(opened(refiner or bundle), loras) as pipeline:
        say_brought(wanted[0], pipeline)
        runs = [pipeline.steps(request) for request in wanted]  # all are checked before the first picture is made
        results = [finished(runs.pop(0)) for _ in wanted]  # a run that is done holds no weights of its tags
    files = written(results, out, animated=animated, per_second=per_second, texts=texts)
    show((image for result in results for image in result.images), form)
    tell(results, files, as_json=as_json, seeds=out is not None and options["seed"] in (None, RANDOM))


def written(
    results: Sequence[Result], out: Path | None, *, animated: bool, per_second: float, texts: Mapping[str, bool]
) -> list[list[Path]]:
    """Writes the pictures, or one animation of them, and returns the files of each result."""
    from latentrt.images.pillow import save_animation

    if out is None or not animated:
        return save(results, out, texts)
    save_animation([result.images[0] for result in results], out, per_second)
    return [[out]] * len(results)


def tell(results: Sequence[Result], files: list[list[Path]], *, as_json: bool, seeds: bool) -> None:
    """Prints the files, or the report; and on stderr the time, and the seeds where no file name has them."""
    if as_json:
        reports = [report(result, named) for result, named in zip(results, files, strict=True)]
        print_json(reports[0] if len(results) == 1 else {"runs": reports})
        return
    for file in dict.fromkeys(file for named in files for file in named):
        echo(file)
    told = [f"seed {', '.join(map(str, dict.fromkeys(result.seeds[0] for result in results)))}"] if seeds else []
    spent, steps = sum(sum(result.timings.values()) for result in results), results[0].settings.schedule.steps
    note(", ".join([*told, f"{steps} step{'s' * (steps != 1)}", f"{spent:.1f} s"]))


def with_loras(pipeline: Pipeline, loras: list[Lora]) -> Pipeline:
    """The pipeline with these files added."""
    scales: dict[str | Path, Any] = {one.file: (one.scale, one.scale_of("text_encoder")) for one in loras}
    return pipeline.with_loras(scales) if loras else pipeline


def say_brought(request: Request, pipeline: Pipeline) -> None:
    """Says on stderr which settings a LoRA for few steps brought."""
    from latentrt.request.few_step import few_step_fields, few_step_name

    for file in pipeline.added if request.preset is None else ():
        if known := few_step_name(str(file)):
            fields = {name: value for name, value in few_step_fields(request, known).items() if value}
            options = (f"--{name} {value}".removesuffix(".0") for name, value in fields.items())
            note(f"{file.name}: {' '.join(options)}; --preset none leaves them out")


def check_out(out: Path | None, *, frames: bool) -> bool:
    """True if an animation is to be written.

    Raises RequestError for a name of no picture, OutputError for a path that cannot be written.
    """
    from latentrt.images.pillow import ANIMATIONS, PICTURES
    from latentrt.storage.atomic import check_writable

    if out is None:
        return False
    endings = list(dict.fromkeys([*PICTURES, *(ANIMATIONS if frames else ())]))
    if out.suffix.lower() not in endings:
        raise RequestError(f"--out: got {out}, expected a name that ends in {' or '.join(endings)}")
    check_writable(out, option="--out")
    return frames and out.suffix.lower() in ANIMATIONS


def requests(
    prompt: str | None, prompts: Path | None, size: tuple[int, int] | None, frames: int | None, **options: Any
) -> list[Request]:
    """The requests: one, one per line of a file, or one per frame."""
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


def needs_prompt(bundle: str) -> bool:
    """Whether a bundle's model draws from a prompt alone; True for no bundle, which is refused when it is loaded."""
    from latentrt.bundle.catalog import folder_of
    from latentrt.bundle.folder import MANIFEST, open_bundle

    folder = folder_of(bundle)
    if not (folder / MANIFEST).is_file():
        return True
    manifest = open_bundle(folder, verify=False).manifest
    return manifest.text is not None and not manifest.varies_images


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


def save(results: Sequence[Result], out: Path | None, texts: Mapping[str, bool]) -> list[list[Path]]:
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
            result.save(file, i, **texts)
            files[-1].append(file)
            index += 1
    return files


def seed_name(settings: Settings, image: int) -> str:
    """An image's seed, and its variation seed where it has one: what tells it from the others of its batch."""
    return "-".join(map(str, (settings.seeds[image], *settings.noise.variation_seeds[image : image + 1])))


def numbered(out: Path, index: int, count: int) -> Path:
    """`out` itself for a single image, out-0.png, out-1.png ... for more."""
    return out if count == 1 else out.with_name(f"{out.stem}-{index}{out.suffix}")


def report(result: Result, files: list[Path]) -> dict[str, Any]:
    """The report that `--json` prints."""
    return {
        "files": [str(file) for file in files],
        "bundle": {"name": result.bundle, "sha256": result.sha256},
        "loras": [lora.record() for lora in result.loras],
        "engine": result.engine,
        "settings": result.settings.record(),
        "seconds": {phase: round(seconds, 6) for phase, seconds in result.timings.items()},
    }
