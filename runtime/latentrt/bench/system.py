"""What the system says of a moment: who keeps the processor busy, clocks, heat, memory. Files are under a root."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from latentrt.device.jetson import text
from latentrt.device.nvml import Nvml, NvmlError

HERE = Path("/")


@dataclass(frozen=True)
class Moment:
    """The system at a moment; None for what it does not tell.

    seconds: of a clock that only grows. busy_s, own_s: what all processes and this one have taken of the processor's
    cores, time that a host took from a virtual machine included in the first. clocks_mhz: of the fastest core, and of
    the GPU. hottest_c: the highest of all temperatures. slowed: how often cores were slowed down for heat.
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
    """From the least to the most of a figure, and what it was first and last."""

    first: float
    least: float
    most: float
    last: float


@dataclass(frozen=True)
class Conditions:
    """How the machine was while pictures were made; None for what it does not tell.

    others: the share of all cores that other processes, or another virtual machine, took, 0 to 1. slowed: why clocks
    were lowered. least_available_bytes: of memory. warnings: what this package logged on the way, such as that an
    engine had to fall back.
    """

    others: float | None
    clocks_mhz: dict[str, Span]
    hottest_c: Span | None
    least_available_bytes: int | None
    slowed: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def look(root: Path = HERE, gpu: Nvml | None = None) -> Moment:
    """Returns the system as it is now; takes well under a millisecond a core."""
    cpus = root / "sys/devices/system/cpu"
    slowed = [number(file) or 0 for file in cpus.glob("cpu[0-9]*/thermal_throttle/core_throttle_count")]
    heat = [number(file) for file in (root / "sys/class/thermal").glob("thermal_zone*/temp")]
    known = [millidegrees / 1000 for millidegrees in heat if millidegrees is not None]
    available = fields(root / "proc/meminfo").get("MemAvailable")
    times = os.times()
    return Moment(
        seconds=time.monotonic(),
        busy_s=busy(root),
        own_s=times.user + times.system + times.children_user + times.children_system,
        clocks_mhz=clocks(root, gpu),
        hottest_c=max(known, default=None),
        available_bytes=int(available.split()[0]) * 1024 if available else None,
        slowed=sum(slowed),
        gpu_slowed=gpu_slowed(gpu),
    )


def conditions(moments: Sequence[Moment], warnings: Sequence[str] = ()) -> Conditions:
    """Returns what two moments or more tell of the time between the first and the last."""
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
    """The ends of some figures in order."""
    return Span(values[0], min(values), max(values), values[-1])


def others(first: Moment, last: Moment) -> float | None:
    """The share of all cores, 0 to 1, that was not idle and not this process's own."""
    if first.busy_s is None or last.busy_s is None:
        return None
    taken = (last.busy_s - first.busy_s) - (last.own_s - first.own_s)
    whole = (last.seconds - first.seconds) * (os.cpu_count() or 1)
    return min(1.0, max(0.0, taken / whole)) if whole > 0 else None


def busy(root: Path) -> float | None:
    """Seconds that all cores together were not idle: /proc/stat's user, nice, system, irq, softirq and steal."""
    head, *counts = text(root / "proc/stat").partition("\n")[0].split() or [""]
    if head != "cpu" or len(counts) < 8:
        return None
    return sum(int(counts[i]) for i in (0, 1, 2, 5, 6, 7)) / os.sysconf("SC_CLK_TCK")


def clocks(root: Path, gpu: Nvml | None) -> dict[str, float]:
    """Clocks in MHz: of the fastest core, where the system scales them, and of the GPU."""
    files = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq")
    cores = [kilohertz / 1000 for file in files if (kilohertz := number(file)) is not None]
    found = {"processor": max(cores)} if cores else {}
    # A Jetson's GPU: "17000000.gpu" on Orin, "gpu-gpc-0" on Thor.
    for folder in sorted((root / "sys/class/devfreq").glob("*")):
        if ("gpu" in folder.name or "gp10b" in folder.name) and (hertz := number(folder / "cur_freq")) is not None:
            found.setdefault("GPU", hertz / 1e6)
    if gpu is not None:
        try:
            found["GPU"] = float(gpu.sm_mhz)
        except NvmlError:
            pass
    return found


def gpu_slowed(gpu: Nvml | None) -> tuple[str, ...]:
    """Why the GPU runs below its clocks; nothing where it does not say."""
    try:
        return tuple(sorted(gpu.slowed)) if gpu else ()
    except NvmlError:
        return ()


def fields(path: Path) -> dict[str, str]:
    """The entries of a file such as /proc/meminfo: lines of a name, a colon and a value."""
    lines = (line.partition(":") for line in text(path).splitlines())
    return {name.strip(): value.strip() for name, _, value in lines if value}


def number(path: Path) -> int | None:
    """The whole number in a file of the system; None where there is none to be read."""
    try:
        return int(text(path))
    except ValueError:
        return None
