"""Facts about the machine of a measurement, and statistics of a figure over several runs."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Sequence
from importlib.metadata import version

from latentrt.device.cpu import processor


def machine() -> dict[str, object]:
    """The date, the processor, how busy it was, and the versions."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{package: version(package) for package in ("numpy", "onnxruntime", "latentrt")},
    }


def one_line(about: dict[str, object]) -> str:
    """The facts of `machine` in one line, for the head of a table."""
    return ", ".join(f"{key} {value}" for key, value in about.items())


def spread_of(samples: Sequence[float]) -> dict[str, float]:
    """Minimum, median, 90th percentile and maximum of some figures, rounded to a millionth."""
    tenth = statistics.quantiles(samples, n=10, method="inclusive")[-1] if len(samples) > 1 else samples[0]
    figures = {"min": min(samples), "median": statistics.median(samples), "p90": tenth, "max": max(samples)}
    return {name: round(figure, 6) for name, figure in figures.items()}
