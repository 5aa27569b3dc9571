"""Resident memory of this process: now, and its peak since a reset."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from latentrt.bench.system import read_entries

SELF = Path("/proc/self")


@dataclass(frozen=True)
class Memory:
    """Memory of a case in bytes; None if unknown.

    before: resident before the bundle was opened, for Python and packages. loaded: resident once graphs are loaded,
    before the first run. peak: highest resident memory while pictures were generated, mapped weights included. gpu:
    growth of the GPU's used memory in that time. reckoned: estimated peak; None without a memory budget.
    """

    before: int | None
    loaded: int | None
    peak: int | None
    gpu: int | None = None
    reckoned: int | None = None


def resident() -> int | None:
    """Bytes resident now."""
    return status_bytes("VmRSS")


def peak() -> int | None:
    """Peak of resident bytes since `reset_peak`."""
    return status_bytes("VmHWM")


def reset_peak() -> bool:
    """Resets the peak to the memory resident now. Returns False if that fails, as on systems other than Linux."""
    try:
        (SELF / "clear_refs").write_text("5")
    except OSError:
        return False
    return True


def status_bytes(name: str) -> int | None:
    """An entry of /proc/self/status, in bytes; None if there is none."""
    value = read_entries(SELF / "status").get(name)
    return int(value.split()[0]) * 1024 if value else None
