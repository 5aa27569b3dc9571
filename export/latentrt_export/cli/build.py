"""`latentrt build`: a bundle's graphs become plans for NVIDIA's GPUs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from latentrt.cli.output import as_json, echo, extra_of, on_terminal, print_json
from latentrt.cli.paths import bundle_argument

if TYPE_CHECKING:
    from latentrt.engines.nvidia.lowered import Attention
    from latentrt_export.build.tensorrt import BuiltPlan

GB = 1_000_000_000
LARGEST_LEVEL = 5
CPU = "cpu"


def listed(read: Callable[[str], Any]) -> Callable[[click.Context, click.Parameter, str], tuple[Any, ...]]:
    """A callback that gives the values between commas, each as `read` has it and each once."""

    def values(ctx: click.Context, param: click.Parameter, text: str) -> tuple[Any, ...]:
        try:
            return tuple(dict.fromkeys(read(part.strip()) for part in text.split(","))) if text else ()
        except ValueError as error:
            raise click.BadParameter(str(error), ctx, param) from error

    return values


def read_size(text: str) -> tuple[int, int]:
    """Width and height of "768x512". Raises ValueError."""
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if match is None:
        raise ValueError(f"got {text!r}, expected WIDTHxHEIGHT, such as 768x512")
    return int(match[1]), int(match[2])


def read_batch(text: str) -> int:
    """A count of at least 1. Raises ValueError."""
    if not re.fullmatch(r"[1-9]\d*", text):
        raise ValueError(f"got {text!r}, expected a number of at least 1")
    return int(text)


def read_gpu(text: str) -> str:
    """A name such as "sm86". Raises ValueError."""
    if not re.fullmatch(r"sm\d{2,3}", text):
        raise ValueError(f"got {text!r}, expected a GPU's architecture, such as sm86")
    return text


@click.command()
@bundle_argument("bundle")
@click.option("--target", type=click.Choice([CPU, "tensorrt", "tensorrt-rtx"]), required=True, help="What runs it.")
@click.option(
    "--gpu",
    "gpus",
    callback=listed(read_gpu),
    default="",
    metavar="SM,...",
    help="For tensorrt-rtx: sm75,sm80,sm86,sm89,sm120,sm121.  [default: all]",
)
@click.option(
    "--size", "sizes", callback=listed(read_size), default="", metavar="WxH,...", help="[default: the bundle's]"
)
@click.option(
    "--batch",
    "batches",
    callback=listed(read_batch),
    default="1,2",
    show_default=True,
    metavar="N,...",
    help="Rows of one call of the UNet; a picture with guidance has two.",
)
@click.option("--memory", type=click.FloatRange(min=0, min_open=True), metavar="GB", help="The most to build with.")
@click.option("--optimization-level", "level", type=click.IntRange(0, LARGEST_LEVEL), help="How long to search.")
@click.option(
    "--attention",
    type=click.Choice(["decomposed", "operator"]),
    default="decomposed",
    show_default=True,
    help="How attention is written; the operator needs TensorRT 10.14.",
)
@click.option("--refit", is_flag=True, help="Weights can be replaced in the plan; it may be slower.")
@click.option("--stripped", is_flag=True, help="Leave weights out of the plan, for a Refitter of your own.")
@click.option("--lower-only", is_flag=True, help="Write the graphs to build from, for a build on the device.")
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
    """Build what engines load faster from the bundle BUNDLE, a folder or a built-in model's name.

    `cpu` optimises the graphs for ONNX Runtime and this processor, at any size; no other option applies. `tensorrt`
    builds plans on the GPU that is to run them; `tensorrt-rtx` builds for any, anywhere, and needs none. What is built
    already is not built again.
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
    asked = BuildOptions(target, attention=attention, memory_bytes=limit, settings=settings, **options)
    plans = []
    with phases() as progress:
        for built in build_bundle(bundle, asked, note, progress):
            plans.append(built)
            if not as_json:
                echo(line_of(built))
    if as_json:
        print_json([{**asdict(built), "path": str(built.path)} for built in plans])


def build_for_cpu(context: click.Context, bundle: str, as_json: bool) -> None:
    """Builds for ONNX Runtime on this processor and prints a line a component."""
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
    """Prints where the lowered graphs are."""
    if as_json:
        print_json(folders)
    else:
        echo("\n".join(folders))


def line_of(built: BuiltPlan) -> str:
    """A plan in a line."""
    took = "was there" if built.seconds is None else f"{built.seconds:.1f} s"
    return (
        f"{built.component:14} {built.floats}  {built.gpu:6} {built.bytes / 1e6:8.1f} MB  {took:>9}  {built.path.name}"
    )


@contextmanager
def phases() -> Iterator[Callable[[str, int, int], None]]:
    """Gives a function that shows what the builder does on stderr; where that is no terminal, it does nothing."""
    if not on_terminal():
        yield lambda name, step, steps: None
        return
    from rich.console import Console

    with Console(stderr=True).status("") as status:
        yield lambda name, step, steps: status.update(f"{name} {step}/{steps}")
