"""Sections of the page about a quantization: shares, layers, ranges over timesteps, sensitivity, ablations."""

from __future__ import annotations

from html import escape

from latentrt.report import plots
from latentrt.report.markup import decibels, folded, megabytes, paragraph, section, table
from latentrt_calib.report.report import DECODER, GateReport, LayerReport, Report

MOVING, SENSITIVE = 6, 20
GATED = {DECODER: "The VAE decoder"}

Ends = tuple[float, float]


def quantized_tiles(report: Report) -> list[tuple[str, str, str]]:
    """Tiles of a quantization's main figures."""
    shares = (
        "MACs in INT8",
        f"{report.macs_int8_share_of_layers:.1%}",
        f"of its layers; {report.macs_int8_share_of_all:.1%} of all",
    )
    return [shares, *map(byte_tile, report.components)]


def byte_tile(report: Report) -> tuple[str, str, str]:
    """Tile of a component's bytes."""
    saved = 1 - report.bytes_after / max(1, report.bytes_before)
    return f"Bytes of {report.component}", megabytes(report.bytes_after), f"{saved:.0%} less than before"


def quantized_sections(report: Report) -> tuple[str, ...]:
    """All sections for which the report has figures."""
    return (
        section("Gain of each part of the method", ablations(report)),
        section("Layers", layer_noise(report), layer_table(report)),
        section("Layers that stay float", float_layers(report)),
        section("Ranges over timesteps", ranges(report), moving(report)),
        section("Most sensitive layers", sensitivity(report)),
        *(section(GATED.get(gate.component, f"Text encoder {gate.component}"), gated(gate)) for gate in report.gates),
        section("With a step cache", step_cache(report)),
        section("Settings", settings(report)),
    )


def ablations(report: Report) -> str:
    """Table of this quantization and other methods, on the same prompts."""
    if not report.ablations:
        return ""
    loss = report.comparison.loss
    this = ("this one", report.macs_int8_share_of_layers, loss.psnr_db, loss.worst_psnr_db, loss.ssim)
    others = [(one.name, one.share, one.psnr_db, one.worst_psnr_db, one.ssim) for one in report.ablations]
    rows = [
        (name, f"{share:.1%}", decibels(mean), decibels(worst), f"{ssim:.4f}")
        for name, share, mean, worst, ssim in (this, *others)
    ]
    heads = ("", "MACs in INT8", "PSNR, mean", "PSNR, worst", "SSIM")
    return table(heads, rows, numbers=4, highlighted=0)


def layer_noise(report: Report) -> str:
    """Plot of the signal to noise of each layer."""
    if not report.layers:
        return ""
    marks = [
        None if layer.snr_db is None else plots.Mark(layer.snr_db, described(layer), "two" if layer.reason else "one")
        for layer in report.layers
    ]
    kinds = [("INT8", "one"), ("float", "two"), ("no difference", "quiet")]
    return (
        paragraph(
            "Signal to noise of each layer's output in the quantized graph, in the order of the graph. The noise is "
            "that of the layer and of all layers before it."
        )
        + plots.columns(marks, "layers", "signal to noise in dB", [described(layer) for layer in report.layers])
        + plots.legend(kinds)
    )


def described(layer: LayerReport) -> str:
    """One line about a layer."""
    kind = "INT8" if layer.reason is None else f"float, {layer.reason}"
    return f"{layer.name} ({layer.op}, {kind}): {decibels(layer.snr_db)}"


def layer_table(report: Report) -> str:
    """Table of every layer's figures."""
    if not report.layers:
        return ""
    rows = [
        (
            layer.name,
            layer.op,
            "int8" if layer.reason is None else "float",
            f"{layer.macs / max(1, report.macs):.2%}",
            decibels(layer.snr_db),
            f"{layer.clip[0]:.3g} to {layer.clip[1]:.3g}" if layer.clip else "",
            "" if layer.alpha is None else f"{layer.alpha:.2f}",
        )
        for layer in report.layers
    ]
    heads = ("layer", "", "computes in", "of all MACs", "signal to noise", "input range", "SmoothQuant's alpha")
    return folded(f"All {len(rows)} layers in figures", table(heads, rows, numbers=4))


def float_layers(report: Report) -> str:
    """Table of the layers that were not quantized, with reasons."""
    if not report.float_layers:
        return ""
    rows = [(one.name, one.reason or "", f"{one.macs / max(1, report.macs):.2%}") for one in report.float_layers]
    return table(("layer", "why", "of all MACs"), rows, numbers=1)


