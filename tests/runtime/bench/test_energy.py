"""Energy meters on copies of the files of other machines; an unknown figure is never 0."""

import ctypes

import pytest

from latentrt.bench.energy import Counter, Rails, Reading, idle_watts, metered
from latentrt.bench.meters import find_meters
from latentrt.device.nvml import Nvml, NvmlError


def tree(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{content}\n")


def rapl(folder, name, microjoules, largest=1000):
    files = {"name": name, "energy_uj": microjoules, "max_energy_range_uj": largest}
    return {f"sys/class/powercap/{folder}/{file}": content for file, content in files.items()}


def ina3221(number, *rails):
    folder = f"sys/class/hwmon/hwmon{number}"
    files = {f"{folder}/name": "ina3221"}
    for channel, (label, millivolts, milliamperes) in enumerate(rails, 1):
        files |= {f"{folder}/in{channel}_label": label, f"{folder}/in{channel}_input": millivolts}
        files[f"{folder}/curr{channel}_input"] = milliamperes
    # Another entry of the kernel: the sum of the shunt voltages.
    return files | {f"{folder}/in7_label": "sum of shunt voltages", f"{folder}/in7_input": 99}


def watts(meter):
    """The current reading of a power meter."""
    return meter.power()


def test_a_machine_without_counters_has_no_meters_and_takes_no_time(tmp_path):
    assert find_meters(tmp_path) == []
    with metered([]) as found:
        pass
    assert found == [] and idle_watts([]) == []


def test_rapl_counts_packages_and_memory_but_nothing_twice(tmp_path):
    tree(tmp_path, rapl("intel-rapl:0", "package-0", 100) | rapl("intel-rapl:0:0", "core", 50))
    tree(tmp_path, rapl("intel-rapl:0:1", "dram", 10) | rapl("intel-rapl:1", "package-1", 200))
    tree(tmp_path, rapl("intel-rapl-mmio:0", "package-0", 100))
    (meter,) = find_meters(tmp_path)
    assert (meter.source, meter.covers) == ("rapl", ("package-0", "dram", "package-1"))
    assert meter.read() == 0
    tree(tmp_path, rapl("intel-rapl:0", "package-0", 130) | rapl("intel-rapl:0:1", "dram", 15))
    assert meter.read() == pytest.approx(35e-6)


def test_a_counter_that_wraps_goes_on():
    values = iter([900, 950, 20, 40])
    meter = Counter("rapl", ("package-0",), [lambda: next(values)], [1000], 1e-6, 0.001)
    assert [meter.read() for _ in range(4)] == pytest.approx([0, 50e-6, 120e-6, 140e-6])


def test_a_counter_that_cannot_be_read_says_why(tmp_path):
    tree(tmp_path, rapl("intel-rapl:0", "package-0", 100))
    (tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj").unlink()
    with metered(find_meters(tmp_path)) as found:
        pass
    (energy,) = found
    assert energy.joules is None and energy.watts is None
    assert energy.missing.startswith("rapl: ") and "energy_uj" in energy.missing


def test_a_counter_that_stands_still_is_not_known_rather_than_zero(tmp_path):
    tree(tmp_path, rapl("intel-rapl:0", "package-0", 100))
    with metered(find_meters(tmp_path)) as found:
        pass
    (energy,) = found
    assert energy.joules is None and "did not move" in energy.missing


@pytest.mark.parametrize(
    ("chips", "source", "covers", "power"),
    [
        # Orin Nano: VDD_IN has the total power.
        (
            ina3221(1, ("VDD_IN", 5000, 1000), ("VDD_CPU_GPU_CV", 5000, 400), ("VDD_SOC", 5000, 300)),
            "ina3221",
            ("VDD_IN",),
            5.0,
        ),
        # AGX Orin: two chips, no rail with the total power, one not connected.
        (
            ina3221(3, ("VDD_GPU_SOC", 20000, 500), ("VDD_CPU_CV", 20000, 250), ("VIN_SYS_5V0", 5000, 800))
            | ina3221(4, ("NC", 0, 0), ("VDDQ_VDD2_1V8AO", 5000, 100), ("NC", 0, 0)),
            "ina3221",
            ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO"),
            10 + 5 + 4 + 0.5,
        ),
        # Thor: the carrier board's input has a chip of its own, in microwatts.
        (
            ina3221(0, ("VDD_GPU", 12000, 1000))
            | {"sys/class/hwmon/hwmon5/name": "ina238", "sys/class/hwmon/hwmon5/power1_input": 31_500_000},
            "ina238",
            ("VIN",),
            31.5,
        ),
    ],
    ids=["orin nano", "agx orin", "thor"],
)
def test_the_rails_of_a_jetson(tmp_path, chips, source, covers, power):
    tree(tmp_path, chips | {"sys/class/hwmon/hwmon9/name": "nvme"})
    (meter,) = find_meters(tmp_path)
    assert (meter.source, meter.covers) == (source, covers)
    assert watts(meter) == pytest.approx(power)


def test_power_that_rises_steadily_is_added_up_exactly():
    now = iter([0.0, 0.5, 1.25, 4.0])
    at = [0.0, 0.5, 1.25, 4.0]
    powers = iter([3 + 2 * t for t in at])
    meter = Rails("ina3221", ("VDD_IN",), lambda: next(powers), clock=lambda: next(now))
    assert [meter.read() for _ in at] == pytest.approx([3 * t + t * t for t in at])


def test_a_span_is_from_its_first_reading_to_its_last():
    values = iter([1000, 1000, 2500, 6000])
    meter = Counter("nvml", ("GPU",), [lambda: next(values)], [None], 1e-3, 0.1)
    meter.read()  # by an earlier span
    reading = Reading(meter)
    for _ in range(3):
        reading.take()
    energy = reading.energy(2.0)
    assert (energy.joules, energy.watts, energy.hertz) == (5.0, 2.5, 1.5)
    assert energy.uncertainty_j == pytest.approx(2 * 0.1 * 2.5)


def test_what_is_read_at_the_ends_is_enough_for_a_short_span():
    values = iter(range(0, 10**9, 7))
    with metered([Counter("rapl", ("package-0",), [lambda: next(values)], [None], 1.0, 0.001)]) as found:
        pass
    assert found[0].joules >= 7 and found[0].missing is None


class Library:
    """A fake NVML with one GPU, which uses 2 J more per reading; `failing` functions return a status."""

    def __init__(self, **failing):
        self.millijoules = 3000
        for name, status in failing.items():
            setattr(self, name, lambda *_, status=status: status)

    def nvmlInit_v2(self):
        pass

    def nvmlDeviceGetHandleByIndex_v2(self, index, handle):
        assert index.value == 0
        handle._obj.value = 7

    def nvmlDeviceGetTotalEnergyConsumption(self, handle, value):
        assert isinstance(handle, ctypes.c_void_p)
        self.millijoules += 2000
        value._obj.value = self.millijoules

    def nvmlDeviceGetName(self, _handle, text, _size):
        text.value = b"NVIDIA H100"

    def nvmlDeviceGetMemoryInfo(self, _handle, memory):
        memory._obj.used = 123

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, _handle, value):
        value._obj.value = 0x21  # idle, and heat


def test_nvml_counts_a_gpu(tmp_path):
    gpu = Nvml(Library())
    assert (gpu.name, gpu.used_bytes, gpu.slowed) == ("NVIDIA H100", 123, {"heat"})
    (meter,) = find_meters(tmp_path, gpu)
    assert (meter.source, meter.covers) == ("nvml", ("NVIDIA H100",))
    assert [meter.read(), meter.read()] == [0, 2]


def test_a_gpu_that_does_not_count_says_so(tmp_path):
    with metered(find_meters(tmp_path, Nvml(Library(nvmlDeviceGetTotalEnergyConsumption=3)))) as found:
        pass
    assert found[0].joules is None and "nvmlDeviceGetTotalEnergyConsumption failed with 3" in found[0].missing


def test_a_driver_without_the_counter_says_so(tmp_path):
    class Older(Library):
        nvmlDeviceGetTotalEnergyConsumption = property()

    with metered(find_meters(tmp_path, Nvml(Older()))) as found:
        pass
    assert "nvmlDeviceGetTotalEnergyConsumption is not in" in found[0].missing


def test_no_gpu_is_an_error():
    with pytest.raises(NvmlError, match="nvmlInit_v2 failed with 9"):
        Nvml(Library(nvmlInit_v2=9))
