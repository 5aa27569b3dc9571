"""`latentrt build`: engine files that load faster than a bundle's graphs, or that NVIDIA's engines need."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from latentrt.cli.grouped import GroupedCommand
from latentrt.cli.output import as_json, echo, extra_of, on_terminal, print_json
from latentrt.cli.paths import bundle_argument

if TYPE_CHECKING:
    from latentrt.engines.nvidia.lowered import Attention
    from latentrt_export.build.tensorrt import BuiltPlan

GB = 1_000_000_000
LARGEST_LEVEL = 5
CPU = "cpu"


def listed(parse: Callable[[str], Any]) -> Callable[[click.Context, click.Parameter, str], tuple[Any, ...]]:
    """A callback that returns the values between commas, each parsed and each once."""

    def values(ctx: click.Context, param: click.Parameter, text: str) -> tuple[Any, ...]:
        try:
            return tuple(dict.fromkeys(parse(part.strip()) for part in text.split(","))) if text else ()
        except ValueError as error:
            raise click.BadParameter(str(error), ctx, param) from error

    return values


def size_in(text: str) -> tuple[int, int]:
    """Width and height of "768x512". Raises ValueError."""
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if match is None:
        raise ValueError(f"got {text!r}, expected WIDTHxHEIGHT, such as 768x512")
    return int(match[1]), int(match[2])


def batch_in(text: str) -> int:
    """A count of at least 1. Raises ValueError."""
    if not re.fullmatch(r"[1-9]\d*", text):
        raise ValueError(f"got {text!r}, expected a number of at least 1")
    return int(text)


def gpu_in(text: str) -> str:
    """A name such as "sm86". Raises ValueError."""
    if not re.fullmatch(r"sm\d{2,3}", text):
        raise ValueError(f"got {text!r}, expected a GPU's architecture, such as sm86")
    return text


GROUPS = {
    "Build": ("target", "lower_only"),
    "Shapes": ("sizes", "batches"),
    "NVIDIA builders": ("gpus", "level", "memory", "attention", "refit", "stripped"),
}


@click.command(cls=GroupedCommand, groups=GROUPS)
@bundle_argument("bundle")
@click.option(
    "--target", type=click.Choice([CPU, "tensorrt", "tensorrt-rtx"]), required=True, help="Engine to build for."
)
@click.option(
    "--gpu",
    "gpus",
    callback=listed(gpu_in),
    default="",
    metavar="SM,...",
    help="GPUs for tensorrt-rtx: sm75,sm80,sm86,sm89,sm120,sm121.  [default: all]",
)
@click.option(
    "--size",
    "sizes",
    callback=listed(size_in),
    default="",
    metavar="WxH,...",
    help="Picture sizes in pixels, such as 512x512.  [default: the bundle's]",
)
@click.option(
    "--batch",
    "batches",
    callback=listed(batch_in),
    default="1,2",
    show_default=True,
    metavar="N,...",
    help="Rows per UNet call; a picture with guidance has 2.",
)
@click.option(
    "--memory",
    type=click.FloatRange(min=0, min_open=True),
    metavar="GB",
    help="Memory limit of a build.  [default: half on Jetson, else the builder's]",
)
@click.option(
    "--optimization-level",
    "level",
    type=click.IntRange(0, LARGEST_LEVEL),
    help="Search effort; 5 is slowest.  [default: the builder's]",
)
@click.option(
    "--attention",
    type=click.Choice(["decomposed", "operator"]),
    default="decomposed",
    show_default=True,
    help="ONNX form of attention; operator needs TensorRT 10.14.",
)
@click.option("--refit", is_flag=True, help="Plans with replaceable weights; may be slower.")
@click.option("--stripped", is_flag=True, help="Plans without weights, which are added when a plan is loaded.")
@click.option("--lower-only", is_flag=True, help="Write lowered graphs only, for a build on another machine.")
@as_json
@click.pass_context
def build(
    context: click.Context,
    /,
    bundle: str,
    target: str,
    memory: float | None,
    lower_only: bool,
    as_json: bool,
    attention: Attention,
    **options: Any,
) -> None:
    """Build engine files for BUNDLE, a bundle's folder or the name of a built-in model.

    \b
    cpu            graphs optimised for ONNX Runtime on this processor, for all sizes;
                   takes no other option
    tensorrt       plans (compiled engines) for the GPU of this machine, which is needed
    tensorrt-rtx   plans for any RTX GPU, built without one

    \b
    latentrt build my-bundle --target cpu
    latentrt build my-bundle --target tensorrt --size 512x512 --batch 2

    Graphs are first lowered: rewritten in fp16 or INT8 for NVIDIA's builders, and compared with the originals. Files
    that exist are not built again. Stable Diffusion 1.5's shape takes about 3 minutes and 6 GB of memory for two GPUs
    (2 CPU cores).
    """
    if target == CPU:
        build_for_cpu(context, bundle, as_json)
        return
    with extra_of("build"):
        from latentrt_export.build.plan import BuilderSettings
        from latentrt_export.build.tensorrt import BuildOptions
        from latentrt_export.build.tensorrt import build as build_bundle
        from latentrt_export.build.tensorrt import lower_only as lower_bundle

    if lower_only:
        folders = lower_bundle(bundle, attention, lines=note)
        show_folders([str(folder) for folder in folders], as_json)
        return
    settings = BuilderSettings(**{name: options.pop(name) for name in ("level", "refit", "stripped")})
    limit = None if memory is None else int(memory * GB)
    build_options = BuildOptions(target, attention=attention, memory_bytes=limit, settings=settings, **options)
    plans = []
    with phases() as progress:
        for built in build_bundle(bundle, build_options, note, progress):
            plans.append(built)
            if not as_json:
                echo(line_of(built))
    if as_json:
        print_json([{**asdict(built), "path": str(built.path)} for built in plans])


def build_for_cpu(context: click.Context, bundle: str, as_json: bool) -> None:
    """Builds for ONNX Runtime on this processor and prints one line per component."""
    with extra_of("build"):
        from latentrt_export.build.cpu import build_cpu

    given = [name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    if wrong := sorted(set(given) - {"bundle", "target", "as_json"}):
        raise click.UsageError(f"--target cpu: got {', '.join(wrong)}, expected no other option")
    built = []
    for one in build_cpu(bundle, note):
        built.append({**asdict(one), "path": str(one.path)})
        if not as_json:
            took = "was there" if one.seconds is None else f"{one.seconds:.1f} s"
            echo(f"{one.component:14} {one.bytes / 1e6:8.1f} MB  {took:>9}  {one.path.name}")
    if as_json:
        print_json(built)


def note(line: str) -> None:
    """Prints a line of progress."""
    echo(line, err=True)


def show_folders(folders: list[str], as_json: bool) -> None:
    """Prints the folders of the lowered graphs."""
    if as_json:
        print_json(folders)
    else:
        echo("\n".join(folders))


def line_of(built: BuiltPlan) -> str:
    """One line about a plan."""
    took = "was there" if built.seconds is None else f"{built.seconds:.1f} s"
    return (
        f"{built.component:14} {built.floats}  {built.gpu:6} {built.bytes / 1e6:8.1f} MB  {took:>9}  {built.path.name}"
    )


@contextmanager
def phases() -> Iterator[Callable[[str, int, int], None]]:
    """Gives a function that shows the builder's phase on stderr, if that is a terminal."""
    if not on_terminal():
        yield lambda name, step, steps: None
        return
    from rich.console import Console

    with Console(stderr=True).status("") as status:
        yield lambda name, step, steps: status.update(f"{name} {step}/{steps}")
