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

from benchmarks.costs import load_entries
from benchmarks.pictures import COSTS, WIDE, pictures
from benchmarks.published import PUBLISHED, Published
from latentrt_export.estimate.devices import DEVICES
from latentrt_export.estimate.estimate import estimate
from latentrt_export.estimate.roofline import PRECISIONS, PrecisionName, roofline

DOCS = Path(__file__).parents[1] / "docs"


def bound(row: Published) -> float:
    """Lower bound in seconds for a published figure. The VAE is fp32 in MLPerf's Orin rows, else fp16."""
    total = 0.0
    for name, times in row.graphs.items():
        unet = "/unet/" in name
        precision: PrecisionName = row.precision if unet else WIDE if row.device == "agx-orin" else "fp16"
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
    for model, picture in pictures().items():
        for precision in picture.precisions:
            for name in names:
                found = estimate(picture.calls, precision, DEVICES[name])
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
                        str(picture.steps),
                        f"{found.step.seconds * 1e3:.0f}",
                        f"{found.seconds:.1f}",
                    )
                )
    heads = ("model", "precision", "device", "weights GB", "all loaded GB", "one at a time GB", "room GB", "fits")
    return table((*heads, "steps", "ms per step, at least", "s, at least"), rows)


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
