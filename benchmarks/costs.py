"""Costs of public models, counted from their graphs and stored in costs.json, so that tests need no export."""

from __future__ import annotations

import json
from dataclasses import astuple
from pathlib import Path
from typing import Any

from latentrt_export.graph.costs import Cost, LayerWork

FILE = Path(__file__).parent / "costs.json"


def load_costs() -> dict[str, Cost]:
    """Returns the cost of every counted graph, by "model/component/latent size/batch"."""
    return {name: read(entry) for name, entry in load_entries().items()}


def load_entries() -> dict[str, dict[str, Any]]:
    """Returns the stored entries, with torch's count too."""
    entries: dict[str, dict[str, Any]] = json.loads(FILE.read_text())
    return entries


def read(entry: dict[str, Any]) -> Cost:
    """Returns the cost in an entry."""
    work = {
        LayerWork(kind, macs, weights, tuple(reads), writes): n
        for n, kind, macs, weights, reads, writes in entry["work"]
    }
    return Cost(work, entry["parameters"], entry["live"])


def write(cost: Cost) -> dict[str, Any]:
    """Returns the entry from which `read` makes the cost: work in the order of the graph, each kind once."""
    work = [[count, *astuple(one)] for one, count in cost.work.items()]
    return {"macs": cost.macs, "parameters": cost.parameters, "live": cost.activation_elements, "work": work}


def save_entries(entries: dict[str, dict[str, Any]]) -> None:
    """Writes costs.json, with a line per piece of work."""
    text = json.dumps(entries, indent=1)
    FILE.write_text(one_line_a_work(text) + "\n")


def one_line_a_work(text: str) -> str:
    """Returns the JSON with each list inside `work` joined to one line."""
    lines: list[str] = []
    depth = 0
    for line in text.splitlines():
        stripped = line.strip()
        if depth:
            lines[-1] += stripped if stripped in ("]", "],") or lines[-1].endswith("[") else f" {stripped}"
        else:
            lines.append(line)
        opened = stripped.endswith("[") and not stripped.startswith('"work"')
        depth += opened - (depth > 0 and stripped in ("]", "],"))
    return "\n".join(lines)
