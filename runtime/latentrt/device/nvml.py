"""NVIDIA's management library (NVML) for benchmarks, from the driver, without a package. A Jetson has none."""

from __future__ import annotations

import ctypes
from ctypes import byref, c_char, c_uint, c_ulonglong, c_void_p
from typing import Any

LIBRARY = "libnvidia-ml.so.1"
SM_CLOCK = 1  # NVML_CLOCK_SM
# NVML_CLOCKS_EVENT_REASON_*: reasons for throttling.
SLOWED = {0x04: "power limit", 0x08: "hardware slowdown", 0x20: "heat", 0x40: "heat", 0x80: "power brake"}


class NvmlError(OSError):
    """A failed call of the library."""


class Memory(ctypes.Structure):
    """nvmlMemory_t."""

    _fields_ = [("total", c_ulonglong), ("free", c_ulonglong), ("used", c_ulonglong)]


class Nvml:
    """One GPU. library: from `ctypes.CDLL`."""

    def __init__(self, library: Any, index: int = 0) -> None:
        """Raises NvmlError if there is no such GPU."""
        self.library, self.handle = library, c_void_p()
        self.call("nvmlInit_v2")
        self.call("nvmlDeviceGetHandleByIndex_v2", c_uint(index), byref(self.handle))

    def call(self, function: str, *arguments: Any) -> None:
        """Calls a function. Raises NvmlError with its name if it fails or this driver does not have it."""
        try:
            status = getattr(self.library, function)(*arguments)
        except AttributeError as error:
            raise NvmlError(f"{function} is not in {LIBRARY}") from error
        if status:
            raise NvmlError(f"{function} failed with {status}")

    def number(self, function: str, *arguments: Any, kind: Any = c_uint) -> int:
        """The number that a function returns for this GPU."""
        value = kind()
        self.call(function, self.handle, *arguments, byref(value))
        return int(value.value)

    def string(self, function: str, *arguments: Any) -> str:
        """The text that a function returns."""
        value = (c_char * 96)()
        self.call(function, *arguments, value, c_uint(len(value)))
        return value.value.decode()

    @property
    def name(self) -> str:
        """The name of the GPU."""
        return self.string("nvmlDeviceGetName", self.handle)

    @property
    def driver(self) -> str:
        """The version of the driver."""
        return self.string("nvmlSystemGetDriverVersion")

    @property
    def sm_mhz(self) -> int:
        """Current clock of the multiprocessors, in MHz."""
        return self.number("nvmlDeviceGetClockInfo", c_uint(SM_CLOCK))

    @property
    def used_bytes(self) -> int:
        """Memory of the GPU that all processes use, in bytes."""
        memory = Memory()
        self.call("nvmlDeviceGetMemoryInfo", self.handle, byref(memory))
        return int(memory.used)

    @property
    def slowed(self) -> set[str]:
        """Reasons why the GPU is throttled now; empty if it is not."""
        reasons = self.number("nvmlDeviceGetCurrentClocksThrottleReasons", kind=c_ulonglong)
        return {reason for bit, reason in SLOWED.items() if reasons & bit}

    def millijoules(self) -> int:
        """Energy of the GPU since the driver was loaded, in mJ."""
        return self.number("nvmlDeviceGetTotalEnergyConsumption", kind=c_ulonglong)


def open_nvml() -> Nvml | None:
    """The first GPU; None without a driver, without a GPU, or if its name cannot be read."""
    try:
        gpu = Nvml(ctypes.CDLL(LIBRARY))
        return gpu if gpu.name and gpu.driver else None
    except OSError:
        return None
