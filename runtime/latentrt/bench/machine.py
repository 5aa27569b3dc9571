"""Facts of the machine that a report names: processor, memory, GPU, system, versions. None if unknown."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.metadata import packages_distributions
from pathlib import Path

from latentrt.bench.diagnosis import installed, package_of
from latentrt.bench.system import ROOT, read_int
from latentrt.device.cores import usable_cores
from latentrt.device.cpu import processor
from latentrt.device.jetson import Jetson, read_jetson, text
from latentrt.device.meminfo import memory
from latentrt.device.nvml import Nvml


@dataclass(frozen=True)
class Machine:
    """A machine and its software.

    processor: name and a digest of its instruction sets. cores: cores that this process may use, of `all_cores`.
    governor: frequency governor of the processor. most_mhz: highest frequency that it may set. gpu, driver: NVIDIA's.
    power_mode: a Jetson's, by nvpmodel. packages: versions by name.
    """

    processor: str
    cores: int
    all_cores: int
    memory_bytes: int | None
    governor: str | None
    most_mhz: float | None
    board: str | None
    jetpack: str | None
    power_mode: str | None
    gpu: str | None
    driver: str | None
    system: str
    python: str
    packages: dict[str, str]

    @property
    def name(self) -> str:
        """The machine in a few words."""
        processor = f"{self.processor}, {self.cores} of {self.all_cores} cores"
        return ", ".join(filter(None, (self.board, processor, self.gpu, self.power_mode)))


def machine(engine: str, root: Path = ROOT, gpu: Nvml | None = None) -> Machine:
    """Returns the facts of this machine and the version of the engine's package. root: root of the system's files."""
    cpu = root / "sys/devices/system/cpu/cpu0/cpufreq"
    known, board = memory(root / "proc/meminfo"), read_jetson(root)
    most = read_int(cpu / "scaling_max_freq")
    packages = {name: installed(name) for name in ("latentrt", "numpy", package_of(engine, packages_distributions()))}
    return Machine(
        processor=processor(root / "proc/cpuinfo"),
        cores=usable_cores(),
        all_cores=os.cpu_count() or 1,
        memory_bytes=known["total_bytes"] if known else None,
        governor=text(cpu / "scaling_governor").strip() or None,
        most_mhz=most / 1000 if most else None,
        board=board.model if board else None,
        jetpack=board.jetpack if board else None,
        power_mode=power_mode(board),
        gpu=gpu.name if gpu else None,
        driver=gpu.driver if gpu else None,
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        packages={name: version for name, version in packages.items() if version},
    )


def power_mode(board: Jetson | None) -> str | None:
    """The name or number of a Jetson's power mode."""
    mode = board.power_mode if board else None
    return None if mode is None else mode.name or f"mode {mode.id}"
