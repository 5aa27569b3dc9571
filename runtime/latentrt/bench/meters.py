"""Energy meters of machines: RAPL counters, the power rails of a Jetson, NVIDIA's counter.

All paths are under a root, so that a copy of another machine's files can be read too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from latentrt.bench.energy import Counter, Meter, Rails
from latentrt.device.jetson import text
from latentrt.device.nvml import Nvml

NVML_PERIOD_S = 0.1  # the counter is updated every 20 to 100 ms
TOTAL_RAILS = ("VIN", "VDD_IN", "POM_5V_IN")  # rails with the total power, the carrier board's first


def find_meters(root: Path = Path("/"), gpu: Nvml | None = None) -> list[Meter]:
    """Returns the meters of the machine; reading one may still fail."""
    return [*rapl(root), *jetson(root), *([nvml(gpu)] if gpu else [])]


def nvml(gpu: Nvml) -> Meter:
    """The energy counter of an NVIDIA GPU."""
    return Counter("nvml", (gpu.name,), [gpu.millijoules], [None], 1e-3, NVML_PERIOD_S)


def rapl(root: Path) -> Iterator[Meter]:
    """The RAPL counters of Intel and AMD: processor packages and, if present, their memory."""
    folders = sorted((root / "sys/class/powercap").glob("intel-rapl:*"))
    named = [(folder, text(folder / "name").strip()) for folder in folders]
    used = [(folder, name) for folder, name in named if name.startswith("package") or name == "dram"]
    if used:
        yield Counter(
            "rapl",
            tuple(name for _, name in used),
            [number_reader(folder / "energy_uj") for folder, _ in used],
            [int(text(folder / "max_energy_range_uj") or 0) or None for folder, _ in used],
            1e-6,
            0.001,
        )


def jetson(root: Path) -> Iterator[Meter]:
    """The power of a Jetson: the rail with the total if there is one, else the sum of all rails."""
    rails = {
        name: rail for folder in sorted((root / "sys/class/hwmon").glob("hwmon*")) for name, rail in rails_of(folder)
    }
    whole = next((name for name in TOTAL_RAILS if name in rails), None)
    chosen = [whole] if whole else [name for name in rails if not name.startswith("NC")]
    if chosen:
        source, _ = rails[chosen[0]]
        yield Rails(source, tuple(chosen), lambda: sum(rails[name][1]() for name in chosen))


def rails_of(folder: Path) -> Iterator[tuple[str, tuple[str, Callable[[], float]]]]:
    """The rails of a power monitor: name, chip, and a function that reads watts."""
    chip = text(folder / "name").strip()
    if chip == "ina238":
        yield "VIN", (chip, scaled(number_reader(folder / "power1_input"), 1e-6))
    if chip != "ina3221":
        return
    for label in sorted(folder.glob("in[123]_label")):
        channel = label.name[2]
        volts, amperes = (number_reader(folder / f"{kind}{channel}_input") for kind in ("in", "curr"))
        yield text(label).strip(), (chip, product(scaled(volts, 1e-3), scaled(amperes, 1e-3)))


def scaled(read: Callable[[], float], factor: float) -> Callable[[], float]:
    """A function that reads the value times `factor`."""
    return lambda: read() * factor


def product(one: Callable[[], float], other: Callable[[], float]) -> Callable[[], float]:
    """A function that reads the product of two values."""
    return lambda: one() * other()


def number_reader(path: Path) -> Callable[[], int]:
    """A function that reads the whole number in a file."""
    return lambda: int(path.read_text())
