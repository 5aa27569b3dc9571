"""Memory that this process takes: now, and the most since it was asked to start anew."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from latentrt.bench.system import fields

SELF = Path("/proc/self")


@dataclass(frozen=True)
class Memory:
    """Bytes; None where the system does not tell.

    before: resident, of Python and its packages, before the bundle was opened. loaded: with every graph loaded, where
    they stay, and nothing run yet. peak: the most while pictures were made, the rest of the process and mapped weights
    included. gpu: what the GPU's memory was filled by in that time. reckoned: the peak that was planned with, None
    without a budget.
    """

    before: int | None
    loaded: int | None
    peak: int | None
    gpu: int | None = None
    reckoned: int | None = None


def resident() -> int | None:
    """Bytes resident now."""
    return kibibytes("VmRSS")


def peak() -> int | None:
    """The most bytes resident since `restart_peak`."""
    return kibibytes("VmHWM")


def restart_peak() -> bool:
    """Has the peak start from what is resident now. False where the system, which is then no Linux, cannot."""
    try:
        (SELF / "clear_refs").write_text("5")
    except OSError:
        return False
    return True


def kibibytes(name: str) -> int | None:
    """An entry of /proc/self/status in bytes."""
    value = fields(SELF / "status").get(name)
    return int(value.split()[0]) * 1024 if value else None