def ranges(report: Report) -> str:
    """Heat map of each layer's input range per range of timesteps that has steps."""
    layers = [layer for layer in report.layers if layer.ranges]
    buckets = buckets_with_steps(report)
    if not buckets:
        return ""
    rows, titles = [], []
    for bucket in buckets:
        ends = [layer.ranges[bucket] for layer in layers]
        rows.append([reach(end) / (largest(layer) or 1) for layer, end in zip(layers, ends, strict=True)])
        titles.append([f"{layer.name}: {range_text(end)}" for layer, end in zip(layers, ends, strict=True)])
    names = [bucket_label(report, bucket) for bucket in buckets]
    left_out = [bucket_label(report, bucket) for bucket in range(len(report.buckets)) if bucket not in buckets]
    return (
        paragraph(
            "The largest input of each layer, as a share of its largest input at any timestep: one column per layer in "
            "the order of the graph, one row per range of timesteps, the first of a run on top. Where a column is "
            "pale, the fixed range of INT8 is wider than those timesteps need."
        )
        + (paragraph(f"No step of the pictures fell into the timesteps {', '.join(left_out)}.") if left_out else "")
        + plots.heat(rows, titles, "layers, in the order of the graph", names, "share of the largest value")
    )


def buckets_with_steps(report: Report) -> list[int]:
    """The indices of the ranges of timesteps that have steps."""
    layers = [layer for layer in report.layers if layer.ranges]
    return [bucket for bucket in range(len(report.buckets)) if any(layer.ranges[bucket] for layer in layers)]


def bucket_label(report: Report, bucket: int) -> str:
    """A range of timesteps, as "999 to 900"."""
    high, low = report.buckets[bucket]
    return f"{high:.0f} to {low:.0f}"


def range_text(ends: Ends | None) -> str:
    """A range of values as text."""
    return "no value" if ends is None else f"{ends[0]:.3g} to {ends[1]:.3g}"


def moving(report: Report) -> str:
    """Plots of the layers whose input range changes most over the timesteps."""
    layers = [layer for layer in report.layers if sum(end is not None for end in layer.ranges) > 1]
    chosen = sorted(layers, key=range_ratio, reverse=True)[:MOVING]
    plotted = "".join(f"<figure><h3>{escape(layer.name)}</h3>{band(report, layer)}</figure>" for layer in chosen)
    if not plotted:
        return ""
    note = paragraph("The layers whose inputs change most over the timesteps. Dashed: the range that INT8 covers.")
    return f'{note}<div class="plots few">{plotted}</div>'


def band(report: Report, layer: LayerReport) -> str:
    """Plot of a layer's input range over the timesteps that have steps."""
    found = [(bucket, ends) for bucket, ends in enumerate(layer.ranges) if ends is not None]
    names = [f"{report.buckets[bucket][0]:.0f}" for bucket, _ in found]
    lows, highs = ([ends[side] for _, ends in found] for side in (0, 1))
    return plots.band(lows, highs, layer.clip, names, "timesteps, from", "input")


def reach(ends: Ends | None) -> float:
    """The largest magnitude of a range."""
    return 0.0 if ends is None else max(abs(ends[0]), abs(ends[1]))


def largest(layer: LayerReport) -> float:
    """The largest magnitude of the input at any timestep."""
    return max(map(reach, layer.ranges))


def range_ratio(layer: LayerReport) -> float:
    """The largest magnitude over the smallest one among the timesteps; 1 for an input that is always zero."""
    least = min(reach(ends) for ends in layer.ranges if ends is not None)
    return largest(layer) / least if least else 1.0


def sensitivity(report: Report) -> str:
    """Table of the groups that do most damage when they alone are quantized."""
    rows = [
        (", ".join(one.layers), "no difference" if one.psnr_db is None else f"{one.psnr_db:.1f} dB")
        for one in report.most_sensitive
    ]
    if not rows:
        return ""
    heads = ("quantized alone", "PSNR of the pictures")
    rest = (
        folded(f"{len(rows) - SENSITIVE} more", table(heads, rows[SENSITIVE:], numbers=1)) if rows[SENSITIVE:] else ""
    )
    return table(heads, rows[:SENSITIVE], numbers=1) + rest


def gated(gate: GateReport) -> str:
    """Verdict on a component with a gate, and its layers if it is quantized."""
    inner = gate.report
    layers = f"{layer_noise(inner)}{layer_table(inner)}{float_layers(inner)}" if inner else ""
    return paragraph(f"It {gate.verdict}.", "good" if inner else "bad") + layers


def step_cache(report: Report) -> str:
    """Table of the losses with a step cache."""
    cached = report.cached
    if cached is None:
        return ""
    losses = {
        "quantized, every call full": report.comparison.loss,
        "float, cached": cached.cache,
        "quantized, cached": cached.both,
        "quantized, cached; against float, cached": cached.quantization,
    }
    rows = [
        (name, decibels(loss.psnr_db), decibels(loss.worst_psnr_db), f"{loss.ssim:.4f}")
        for name, loss in losses.items()
    ]
    note = (
        f"One full call in {cached.every}, and the last; the shallow UNet makes the others, with the same weights and "
        "scales. Against float with every call full, unless a row says otherwise."
    )
    return paragraph(note) + table(("", "PSNR, mean", "PSNR, worst", "SSIM"), rows, numbers=3)


def settings(report: Report) -> str:
    """Table of the quantization's settings."""
    first = {"precision": report.precision, "target": report.target}
    rows = [(name, str(value)) for name, value in {**first, **report.settings}.items()]
    return table(("", ""), rows, numbers=0)
