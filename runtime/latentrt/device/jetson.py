"""Model and setup of a Jetson, read from its files, and the models that fit its available memory.

No program is run and no root rights are needed. All paths are under a root folder, so that a copy of another device's
files can be read too.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

# Module names by part number in the device tree, from NVIDIA's Jetson Linux developer guide and Linux's tegra.yaml.
MODULES = {
    "p3767-0000": "Orin NX 16GB",
    "p3767-0001": "Orin NX 8GB",
    "p3767-0003": "Orin Nano 8GB",
    "p3767-0004": "Orin Nano 4GB",
    "p3767-0005": "Orin Nano 8GB",
    "p3701-0000": "AGX Orin",
    "p3701-0004": "AGX Orin 32GB",
    "p3701-0005": "AGX Orin 64GB",
    "p3701-0008": "AGX Orin Industrial",
    "p3834-0008": "T5000 (Thor)",
    "p3668-0000": "Xavier NX",
    "p3668-0001": "Xavier NX",
    "p2888-0001": "AGX Xavier",
    "p3448-0000": "Nano",
    "p3448-0002": "Nano",
}

# JetPack by the longest matching prefix of the L4T version: developer.nvidia.com/embedded/jetpack-archive.
JETPACKS = {
    "32": "4",
    "34": "5.0",
    "35": "5",
    "36.2": "6.0",
    "36.3": "6.0",
    "36.4": "6.1",
    "36.4.3": "6.2",
    "36.4.4": "6.2.1",
    "36.4.7": "6.2.1",
    "36.5": "6.2.2",
    "38.2": "7.0",
    "38.4": "7.1",
    "39": "7.2",
}
OLDEST_JETPACK = 6

# With less memory, building a plan needs swap. If the largest free block is smaller, memory is fragmented.
SMALL_MEMORY_BYTES = 9_000_000_000
FRAGMENTED_BYTES = 1 << 20

# Estimated memory with one graph loaded at a time, rounded up; a test compares them with benchmarks/estimates.py.
FOOTPRINTS_GB = {
    ("SD 1.5 at 512x512", "fp16"): 2.3,
    ("SD 1.5 at 512x512", "int8"): 1.5,
    ("SDXL at 1024x1024", "fp16"): 5.2,
    ("SDXL at 1024x1024", "int8"): 3.4,
    ("PixArt-Sigma at 512x512", "fp16"): 10.1,
    ("PixArt-Sigma at 512x512", "w4"): 3.5,
    ("PixArt-Sigma at 1024x1024", "fp16"): 10.1,
    ("PixArt-Sigma at 1024x1024", "w4"): 3.5,
    ("FLUX.2 klein 4B at 512x512", "fp16"): 8.0,
    ("FLUX.2 klein 4B at 512x512", "w4"): 2.9,
    ("FLUX.2 klein 4B at 1024x1024", "fp16"): 8.3,
    ("FLUX.2 klein 4B at 1024x1024", "w4"): 3.4,
    ("SD 3.5 medium without T5 at 1024x1024", "fp16"): 3.7,
    ("SD 3.5 medium without T5 at 1024x1024", "w4"): 3.4,
}


@dataclass(frozen=True)
class Swap:
    """A swap area. compressed: zram, which uses part of the memory that it extends."""

    name: str
    bytes: int
    used_bytes: int
    compressed: bool


@dataclass(frozen=True)
class PowerMode:
    """The current mode of nvpmodel, and the fastest mode of the module; None if unknown."""

    id: int
    name: str | None
    fastest_id: int | None
    fastest_name: str | None


@dataclass(frozen=True)
class FreeBlocks:
    """The largest free blocks of physical memory, as `tegrastats` shows them: lfb COUNTxBYTES."""

    bytes: int
    count: int


@dataclass(frozen=True)
class Jetson:
    """Facts of a Jetson; None for unknown ones. desktop: whether a graphical desktop starts at boot."""

    model: str
    part: str | None
    module: str | None
    l4t: str | None
    jetpack: str | None
    cuda: str | None
    tensorrt: str | None
    power_mode: PowerMode | None
    free_blocks: FreeBlocks | None
    swap: tuple[Swap, ...]
    desktop: bool | None


def read_jetson(root: Path = Path("/")) -> Jetson | None:
    """Returns the facts of the Jetson whose files are under `root`; None for another machine."""
    compatible = strings(root / "proc/device-tree/compatible")
    l4t = l4t_version(text(root / "etc/nv_tegra_release"))
    if l4t is None and not any(name.startswith("nvidia,tegra") for name in compatible):
        return None
    parts = re.findall(r"p\d{4}-\d{4}", " ".join(compatible))
    part = next((part for part in parts if part in MODULES), None)
    packages = installed_packages(text(root / "var/lib/dpkg/status"))
    return Jetson(
        model=" ".join(strings(root / "proc/device-tree/model")) or "unknown",
        part=part,
        module=MODULES[part] if part else None,
        l4t=l4t,
        jetpack=packages.get("nvidia-jetpack", jetpack_of(l4t)),
        cuda=cuda_version(root, packages),
        tensorrt=next((packages[name] for name in sorted(packages) if name.startswith("libnvinfer")), None),
        power_mode=power_mode(text(root / "var/lib/nvpmodel/status"), text(root / "etc/nvpmodel.conf")),
        free_blocks=free_blocks(text(root / "proc/buddyinfo")),
        swap=tuple(swap_areas(text(root / "proc/swaps"))),
        desktop=starts_desktop(root),
    )


def text(path: Path) -> str:
    """The text of a file; empty if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def strings(path: Path) -> list[str]:
    """The NUL-terminated strings of a device-tree property."""
    return [part for part in text(path).split("\0") if part.strip()]


