"""Imports of ONNX Runtime and OpenVINO with their telemetry switched off. All other modules import them from here.

Both decide on telemetry when they are imported. If a program imports one of them first, its settings hold
(docs/privacy.md).
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
from types import ModuleType

from latentrt.errors import EngineError

# Unless this is set before the import, ONNX Runtime 1.31 stores a machine id in the user's cache and reports runs to
# Microsoft, on Linux and macOS too. To allow that, set it to 0.
VARIABLE = "ORT_DISABLE_TELEMETRY"
# The package with which OpenVINO reports to Google Analytics, from a forked process; without it, OpenVINO uses a stub.
REPORTER = "openvino_telemetry"

importing = threading.RLock()


def silence() -> None:
    """Switches off ONNX Runtime's telemetry, unless it is already imported or the user set the variable."""
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
        sys.modules[REPORTER] = None  # type: ignore[assignment]  # None makes the import fail
        try:
            return imported("openvino")
        finally:
            if before is not None:
                sys.modules[REPORTER] = before


def imported(package: str) -> ModuleType:
    """Imports an engine's package. Raises EngineError if that fails."""
    try:
        return importlib.import_module(package)
    except (ImportError, OSError) as error:  # OSError: a library that it loads
        raise EngineError(
            f"{package} is installed but cannot be imported ({error}); reinstall it for this Python"
        ) from error
