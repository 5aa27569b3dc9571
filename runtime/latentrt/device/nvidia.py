"""NVIDIA's driver and GPUs, read through the driver's own library; no package is needed."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from ctypes import byref, c_char, c_int
from dataclasses import dataclass
from typing import Any

from latentrt.device.nvml import open_nvml

LIBRARY = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"
# Cause and remedy by CUresult of cuda.h.
FAILURES = {
    100: "the driver finds no GPU; check `nvidia-smi` and CUDA_VISIBLE_DEVICES",
    803: "the driver's library and the loaded kernel module have different versions; reboot",
    804: "this GPU needs a driver of its own version; remove the cuda-compat package",
}


@dataclass(frozen=True)
class Nvidia:
    """NVIDIA driver and GPUs. driver: version. cuda: newest CUDA that it runs. problem: why no GPU can be used."""

    driver: str | None = None
    cuda: tuple[int, int] | None = None
    gpus: tuple[str, ...] = ()
    problem: str | None = None


def read_nvidia(open_library: Callable[[str], Any] = ctypes.CDLL) -> Nvidia:
    """Returns driver and GPUs. open_library: opens the driver's library by name, or raises OSError."""
    try:
        library = open_library(LIBRARY)
    except OSError:
        return Nvidia(problem=f"no NVIDIA driver ({LIBRARY} is not found); install one that suits the GPU")
    version = c_int()
    library.cuDriverGetVersion(byref(version))
    cuda = (version.value // 1000, version.value % 1000 // 10)
    nvml = open_nvml()
    driver = nvml.driver if nvml else None
    if status := library.cuInit(0):
        known = FAILURES.get(status, "see `nvidia-smi`, and install the driver again")
        return Nvidia(driver, cuda, problem=f"cuInit failed with {status}: {known}")
    return Nvidia(driver, cuda, names(library))


def names(library: Any) -> tuple[str, ...]:
    """The names of the visible GPUs."""
    count, found = c_int(), []
    library.cuDeviceGetCount(byref(count))
    for index in range(count.value):
        device, name = c_int(), (c_char * 96)()
        library.cuDeviceGet(byref(device), index)
        library.cuDeviceGetName(name, len(name), device)
        found.append(name.value.decode(errors="replace"))
    return tuple(found)