def l4t_version(release: str) -> str | None:
    """The version in /etc/nv_tegra_release: "# R36 (release), REVISION: 4.3, ..." -> "36.4.3"."""
    match = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", release)
    return f"{match[1]}.{match[2]}" if match else None


def jetpack_of(l4t: str | None) -> str | None:
    """The JetPack release of an L4T version; None if unknown."""
    prefixes = [prefix for prefix in JETPACKS if l4t is not None and f"{l4t}.".startswith(f"{prefix}.")]
    return JETPACKS[max(prefixes, key=len)] if prefixes else None


def installed_packages(status: str) -> dict[str, str]:
    """Versions, without epoch and revision, of JetPack, TensorRT and CUDA packages in dpkg's status file."""
    wanted = re.compile(r"nvidia-jetpack|libnvinfer\d+|cuda-cudart-\d+-\d+")
    found = {}
    for block in status.split("\n\n"):
        fields = dict(re.findall(r"^(Package|Status|Version): (.*)$", block, re.M))
        if wanted.fullmatch(fields.get("Package", "")) and fields.get("Status", "").endswith(" installed"):
            found[fields["Package"]] = re.split(r"[-+]", fields.get("Version", "").split(":")[-1])[0]
    return found


def cuda_version(root: Path, packages: dict[str, str]) -> str | None:
    """The version of the CUDA toolkit, else of the CUDA runtime's package; None if unknown."""
    try:
        return str(json.loads(text(root / "usr/local/cuda/version.json"))["cuda"]["version"])
    except (ValueError, KeyError, TypeError):
        return next((packages[name] for name in sorted(packages) if name.startswith("cuda-cudart")), None)


def power_mode(status: str, config: str) -> PowerMode | None:
    """The mode in nvpmodel's status file; if it was never set, the default of its configuration."""
    names = {int(number): name for number, name in re.findall(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+?)\s*>", config)}
    match = re.search(r"pmode:\s*(\d+)", status) or re.search(r"<\s*PM_CONFIG\s+DEFAULT=(\d+)", config)
    if match is None:
        return None
    number, fast = int(match[1]), {name: number for number, name in names.items() if name.startswith("MAXN")}
    fastest = max(fast, default=None)  # MAXN_SUPER comes after MAXN
    return PowerMode(number, names.get(number), fast[fastest] if fastest else None, fastest)


def free_blocks(buddyinfo: str) -> FreeBlocks | None:
    """The largest free blocks in /proc/buddyinfo, which counts blocks of 1 page, 2 pages, 4 pages, ..."""
    counts: list[int] = []
    for line in buddyinfo.splitlines():
        numbers = [int(number) for number in re.findall(r"\d+", line.partition("zone")[2])]
        counts = [sum(pair) for pair in zip(numbers, counts or [0] * len(numbers), strict=False)]
    order = max((order for order, count in enumerate(counts) if count), default=None)
    return FreeBlocks(os.sysconf("SC_PAGE_SIZE") << order, counts[order]) if order is not None else None


def swap_areas(swaps: str) -> Iterator[Swap]:
    """The swap areas in /proc/swaps, whose sizes are in KiB."""
    for line in swaps.splitlines()[1:]:
        name, _, size, used, *_ = line.split()
        yield Swap(name, int(size) * 1024, int(used) * 1024, "zram" in name)


def starts_desktop(root: Path) -> bool | None:
    """Whether the system boots into its graphical target; the administrator's link precedes the system's."""
    for folder in ("etc/systemd/system", "usr/lib/systemd/system", "lib/systemd/system"):
        link = root / folder / "default.target"
        if link.is_symlink():
            return link.readlink().name == "graphical.target"
    return None


def fits(available_bytes: int) -> list[dict[str, str | float | bool]]:
    """Returns the least memory of each model and precision, in GB, and whether that much is available.

    The sizes are estimates (docs/estimate.md). Swap does not count, because a GPU cannot use it.
    """
    return [
        {"model": model, "precision": precision, "needs_gb": needs, "fits": needs * 1e9 <= available_bytes}
        for (model, precision), needs in FOOTPRINTS_GB.items()
    ]


def advice(jetson: Jetson, memory: Mapping[str, int] | None) -> Iterator[str]:
    """Advice on the setup of the device, one line each; reasons are in docs/jetson.md. memory: of `meminfo.memory`."""
    major = int((jetson.jetpack or "0").split(".")[0])
    if 0 < major < OLDEST_JETPACK:
        yield f"JetPack {jetson.jetpack}: its Python and TensorRT are too old; flash JetPack 6.2 or newer"
        return
    importable = importlib.util.find_spec("tensorrt") is not None
    if jetson.tensorrt is None:
        yield "no TensorRT: run `sudo apt-get install nvidia-jetpack`"
    elif not importable:
        yield (
            f"TensorRT {jetson.tensorrt} is not visible to this Python: make its environment with "
            "`python3 -m venv --system-site-packages`"
        )
    mode = jetson.power_mode
    if mode is not None and mode.fastest_id not in (None, mode.id):
        yield f"power mode {mode.name or mode.id}: run `sudo nvpmodel -m {mode.fastest_id}` for {mode.fastest_name}"
    if jetson.desktop:
        yield "a desktop starts: `sudo systemctl set-default multi-user.target` and a reboot free about 0.8 GB"
    small = memory is not None and memory["total_bytes"] < SMALL_MEMORY_BYTES
    if small and all(area.compressed for area in jetson.swap):
        yield "no swap on disk: add a swap file of 8 GB, or building a plan may run out of memory; see docs/jetson.md"
    if jetson.free_blocks is not None and jetson.free_blocks.bytes < FRAGMENTED_BYTES:
        largest = jetson.free_blocks.bytes >> 10
        yield f"memory is fragmented, the largest free block has {largest} KB: reboot before loading a model"
