"""HTML page of a comparison or of a quantization's report: one file, without scripts."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from latentrt.bundle.sources import denoiser_in
from latentrt.report import plots
from latentrt.report.document import html
from latentrt.report.markup import (
    AMPLIFIED,
    decibels,
    difference,
    folded,
    megabytes,
    paragraph,
    picture,
    section,
    table,
    tiles,
)
from latentrt.storage.atomic import write_text
from latentrt_calib.evaluate.compare import BundleSummary, Comparison, Gates, Pair, PicturePair, likeness, missed_gates
from latentrt_calib.report.report import Report
from latentrt_calib.report.sections import quantized_sections, quantized_tiles

GOOD_DB = 30.0
SMALL_PX = 256

NO_GATES = Gates()


def save_page(path: Path, subject: Comparison | Report, gates: Gates = NO_GATES) -> None:
    """Writes the page of a comparison or of a report, whole or not at all.

    Raises OutputError if the file cannot be written.
    """
    write_text(path, page_of(subject, gates))


def page_of(subject: Comparison | Report, gates: Gates = NO_GATES) -> str:
    """The page as HTML; the same subject gives the same text."""
    report = subject if isinstance(subject, Report) else None
    comparison = subject.comparison if isinstance(subject, Report) else subject
    title = f"{described(comparison.other)} against {described(comparison.reference)}"
    content = (
        paragraph(summary(comparison)),
        verdict(comparison, gates),
        tiles([*figure_tiles(comparison), *(quantized_tiles(report) if report else byte_tiles(comparison))]),
        section("Pictures", samples(comparison)),
        section("Every picture, and its latents step by step", every_picture(comparison, gates), all_pairs(comparison)),
        *(quantized_sections(report) if report else ()),
        section("Bundles", bundles(comparison)),
    )
    return html(title, content)


def described(bundle: BundleSummary) -> str:
    """A bundle's name and the precision of its denoiser."""
    return f"{bundle.name} {bundle.parts[denoiser_in(bundle.parts)].precision}"


def summary(comparison: Comparison) -> str:
    """Number, size and settings of the pictures."""
    settings = comparison.settings
    sigmas = settings["sigmas"] if isinstance(settings["sigmas"], str) else "given"
    guidance = settings["guidance"] if isinstance(settings["guidance"], Sequence) else (settings["guidance"],)
    return (
        f"{len(comparison.pairs)} pictures of {settings['width']}x{settings['height']} with each bundle, from the same "
        f"requests and seeds: {settings['sampler']}, {sigmas} sigmas, {settings['steps']} steps, guidance "
        f"{', '.join(f'{scale:g}' for scale in guidance)}, on the engine {comparison.engine}."
    )


def verdict(comparison: Comparison, gates: Gates) -> str:
    """Verdict of the gates; empty without gates."""
    if gates == NO_GATES:
        return ""
    missed = missed_gates(comparison.loss, gates)
    if missed:
        return paragraph(f"\u2717 Under the gate. {'; '.join(missed)}.", "bad")
    return paragraph("\u2713 Within the gates.", "good")


def figure_tiles(comparison: Comparison) -> list[tuple[str, str, str]]:
    """Tiles of the pictures' main figures."""
    loss = comparison.loss
    equal = sum(pair.psnr_db is None for pair in comparison.pairs)
    return [
        ("PSNR, mean", decibels(loss.psnr_db), f"{equal} of {loss.pictures} equal" if equal else "of final pictures"),
        ("PSNR, worst", decibels(loss.worst_psnr_db), f"{comparison.share_from(GOOD_DB):.0%} reach {GOOD_DB:g} dB"),
        ("SSIM, mean", f"{loss.ssim:.4f}", f"worst {loss.worst_ssim:.4f}"),
        ("Latents off", f"{loss.latents_error[-1]:.1%}", "after the last step, mean"),
    ]


