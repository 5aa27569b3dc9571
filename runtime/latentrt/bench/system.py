"""State of the system: processor load, clocks, temperatures, memory. Paths are under a root."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from latentrt.device.jetson import text
from latentrt.device.nvml import Nvml, NvmlError

ROOT = Path("/")


@dataclass(frozen=True)
class Moment:
    """The system at one moment; None for unknown facts.

    seconds: monotonic clock. busy_s: processor seconds of all processes, time that a host took from this virtual
    machine included. own_s: processor seconds of this process. clocks_mhz: of the fastest core and of the GPU.
    hottest_c: highest temperature. slowed: number of times that cores were throttled for heat. gpu_slowed: reasons why
    the GPU is throttled.
    """

    seconds: float
    busy_s: float | None
    own_s: float
    clocks_mhz: dict[str, float]
    hottest_c: float | None
    available_bytes: int | None
    slowed: int
    gpu_slowed: tuple[str, ...]


@dataclass(frozen=True)
class Span:
    """First, lowest, highest and last value of a figure."""

    first: float
    least: float
    most: float
    last: float


@dataclass(frozen=True)
class Conditions:
    """Conditions of the machine while pictures were generated; None for unknown facts.

    others: share of all cores that other processes or virtual machines used, 0 to 1. slowed: why clocks were throttled.
    least_available_bytes: lowest available memory. warnings: that this package logged, such as an engine's fallback.
    """

    others: float | None
    clocks_mhz: dict[str, Span]
    hottest_c: Span | None
    least_available_bytes: int | None
    slowed: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def read_moment(root: Path = ROOT, gpu: Nvml | None = None) -> Moment:
    """Returns the system's state now; takes well under a millisecond per core."""
    cpus = root / "sys/devices/system/cpu"
    slowed = [read_int(file) or 0 for file in cpus.glob("cpu[0-9]*/thermal_throttle/core_throttle_count")]
    heat = [read_int(file) for file in (root / "sys/class/thermal").glob("thermal_zone*/temp")]
    known = [millidegrees / 1000 for millidegrees in heat if millidegrees is not None]
    available = read_entries(root / "proc/meminfo").get("MemAvailable")
    times = os.times()
    return Moment(
        seconds=time.monotonic(),
        busy_s=busy_seconds(root),
        own_s=times.user + times.system + times.children_user + times.children_system,
        clocks_mhz=clocks(root, gpu),
        hottest_c=max(known, default=None),
        available_bytes=int(available.split()[0]) * 1024 if available else None,
        slowed=sum(slowed),
        gpu_slowed=gpu_slowed(gpu),
    )


def conditions(moments: Sequence[Moment], warnings: Sequence[str] = ()) -> Conditions:
    """Returns the conditions between the first and the last of two moments or more."""
    first, last = moments[0], moments[-1]
    names = [name for name in first.clocks_mhz if all(name in moment.clocks_mhz for moment in moments)]
    heats = [moment.hottest_c for moment in moments if moment.hottest_c is not None]
    available = [moment.available_bytes for moment in moments if moment.available_bytes is not None]
    slowed = {f"GPU: {reason}" for moment in moments for reason in moment.gpu_slowed}
    if last.slowed > first.slowed:
        slowed.add("processor: heat")
    return Conditions(
        others=others(first, last),
        clocks_mhz={name: span([moment.clocks_mhz[name] for moment in moments]) for name in names},
        hottest_c=span(heats) if heats else None,
        least_available_bytes=min(available, default=None),
        slowed=tuple(sorted(slowed)),
        warnings=tuple(dict.fromkeys(warnings)),
    )


def span(values: Sequence[float]) -> Span:
    """The span of values that are in the order of time."""
    return Span(values[0], min(values), max(values), values[-1])


def others(first: Moment, last: Moment) -> float | None:
    """The share of all cores, 0 to 1, that other processes used; None if unknown."""
    if first.busy_s is None or last.busy_s is None:
        return None
    used = (last.busy_s - first.busy_s) - (last.own_s - first.own_s)
    available = (last.seconds - first.seconds) * (os.cpu_count() or 1)
    return min(1.0, max(0.0, used / available)) if available > 0 else None


def busy_seconds(root: Path) -> float | None:
    """Busy seconds of all cores: user, nice, system, irq, softirq and steal in /proc/stat; None if unknown."""
    head, *counts = text(root / "proc/stat").partition("\n")[0].split() or [""]
    if head != "cpu" or len(counts) < 8:
        return None
    return sum(int(counts[i]) for i in (0, 1, 2, 5, 6, 7)) / os.sysconf("SC_CLK_TCK")


def clocks(root: Path, gpu: Nvml | None) -> dict[str, float]:
    """Clocks in MHz of the fastest core and of the GPU, without unknown ones."""
    files = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq")
    cores = [kilohertz / 1000 for file in files if (kilohertz := read_int(file)) is not None]
    found = {"processor": max(cores)} if cores else {}
    # A Jetson's GPU: "17000000.gpu" on Orin, "gpu-gpc-0" on Thor.
    for folder in sorted((root / "sys/class/devfreq").glob("*")):
        if ("gpu" in folder.name or "gp10b" in folder.name) and (hertz := read_int(folder / "cur_freq")) is not None:
            found.setdefault("GPU", hertz / 1e6)
    if gpu is not None:
        try:
            found["GPU"] = float(gpu.sm_mhz)
        except NvmlError:
            pass
    return found


def gpu_slowed(gpu: Nvml | None) -> tuple[str, ...]:
    """Reasons why the GPU is throttled; empty if it is not, or does not tell."""
    try:
        return tuple(sorted(gpu.slowed)) if gpu else ()
    except NvmlError:
        return ()


def read_entries(path: Path) -> dict[str, str]:
    """Values by name in a file with lines such as "MemTotal: 8000 kB"."""
    lines = (line.partition(":") for line in text(path).splitlines())
    return {name.strip(): value.strip() for name, _, value in lines if value}


def read_int(path: Path) -> int | None:
    """The whole number in a file; None if there is none."""
    try:
        return int(text(path))
    except ValueError:
        return None
