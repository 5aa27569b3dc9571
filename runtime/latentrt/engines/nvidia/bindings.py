"""Python bindings of NVIDIA's runtimes: TensorRT, TensorRT lean and TensorRT-RTX, one row per variant."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import re
from collections import deque
from dataclasses import dataclass
from typing import Any

from latentrt.errors import EngineError

log = logging.getLogger(__name__)

SEVERITIES = {
    "INTERNAL_ERROR": logging.ERROR,
    "ERROR": logging.ERROR,
    "WARNING": logging.WARNING,
    "INFO": logging.INFO,
    "VERBOSE": logging.DEBUG,
}


@dataclass(frozen=True)
class RuntimeVariant:
    """One of NVIDIA's runtimes.

    name: the engine's, and the variant's key in `VARIANTS`. modules: import names of the bindings, the most complete
    first. oldest, below: supported versions, from `oldest` up to but not including `below`. install: advice if it is
    missing. jit: kernels are compiled when a plan is loaded and kept in a runtime cache; a plan runs on any GPU of its
    architecture.
    """

    name: str
    modules: tuple[str, ...]
    oldest: tuple[int, int]
    below: tuple[int, int]
    install: str
    jit: bool = False


VARIANTS = {
    variant.name: variant
    for variant in (
        RuntimeVariant(
            "tensorrt",
            ("tensorrt", "tensorrt_bindings", "tensorrt_lean", "tensorrt_lean_bindings"),
            (10, 3),
            (12, 0),
            "run `pip install 'latentrt[tensorrt]'`; on a Jetson it comes with JetPack 6.1 or later",
        ),
        RuntimeVariant(
            "tensorrt-rtx",
            ("tensorrt_rtx", "tensorrt_rtx_bindings"),
            (1, 4),
            (2, 0),
            "run `pip install 'latentrt[rtx]'`",
            jit=True,
        ),
    )
}


def import_bindings(variant: RuntimeVariant) -> Any:
    """Imports the bindings. Raises EngineError if that fails, or their version is not supported."""
    names = [name for name in variant.modules if importlib.util.find_spec(name)]
    if not names:
        raise EngineError(f"{variant.name}: got none of {', '.join(variant.modules)} installed; {variant.install}")
    try:
        trt = importlib.import_module(names[0])
    except (ImportError, OSError) as error:  # a library that the bindings load is missing
        raise EngineError(
            f"{variant.name}: {names[0]} is installed but cannot be imported ({error}); {variant.install}"
        ) from error
    if not variant.oldest <= version_of(trt.__version__) < variant.below:
        oldest, below = (".".join(map(str, version)) for version in (variant.oldest, variant.below))
        raise EngineError(
            f"{variant.name}: got version {trt.__version__} of {names[0]}, expected {oldest} or later, before {below}; "
            + variant.install
        )
    return trt


def version_of(text: str) -> tuple[int, int]:
    """Major and minor number of a version such as "10.16.2.10"."""
    major, minor, *_ = (*map(int, re.findall(r"\d+", text)), 0, 0)
    return major, minor


class LogCapture:
    """Log of NVIDIA's software: the last errors are kept for messages; every line goes to Python's logging."""

    def __init__(self, trt: Any) -> None:
        self.errors: deque[str] = deque(maxlen=8)
        severities = {getattr(trt.ILogger.Severity, name): level for name, level in SEVERITIES.items()}
        errors = self.errors

        class Logger(trt.ILogger):  # type: ignore[misc]  # the base class is a run-time value
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, msg: str) -> None:
                level = severities.get(severity, logging.ERROR)
                if level >= logging.ERROR:
                    errors.append(msg.strip())
                # Only at DEBUG: errors also reach the user, in an exception that quotes the line.
                log.debug("%s: %s", getattr(severity, "name", severity), msg)

        self.logger = Logger()

    def drain(self) -> str:
        """Returns the errors since the last call, on one line, and forgets them."""
        text = " | ".join(self.errors) or "it gave no reason"
        self.errors.clear()
        return text
