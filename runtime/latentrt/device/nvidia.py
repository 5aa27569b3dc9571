"""NVIDIA's driver and GPUs as the driver's own library tells of them: no package is needed, and none is imported."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from ctypes import byref, c_char, c_int
from dataclasses import dataclass
from typing import Any

from latentrt.device.nvml import open_nvml

LIBRARY = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"
# CUresult of cuda.h, and what to do.
FAILURES = {
    100: "the driver finds no GPU; check `nvidia-smi` and CUDA_VISIBLE_DEVICES",
    803: "the driver's library is not of the version that the kernel has loaded; reboot",
    804: "this GPU needs a driver of its own version; remove the cuda-compat package",
}


@dataclass(frozen=True)
class Nvidia:
    """What there is. driver: its version. cuda: the newest that it runs. problem: why no GPU can be used."""

    driver: str | None = None
    cuda: tuple[int, int] | None = None
    gpus: tuple[str, ...] = ()
    problem: str | None = None


def read_nvidia(opened: Callable[[str], Any] = ctypes.CDLL) -> Nvidia:
    """Returns what the driver says. opened: gives its library, or raises OSError."""
    try:
        library = opened(LIBRARY)
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
    """The names of the GPUs that programs see."""
    count, found = c_int(), []
    library.cuDeviceGetCount(byref(count))
    for index in range(count.value):
        device, name = c_int(), (c_char * 96)()
        library.cuDeviceGet(byref(device), index)
        library.cuDeviceGetName(name, len(name), device)
        found.append(name.value.decode(errors="replace"))
    return tuple(found)
