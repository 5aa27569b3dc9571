"""Loads a graph in ONNX Runtime or OpenVINO, calls it once on a CPU and writes the first output to a file.

    python benchmarks/call_graph.py onnxruntime|openvino GRAPH FEEDS.npz OUTPUT.npy

Needs only NumPy and the engine, so an interpreter without latentrt can run it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Feeds = Mapping[str, Any]


def in_onnxruntime(graph: str, feeds: Feeds) -> Any:
    """The first output, from ONNX Runtime with its defaults."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return session.run(None, dict(feeds))[0]


def in_openvino(graph: str, feeds: Feeds) -> Any:
    """The first output, from OpenVINO. Float32 is set; otherwise OpenVINO would use bf16 on CPUs that have it."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # it reports to Google
    import openvino

    compiled = openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return compiled(dict(feeds))[0]


ENGINES: dict[str, Callable[[str, Feeds], Any]] = {"onnxruntime": in_onnxruntime, "openvino": in_openvino}


def main(engine: str, graph: str, feeds: str, output: str) -> None:
    """Calls the graph and saves its first output."""
    with np.load(feeds) as arrays:
        np.save(output, ENGINES[engine](graph, dict(arrays)))


if __name__ == "__main__":
    main(*sys.argv[1:])
