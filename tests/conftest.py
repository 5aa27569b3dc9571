"""Gives each of several test processes a core of its own: engines and torch take as many threads as they see cores.

Draws with ONNX Runtime where a test names no engine: which one is the fastest would be measured for every small bundle,
and may be another on the next machine. Signs what it caches with a secret of its own, not with the user's.
"""

import os
import tempfile

import pytest

from latentrt.engines import VARIABLE
from latentrt.engines.telemetry import silence


def pytest_configure(config: pytest.Config) -> None:
    silence()  # tests import ONNX Runtime by themselves
    os.environ[VARIABLE] = "onnxruntime"
    worker = getattr(config, "workerinput", None)
    if worker is None:  # workers inherit it
        state = tempfile.TemporaryDirectory()
        config.add_cleanup(state.cleanup)
        os.environ["XDG_STATE_HOME"] = state.name
    if worker and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker["workerid"].removeprefix("gw")) % len(cores)]})
