"""Time of a UNet call on a CPU engine per type of operator, by the engine's own counters.

    python -m benchmarks.operators BUNDLE [--engine onnxruntime] [--size 512x512] [--calls 2]

The call is that for one image with guidance; the last one of --calls is counted.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from onnxruntime import GraphOptimizationLevel, InferenceSession

from benchmarks.machine import machine, one_line
from latentrt.bundle.catalog import folder_of
from latentrt.bundle.folder import Bundle, open_bundle
from latentrt.engines import open_engines
from latentrt.engines.onnx.session import new_options
from latentrt.tensors import Array, shape_of

# Pairs of operator type and seconds.
Spent = Iterator[tuple[str, float]]


def by_onnxruntime(bundle: Bundle, feeds: Mapping[str, Array], calls: int) -> Spent:
    """Seconds of each node of the graph that the engine runs, from ONNX Runtime's profile."""
    engine = open_engines("onnxruntime", bundle)["unet"]
    options = new_options()
    if engine.optimised:
        options.graph_optimization_level = GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = f"{folder}/profile"
        session = InferenceSession(engine.path, options, providers=["CPUExecutionProvider"])
        for _ in range(calls):
            session.run(None, dict(feeds))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    nodes = [event for event in events if event["cat"] == "Node" and event["name"].endswith("_kernel_time")]
    for node in nodes[-len(nodes) // calls :]:
        yield node["args"]["op_name"], node["dur"] / 1e6


def by_openvino(bundle: Bundle, feeds: Mapping[str, Array], calls: int) -> Spent:
    """Seconds of each node of the compiled graph, from OpenVINO's counters."""
    engine: Any = open_engines("openvino", bundle)["unet"]
    settings = engine.settings()
    engine.settings = lambda: {**settings, "PERF_COUNT": True}
    for _ in range(calls):
        engine(feeds)
    for node in engine.request.get_profiling_info():
        yield f"{node.node_type} ({node.exec_type})", node.real_time.total_seconds()


ENGINES: dict[str, Callable[[Bundle, Mapping[str, Array], int], Spent]] = {
    "onnxruntime": by_onnxruntime,
    "openvino": by_openvino,
}


def feeds_of(bundle: Bundle, width: int, height: int) -> dict[str, Array]:
    """Random inputs of the UNet, for one image with guidance."""
    pixels, random = bundle.manifest.latents.factor, np.random.default_rng(0)
    sizes = {
        "batch": 2,
        "height": height // pixels,
        "width": width // pixels,
        "tokens": bundle.manifest.tokenizer.length,
    }
    inputs = bundle.manifest.components["unet"].inputs
    return {spec.name: random.standard_normal(shape_of(spec, sizes)).astype(spec.dtype) for spec in inputs}


def table(spent: Spent, least: float = 0.005) -> str:
    """Seconds and shares per operator type, in Markdown; types with less than the share `least` are one line."""
    seconds, counts = Counter[str](), Counter[str]()
    for kind, took in spent:
        name = kind if took else "not executed"
        seconds[name] += took
        counts[name] += 1
    whole = sum(seconds.values())
    shown = [kind for kind, took in seconds.most_common() if took >= least * whole]
    lines = ["| operator | nodes | s | share |", "|---|---|---|---|"]
    lines += [f"| {kind} | {counts[kind]} | {seconds[kind]:.2f} | {seconds[kind] / whole:.1%} |" for kind in shown]
    rest = whole - sum(seconds[kind] for kind in shown)
    return "\n".join([*lines, f"| all else | | {rest:.2f} | {rest / whole:.1%} |", f"| together | | {whole:.2f} | |"])


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--engine", choices=ENGINES, default="onnxruntime")
    parser.add_argument("--size", default="512x512")
    parser.add_argument("--calls", type=int, default=2)
    given = parser.parse_args()
    bundle = open_bundle(folder_of(given.bundle), verify=False)
    width, height = map(int, given.size.split("x"))
    print(one_line(machine()), end="\n\n")
    print(table(ENGINES[given.engine](bundle, feeds_of(bundle, width, height), given.calls)))


if __name__ == "__main__":
    main()
