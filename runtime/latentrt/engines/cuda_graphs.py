"""The option of CUDA graphs: one launch replays all kernels of a call whose shapes and addresses stay the same."""

from __future__ import annotations

import os

from latentrt.errors import EngineError

VARIABLE = "LATENTRT_CUDA_GRAPH"
ON, OFF = ("", "1"), "0"


def wanted() -> bool:
    """Whether engines on an NVIDIA GPU may use CUDA graphs: unless LATENTRT_CUDA_GRAPH is 0.

    Raises EngineError for any other value than 0 and 1.
    """
    value = os.environ.get(VARIABLE, "")
    if value not in (*ON, OFF):
        raise EngineError(f"{VARIABLE}: got {value!r}, expected 0 for no CUDA graphs, or 1; unset it")
    return value in ON
