"""Writes the tables of docs/estimate.md and docs/jetson.md: costs of graphs, published times, and fit.

    python -m benchmarks.estimates

Needs neither a GPU nor a model: costs come from benchmarks/costs.json. The exit status is 1 if a lower bound is above a
published time.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.costs import load_costs, load_entries
from benchmarks.published import PUBLISHED, Published
from latentrt_export.estimate.devices import DEVICES
from latentrt_export.estimate.estimate import Call, estimate
from latentrt_export.estimate.roofline import PRECISIONS, PrecisionName, roofline

DOCS = Path(__file__).parents[1] / "docs"
COSTS = load_costs()
STEPS = 20
# SDXL's VAE overflows in fp16.
SDXL_VAE: PrecisionName = "fp32"


def models() -> dict[str, dict[str, Call]]:
    """The graph calls of a picture, per model, at the training size, with guidance."""
    sd15 = {
        "text_encoder": Call(COSTS["sd15/text_encoder/64x64/batch2"], 1),
        "cross_kv": Call(COSTS["sd15/cross_kv/64x64/batch4"], 1),
        "time_bias": Call(COSTS["sd15/time_bias/64x64/batch4"], 1),
        "unet": Call(COSTS["sd15/unet/64x64/batch2"], STEPS),
        "vae_decoder": Call(COSTS["vae_decoder/64x64/batch1"], 1),
    }
    sdxl = {
        "text_encoder": sd15["text_encoder"],
        "text_encoder_2": Call(COSTS["sdxl/text_encoder_2/64x64/batch2"], 1),
        "cross_kv": Call(COSTS["sdxl/cross_kv/128x128/batch2"], 1),
        "time_bias": Call(COSTS["sdxl/time_bias/128x128/batch2"], 1),
        "unet": Call(COSTS["sdxl/unet/128x128/batch2"], STEPS),
        "vae_decoder": Call(COSTS["vae_decoder/128x128/batch1"], 1, SDXL_VAE),
    }
    return {"SD 1.5 at 512x512": sd15, "SDXL at 1024x1024": sdxl}


def bound(row: Published) -> float:
    """Lower bound in seconds for a published figure. The VAE is fp32 in MLPerf's Orin rows, else fp16."""
    total = 0.0
    for name, times in row.graphs.items():
        unet = "/unet/" in name
        precision: PrecisionName = row.precision if unet else SDXL_VAE if row.device == "agx-orin" else "fp16"
        total += times * roofline(COSTS[name], PRECISIONS[precision], DEVICES[row.device]).seconds
    return total


def published_table() -> str:
    """Table of lower bounds and published times."""
    rows = (
        (
            row.what,
            row.device,
            f"{row.seconds:.3f}" if row.seconds > 0.1 else f"{row.seconds:.4f}",
            f"{bound(row):.3f}" if row.seconds > 0.1 else f"{bound(row):.4f}",
            f"{bound(row) / row.seconds:.2f}",
            row.source,
        )
        for row in PUBLISHED
    )
    return table(("what", "device", "published s", "estimate s", "estimate / published", "published in"), rows)


def costs_table() -> str:
    """Table of each graph's costs, by our count and by torch's."""
    rows = (
        (
            f"`{name}`",
            f"{entry['macs'] / 1e9:.3f}",
            f"{entry['torch_macs'] / 1e9:.3f}",
            f"{entry['parameters'] / 1e6:.1f}",
            f"{entry['live'] / 1e6:.1f}",
        )
        for name, entry in load_entries().items()
    )
    return table(("graph", "GMAC", "GMAC by torch", "parameters, M", "live activations, M"), rows)


def fits_table(names: Sequence[str]) -> str:
    """Table of time and memory of every model on these devices."""
    rows = []
    for model, calls in models().items():
        for precision in ("fp16", "int8"):
            for name in names:
                found = estimate(calls, precision, DEVICES[name])
                rows.append(
                    (
                        model,
                        precision,
                        name,
                        f"{found.weight_bytes / 1e9:.1f}",
                        f"{found.resident_bytes / 1e9:.1f}",
                        f"{found.least_bytes / 1e9:.1f}",
                        f"{found.room_bytes / 1e9:.1f}",
                        found.fits,
                        f"{found.step.seconds * 1e3:.0f}",
                        f"{found.seconds:.1f}",
                    )
                )
    heads = ("model", "precision", "device", "weights GB", "all loaded GB", "one at a time GB", "room GB", "fits")
    return table((*heads, "ms per step, at least", f"s for {STEPS} steps, at least"), rows)


def table(heads: Sequence[str], rows: Iterable[tuple[str, ...]]) -> str:
    """A Markdown table; columns of numbers are aligned to the right."""
    body = list(rows)
    right = [all(re.fullmatch(r"[\d.]*", row[place]) for row in body) for place in range(len(heads))]
    lines = [heads, tuple("---:" if number else "---" for number in right), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def pages() -> dict[Path, str]:
    """The two pages with up-to-date tables, by path."""
    tables = {
        "costs": costs_table(),
        "published": published_table(),
        "fits": fits_table(("orin-nano", "orin-nx", "agx-orin")),
    }
    found = {}
    for page in (DOCS / "estimate.md", DOCS / "jetson.md"):
        text = page.read_text(encoding="utf-8")
        for name, body in tables.items():
            block = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.S)
            text = block.sub(rf"\g<1>{body}\n\g<2>", text)
        found[page] = text
    return found


def main() -> int:
    """Writes the pages; prints bounds that are above published times."""
    for page, text in pages().items():
        page.write_text(text, encoding="utf-8")
    wrong = [row for row in PUBLISHED if bound(row) >= row.seconds]
    for row in wrong:
        print(f"{row.what} on {row.device}: estimate {bound(row):.3f} s, published {row.seconds:.3f} s")
    print(published_table())
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
