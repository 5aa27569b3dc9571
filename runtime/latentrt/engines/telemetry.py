"""ONNX Runtime and OpenVINO as they are imported here, the one place that does so: neither reports on who runs them.

Both decide when they are imported. A program that imported one of them before has decided by itself (docs/privacy.md).
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
from types import ModuleType

from latentrt.errors import EngineError

# ONNX Runtime 1.31 gives the machine a number, keeps it in the user's cache and reports runs to Microsoft, on Linux and
# macOS too, unless this is set before it is imported. Who wants that sets it to 0.
VARIABLE = "ORT_DISABLE_TELEMETRY"
# What OpenVINO reports with, to Google Analytics, from a process that it forks; without it, it has a stub.
REPORTER = "openvino_telemetry"

importing = threading.RLock()


def silence() -> None:
    """Has ONNX Runtime report nothing, if it is not imported yet and the user has not said otherwise."""
    os.environ.setdefault(VARIABLE, "1")


def onnxruntime() -> ModuleType:
    """ONNX Runtime's module. Raises EngineError if it cannot be imported."""
    silence()
    return imported("onnxruntime")


def openvino() -> ModuleType:
    """OpenVINO's module, which is slow to import. Raises EngineError if it cannot be imported."""
    with importing:
        if "openvino" in sys.modules:
            return imported("openvino")
        before = sys.modules.get(REPORTER)
        sys.modules[REPORTER] = None  # type: ignore[assignment]  # Python's own way to say that there is none
        try:
            return imported("openvino")
        finally:
            if before is not None:
                sys.modules[REPORTER] = before


def imported(package: str) -> ModuleType:
    """The module of an engine's package. Raises EngineError if it cannot be imported."""
    try:
        return importlib.import_module(package)
    except (ImportError, OSError) as error:  # OSError: a library that it loads
        raise EngineError(
            f"{package} is installed but cannot be imported ({error}); reinstall it for this Python"
        ) from error