def byte_tiles(comparison: Comparison) -> list[tuple[str, str, str]]:
    """Tile of the bundles' bytes."""
    return [("Bytes", megabytes(comparison.other.bytes), f"reference {megabytes(comparison.reference.bytes)}")]


def samples(comparison: Comparison) -> str:
    """The pictures of the comparison, two in a row if they are small."""
    content = "".join(sample_figure(comparison, sample) for sample in comparison.samples)
    style = "plots" if comparison.settings["width"] <= SMALL_PX else "large"
    return f'<div class="{style}">{content}</div>' if content else ""


def sample_figure(comparison: Comparison, sample: PicturePair) -> str:
    """Both pictures of a request and their difference."""
    pair = comparison.pairs[sample.pair]
    rank = sum(likeness(other) < likeness(pair) for other in comparison.pairs)
    title = "The least alike" if rank == 0 else f"Number {rank + 1} from the least alike"
    row = (
        picture(sample.reference, described(comparison.reference)),
        picture(sample.other, described(comparison.other)),
        picture(difference(sample.other, sample.reference), f"difference, {AMPLIFIED} times"),
    )
    caption = f"{title}: {pair.title}. {likeness_of(pair)}"
    return (
        f'<figure class="pictures"><div class="row">{"".join(row)}</div>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def likeness_of(pair: Pair) -> str:
    """The figures of one pair."""
    return "The two are equal." if pair.psnr_db is None else f"PSNR {pair.psnr_db:.1f} dB, SSIM {pair.ssim:.4f}."


def every_picture(comparison: Comparison, gates: Gates) -> str:
    """Plots: PSNR of every picture, and error of the latents per step."""
    ordered = sorted((pair for pair in comparison.pairs if pair.psnr_db is not None), key=likeness)
    marks = [plots.Mark(likeness(pair), f"{pair.title}: {likeness_of(pair)}") for pair in ordered]
    levels = [
        (name, value)
        for name, value in (("gate of the mean", gates.mean_db), ("gate of the worst", gates.worst_db))
        if value is not None
    ]
    by_picture = plots.dots(marks, "picture, the worst first", "PSNR in dB", levels) if marks else ""
    errors = np.array([pair.latents_error for pair in comparison.pairs])
    growth = plots.lines(
        [
            plots.Line("mean of the pictures", errors.mean(axis=0).tolist(), "one"),
            plots.Line("worst of the pictures", errors.max(axis=0).tolist(), "two"),
        ],
        "step",
        "error of the latents in %",
        percent=True,
    )
    return f'<div class="plots"><figure>{growth}</figure><figure>{by_picture}</figure></div>'


def all_pairs(comparison: Comparison) -> str:
    """Table of every picture's figures."""
    rows = [
        (pair.prompt, str(pair.seed), decibels(pair.psnr_db), f"{pair.ssim:.4f}", f"{pair.latents_error[-1]:.2%}")
        for pair in comparison.pairs
    ]
    heads = ("prompt or class", "seed", "PSNR", "SSIM", "latents off")
    return folded(f"All {len(rows)} pictures in figures", table(heads, rows, numbers=4))


def bundles(comparison: Comparison) -> str:
    """Table of both bundles' components: precision and bytes."""
    both = (comparison.reference, comparison.other)
    rows = []
    for name in dict.fromkeys(name for bundle in both for name in bundle.parts):
        parts = [bundle.parts.get(name) for bundle in both]
        cells = [f"{part.precision}, {megabytes(part.bytes)}" if part else "none" for part in parts]
        rows.append((name, *cells))
    rows.append(("all files", *(megabytes(bundle.bytes) for bundle in both)))
    rows.append(("sha256 of bundle.json", *(bundle.sha256[:10] for bundle in both)))
    return table(
        ("", *(f"{role}: {bundle.name}" for role, bundle in zip(("reference", "other"), both, strict=True))),
        rows,
        numbers=2,
    )
