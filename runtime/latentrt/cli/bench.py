"""`latentrt bench` times a bundle, phase by phase; `latentrt bench compare` compares two of its reports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from latentrt.cli.engine_option import engine_option
from latentrt.cli.grouped import GroupedCommand
from latentrt.cli.memory_option import memory_option
from latentrt.cli.output import as_json, echo, print_json, progress_bar
from latentrt.cli.parsing import class_of, numbers_of, seed_of, sigmas_of, size_of
from latentrt.cli.request_options import STEP_CACHE, request_options

if TYPE_CHECKING:
    from latentrt.bench.compare import Pairing

FILE = click.Path(path_type=Path, dir_okay=False)
PROMPT = "a red apple"
REPORT = click.Path(path_type=Path, dir_okay=False, exists=True)


def counts_of(_context: click.Context, _option: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """Whole numbers from text such as "4,20"."""
    if value is None:
        return None
    parts = value.split(",")
    if not all(part.isascii() and part.isdecimal() for part in parts):
        raise click.BadParameter(f"got {value!r}, expected whole numbers with commas between them")
    return tuple(map(int, parts))


def sizes_of(context: click.Context, option: click.Parameter, value: str | None) -> tuple[Any, ...] | None:
    """Sizes from text such as "512x512,768x512"."""
    return None if value is None else tuple(size_of(context, option, part) for part in value.split(","))


def pages_of(_context: click.Context, _option: click.Parameter, values: tuple[Path, ...]) -> tuple[Path, ...]:
    """The files of --html. Raises BadParameter for a name that does not end in .html."""
    for file in values:
        if file.suffix.lower() != ".html":
            raise click.BadParameter(f"got {str(file)!r}, expected a name that ends in .html")
    return values


class BundleOrCompare(GroupedCommand):
    """The command `bench`, or `bench compare` if its first argument is "compare"; ./compare is a bundle's folder."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """The context of `bench` or of `bench compare`."""
        if args[:1] == ["compare"]:
            return compare.make_context(f"{info_name} compare", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)


@click.command()
@click.argument("first", type=REPORT)
@click.argument("second", type=REPORT)
@click.option("--force", is_flag=True, help="Compare even unlike or INVALID runs.")
@as_json
def compare(first: Path, second: Path, force: bool, as_json: bool) -> None:
    """Compare the reports FIRST and SECOND, two files from `latentrt bench --out FILE.json`.

    Unlike runs, such as those of two machines, and INVALID ones are refused with the reasons and exit status 2.
    """
    from latentrt.bench.compare import compare_reports, document
    from latentrt.bench.report import read_report

    pairings = compare_reports(read_report(first), read_report(second), force=force)
    if as_json:
        print_json(document(pairings))
    else:
        show(pairings)


def show(pairings: Sequence[Pairing]) -> None:
    """Prints the medians of both reports and their ratio, second over first."""
    from latentrt.bench.tables import comparison_lines

    for pairing in pairings:
        echo("\n".join(comparison_lines(pairing)))


GROUPS = {
    "Most used": ("steps", "size", "batch", "engine", "runs", "out"),
    "Request": ("prompt", "negative", "class_label", "guidance", "sampler", "sigmas", *STEP_CACHE, "seed"),
    "Memory": ("memory_budget", "split_guidance"),
    "Measurement": ("warmups", "audit"),
    "Output": ("html",),
}


