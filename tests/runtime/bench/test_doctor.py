"""Engines and GPUs in `latentrt doctor`: usable ones, missing ones, and commands that install them."""

import json

import pytest

from latentrt.bench import diagnosis
from latentrt.bench.diagnosis import diagnose, problem_of
from latentrt.cli import main
from latentrt.device import nvidia
from latentrt.device.nvidia import Nvidia, read_nvidia
from latentrt.engines import ENGINES

GPU = Nvidia("580.65.06", (13, 0), ("NVIDIA H200",))


class Driver:
    """A fake libcuda: the status of cuInit, the newest CUDA version, the names of the GPUs."""

    def __init__(self, status=0, version=13000, names=()):
        self.status, self.version, self.names = status, version, names

    def cuInit(self, flags):
        return self.status

    def cuDriverGetVersion(self, version):
        version._obj.value = self.version
        return 0

    def cuDeviceGetCount(self, count):
        count._obj.value = len(self.names)
        return 0

    def cuDeviceGet(self, device, index):
        device._obj.value = index
        return 0

    def cuDeviceGetName(self, name, size, device):
        name.value = self.names[device.value].encode()
        return 0


@pytest.fixture(autouse=True)
def no_nvml(monkeypatch):
    monkeypatch.setattr(nvidia, "open_nvml", lambda: None)


@pytest.fixture
def all_installed(monkeypatch):
    monkeypatch.setattr("latentrt.engines.EngineKind.found", property(lambda kind: kind.requires))
    monkeypatch.setattr(diagnosis, "installed", lambda name: None if name == "onnxruntime" else "12.9.1")


def test_a_driver_tells_of_its_gpus():
    got = read_nvidia(lambda name: Driver(names=["NVIDIA H200", "NVIDIA L4"]))
    assert got == Nvidia(None, (13, 0), ("NVIDIA H200", "NVIDIA L4"))
    assert read_nvidia(lambda name: Driver(version=12040)).cuda == (12, 4)


@pytest.mark.parametrize(
    ("status", "words"), [(100, "finds no GPU"), (803, "reboot"), (999, "cuInit failed with 999: see `nvidia-smi`")]
)
def test_a_driver_that_does_not_start(status, words):
    got = read_nvidia(lambda name: Driver(status))
    assert words in got.problem and got.gpus == () and got.cuda == (13, 0)


def test_no_driver_at_all():
    def missing(name):
        raise OSError(f"{name}: cannot open shared object file")

    assert read_nvidia(missing).problem.startswith("no NVIDIA driver (")


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_that_is_not_installed_says_how_to_install_it(name, monkeypatch):
    monkeypatch.setattr("latentrt.engines.EngineKind.found", property(lambda kind: None))
    for gpu in (GPU, Nvidia(problem="no NVIDIA driver")):
        assert problem_of(ENGINES[name], gpu).startswith(
            f"not installed: run `pip install 'latentrt[{ENGINES[name].extra}]'`"
        )


@pytest.mark.parametrize("name", ENGINES)
def test_bindings_without_a_driver_make_no_engine_usable(name, all_installed):
    usable = {"onnxruntime", "openvino"}
    problem = problem_of(ENGINES[name], Nvidia(problem="no NVIDIA driver (libcuda.so.1 is not found); install one"))
    assert (problem is None) == (name in usable)
    assert problem is None or problem.startswith("no NVIDIA driver (libcuda.so.1 is not found); install one")
    assert problem_of(ENGINES[name], GPU) is None


def test_bindings_newer_than_the_driver(all_installed, monkeypatch):
    monkeypatch.setattr(diagnosis, "installed", lambda name: {"cuda-bindings": "13.5.0"}.get(name))
    problem = problem_of(ENGINES["tensorrt"], Nvidia("550.54", (12, 4), ("A GPU",)))
    assert "the driver runs CUDA 12.4 at most" in problem and "pip install 'cuda-bindings<13'" in problem


def test_no_bindings(all_installed, monkeypatch):
    monkeypatch.setattr(diagnosis, "installed", lambda name: None)
    assert problem_of(ENGINES["tensorrt-rtx"], GPU) == "it needs cuda-bindings: run `pip install 'latentrt[rtx]'`"


def test_two_packages_of_onnx_runtime(all_installed, monkeypatch):
    monkeypatch.setattr(diagnosis, "installed", lambda name: "1.23.2")
    assert "onnxruntime and onnxruntime-gpu are both installed" in problem_of(ENGINES["cuda"], GPU)
    assert problem_of(ENGINES["onnxruntime"], GPU) is None


def shown(monkeypatch, capsys, gpu, *options):
    monkeypatch.setattr(diagnosis, "read_nvidia", lambda: gpu)
    monkeypatch.setattr("sys.argv", ["latentrt", "doctor", *options])
    with pytest.raises(SystemExit) as left:
        main()
    return left.value.code or 0, capsys.readouterr().out


def test_the_gpu_and_its_driver_have_lines(monkeypatch, capsys):
    _, table = shown(monkeypatch, capsys, GPU)
    assert "gpu         NVIDIA H200\ndriver      580.65.06, CUDA 13.0 at most\n" in table
    _, table = shown(monkeypatch, capsys, Nvidia(problem="no NVIDIA driver"))
    assert "gpu         none can be used: no NVIDIA driver\n" in table
    _, text = shown(monkeypatch, capsys, GPU, "--json")
    assert json.loads(text)["gpu"] == {
        "driver": "580.65.06",
        "cuda": "13.0",
        "gpus": ["NVIDIA H200"],
        "problem": None,
    }


def test_without_an_engine_that_can_be_used_the_status_is_4(monkeypatch, capsys, all_installed):
    monkeypatch.setattr(diagnosis, "problem_of", lambda kind, gpu: "no NVIDIA driver")
    status, table = shown(monkeypatch, capsys, Nvidia(problem="no NVIDIA driver"))
    assert status == 4 and "not usable, no NVIDIA driver" in table
    assert "no engine can be used: run `pip install 'latentrt[cpu]'`" in diagnose()["advice"]
