"""`latentrt bench`: how long a bundle takes, phase by phase; `latentrt bench compare`: two such reports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from latentrt.cli.output import as_json, echo, print_json, progress_bar
from latentrt.cli.parsing import numbers_of, seed_of, sigmas_of, size_of

if TYPE_CHECKING:
    from latentrt.bench.compare import Pairing

FILE = click.Path(path_type=Path, dir_okay=False)
REPORT = click.Path(path_type=Path, dir_okay=False, exists=True)


def counts_of(_context: click.Context, _option: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """The whole numbers of "4,20"."""
    if value is None:
        return None
    parts = value.split(",")
    if not all(part.isascii() and part.isdecimal() for part in parts):
        raise click.BadParameter(f"got {value!r}, expected whole numbers with commas between them")
    return tuple(map(int, parts))


def sizes_of(context: click.Context, option: click.Parameter, value: str | None) -> tuple[Any, ...] | None:
    """The sizes of "512x512,768x512"."""
    return None if value is None else tuple(size_of(context, option, part) for part in value.split(","))


def pages_of(_context: click.Context, _option: click.Parameter, values: tuple[Path, ...]) -> tuple[Path, ...]:
    """The names of pages. Raises BadParameter for one that says that it is something else."""
    for file in values:
        if file.suffix.lower() != ".html":
            raise click.BadParameter(f"got {str(file)!r}, expected a name that ends in .html")
    return values


class BundleOrCompare(click.Command):
    """A command whose first argument may be the word `compare`, which is another one; for such a folder, ./compare."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """The context of this command, or of the other one."""
        if args[:1] == ["compare"]:
            return compare.make_context(f"{info_name} compare", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)


@click.command()
@click.argument("first", type=REPORT)
@click.argument("second", type=REPORT)
@click.option("--force", is_flag=True, help="Show them side by side even where they are unlike.")
@as_json
def compare(first: Path, second: Path, force: bool, as_json: bool) -> None:
    """Show the reports FIRST and SECOND side by side: files that `latentrt bench --out FILE.json` wrote.

    Refuses, with the reasons, what was not measured alike. Exits with 2 then.
    """
    from latentrt.bench.compare import compare_reports, document
    from latentrt.bench.report import read_report

    pairings = compare_reports(read_report(first), read_report(second), force=force)
    if as_json:
        print_json(document(pairings))
    else:
        show(pairings)


def show(pairings: Sequence[Pairing]) -> None:
    """Prints both reports' medians, and the second's over the first's."""
    from latentrt.bench.tables import compared

    for pairing in pairings:
        echo("\n".join(compared(pairing)))


@click.command(cls=BundleOrCompare, epilog="`latentrt bench compare A.json B.json` shows two reports side by side.")
@click.argument("bundle")
@click.option("--prompt", default="a red apple", metavar="TEXT", show_default=True, help="What is drawn.")
@click.option("--negative", default="", metavar="TEXT", help="What the pictures should not show.")
@click.option("--steps", callback=counts_of, metavar="N[,N...]", help="Denoising steps.  [default: the bundle's]")
@click.option(
    "--batch", callback=counts_of, default="1", metavar="N[,N...]", show_default=True, help="Pictures a request."
)
@click.option("--size", callback=sizes_of, metavar="WxH[,WxH...]", help="Pixels.  [default: the bundle's]")
@click.option("--guidance", callback=numbers_of, metavar="G", help="How much the prompt counts; 1 is none.")
@click.option("--split-guidance", is_flag=True, help="One UNet call a prompt: less memory, more time.")
@click.option(
    "--memory-budget",
    type=click.FloatRange(min=0, min_open=True),
    metavar="GB",
    help="The most that the process may need, on a CPU.",
)
@click.option("--sampler", metavar="NAME", help="ddim, euler, dpmpp_2m ...")
@click.option("--sigmas", callback=sigmas_of, metavar="NAME|LIST", help="A curve such as karras, or levels 14,7,3,1.")
@click.option(
    "--seed", type=int, callback=seed_of, default=0, show_default=True, help="Of the first request; the others' follow."
)
@click.option("--engine", default="auto", metavar="NAME", show_default=True, help="What runs the graphs.")
@click.option("--runs", type=int, default=10, show_default=True, help="How many requests are timed.")
@click.option("--warmups", type=int, default=2, show_default=True, help="How many come before, and do not count.")
@click.option("--audit", is_flag=True, help="Also check that the timed work is done and nothing is cached.")
@click.option(
    "--out", type=FILE, multiple=True, metavar="FILE", help="A .json, .jsonl, .csv, .md or .html; repeatable."
)
@click.option(
    "--html", type=FILE, callback=pages_of, multiple=True, metavar="FILE", help="The same as --out FILE.html."
)
@as_json
def bench(
    bundle: str,
    steps: tuple[int, ...] | None,
    batch: tuple[int, ...],
    size: tuple[tuple[int, int], ...] | None,
    engine: str,
    split_guidance: bool,
    memory_budget: float | None,
    runs: int,
    warmups: int,
    audit: bool,
    out: tuple[Path, ...],
    html: tuple[Path, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Time BUNDLE on this machine, phase by phase, and say whether the figures can be trusted.

    BUNDLE is a folder or a built-in model's name. Where steps, batches or sizes are several, every combination is
    measured.
    """
    from latentrt.bench.benchmark import Sweep, benchmark
    from latentrt.bench.measure import Plan
    from latentrt.bench.report import document
    from latentrt.bench.save import check_file, save
    from latentrt.bench.tables import markdown
    from latentrt.request.request import Request

    files = (*out, *html)
    for file in files:
        check_file(file)
    plan, sweep = Plan(runs, warmups, audit), Sweep(size or (None,), batch, steps or (None,))
    request = Request(**options)
    budget = None if memory_budget is None else int(memory_budget * 1e9)
    with progress_bar("timing", plan.requests * len(sweep.cases(request))) as advance:
        report = benchmark(
            bundle,
            request,
            sweep,
            plan,
            engine=engine,
            split_guidance=split_guidance,
            memory_budget=budget,
            advance=advance,
        )
    for file in files:
        save(report, file)
    if as_json:
        print_json(document(report))
    else:
        echo(markdown(report).rstrip("\n"))
