"""Why tests that need an NVIDIA GPU are skipped."""

from latentrt.engines.nvidia import cuda
from latentrt.errors import EngineError


def without_gpu() -> str:
    """The reason to skip tests of a GPU; empty with one."""
    try:
        cuda.current_device()
    except EngineError as error:
        return str(error)
    return ""