@click.command(
    cls=BundleOrCompare,
    groups=GROUPS,
    rest="Output",
    epilog="`latentrt bench compare A.json B.json` compares two reports.",
)
@click.argument("bundle")
@click.option(
    "--prompt", metavar="TEXT", help=f"Prompt of every request.  [default: {PROMPT}, of models that take prompts]"
)
@click.option(
    "--class", "class_label", callback=class_of, metavar="N|NAME", help="Class of every request.  [default: 0]"
)
@click.option("--negative", default="", metavar="TEXT", help="Negative prompt: content to avoid.")
@click.option("--steps", callback=counts_of, metavar="N[,N...]", help="Denoising steps.  [default: the bundle's]")
@click.option(
    "--batch", callback=counts_of, default="1", metavar="N[,N...]", show_default=True, help="Images per request."
)
@click.option(
    "--size",
    callback=sizes_of,
    metavar="WxH[,WxH...]",
    help="Width and height in pixels, multiples of 8.  [default: the bundle's]",
)
@click.option(
    "--guidance",
    callback=numbers_of,
    metavar="G[,G...]",
    help="Guidance scale; 1 is off. A list has one per step.  [default: the bundle's]",
)
@click.option("--split-guidance", is_flag=True, help="One denoiser call per prompt: less memory, more time.")
@memory_option()
@click.option(
    "--sampler",
    metavar="NAME",
    help="Sampler: euler, ddim, 'DPM++ 2M Karras' ...; see docs/samplers.md.  [default: the bundle's]",
)
@click.option(
    "--sigmas",
    callback=sigmas_of,
    metavar="NAME|LIST",
    help="Noise levels: a curve such as karras, or falling numbers.  [default: the bundle's]",
)
@request_options(STEP_CACHE)
@click.option(
    "--seed",
    type=int,
    callback=seed_of,
    default=0,
    show_default=True,
    help="Seed of the first image; image k of all has SEED + k.",
)
@engine_option()
@click.option("--runs", type=int, default=10, show_default=True, help="Timed requests per case.")
@click.option("--warmups", type=int, default=2, show_default=True, help="Untimed requests before the timed ones.")
@click.option("--audit", is_flag=True, help="Also check that timed pictures are reproducible and nothing is cached.")
@click.option(
    "--out", type=FILE, multiple=True, metavar="FILE", help="Report: .json, .jsonl, .csv, .md or .html; repeatable."
)
@click.option("--html", type=FILE, callback=pages_of, multiple=True, metavar="FILE", help="Same as --out FILE.html.")
@as_json
def bench(
    bundle: str,
    prompt: str | None,
    steps: tuple[int, ...] | None,
    batch: tuple[int, ...],
    size: tuple[tuple[int, int], ...] | None,
    engine: str,
    split_guidance: bool,
    memory_budget: int | None,
    runs: int,
    warmups: int,
    audit: bool,
    out: tuple[Path, ...],
    html: tuple[Path, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Time BUNDLE on this machine, phase by phase, with a verdict: VALID, or INVALID and why.

    BUNDLE is a folder or a built-in model's name. Lists of steps, sizes or batches are timed in every combination.

    \b
    latentrt bench emoji --steps 20 --runs 30 --out report.html
    latentrt bench emoji --steps 4,20 --batch 1,2
    """
    from latentrt.bench.benchmark import Sweep, benchmark
    from latentrt.bench.measure import BenchPlan
    from latentrt.bench.report import document
    from latentrt.bench.save import check_file, save
    from latentrt.bench.tables import markdown
    from latentrt.bundle.catalog import folder_of
    from latentrt.bundle.folder import open_bundle
    from latentrt.request.request import Request

    files = (*out, *html)
    for file in files:
        check_file(file)
    plan, sweep = BenchPlan(runs, warmups, audit), Sweep(size or (None,), batch, steps or (None,))
    if prompt is None:
        prompt = PROMPT if open_bundle(folder_of(bundle), verify=False).manifest.text else ""
    request = Request(prompt, **options)
    with progress_bar("timing", plan.requests * len(sweep.cases(request))) as advance:
        report = benchmark(
            bundle,
            request,
            sweep,
            plan,
            engine=engine,
            split_guidance=split_guidance,
            memory_budget=memory_budget,
            advance=advance,
        )
    for file in files:
        save(report, file)
    if as_json:
        print_json(document(report))
    else:
        echo(markdown(report).rstrip("\n"))
