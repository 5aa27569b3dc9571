"""The engine that "auto" stands for: timed once, stored, and timed again when the situation changes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

import latentrt
from latentrt.device.cpu import processor
from latentrt.engines import CPU_ENGINES, ENGINES, VARIABLE, auto_engines, autoselect, choose
from latentrt.errors import EngineError
from tests.runtime.fake import FakeEngine, predict

X86 = "processor\t: 0\nmodel name\t: A CPU @ 2 GHz\nflags\t\t: fpu sse avx2\n\nprocessor\t: 1\nmodel name\t: other\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd\nCPU part\t: 0xd42\n\n"


@pytest.fixture
def both(tmp_path, monkeypatch):
    """Two engines on a fake clock; returns the table of their seconds and the list of opened names."""
    seconds, opened = {"onnxruntime": 2.0, "openvino": 1.0}, []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setattr(autoselect, "ENGINES", {name: Kind() for name in CPU_ENGINES})
    monkeypatch.setattr(autoselect, "versions_of", lambda names: dict.fromkeys(names, "1"))

    def open_engines(name, bundle):
        opened.append(name)
        return {"unet": FakeEngine(name, bundle.manifest.components["unet"], predict, [])}

    def seconds_of_call(engine, feeds):
        engine(feeds)
        if seconds[engine.name] is None:
            raise EngineError(f"{engine.name} failed")
        return seconds[engine.name]

    monkeypatch.setattr(autoselect, "open_engines", open_engines)
    monkeypatch.setattr(autoselect, "seconds_of_call", seconds_of_call)
    return seconds, opened


class Kind:
    installed = True


def test_one_engine_needs_no_measuring(bundle, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(autoselect, "time_engines", lambda *_: pytest.fail("measured"))
    assert choose("auto", bundle) == "onnxruntime" and not list(tmp_path.iterdir())
    with latentrt.load("emoji", verify=False) as pipeline:
        assert pipeline.engine == "onnxruntime"


def test_the_fastest_is_measured_once(both, bundle):
    seconds, opened = both
    assert choose("auto", bundle) == "openvino"
    seconds["openvino"] = 9.0
    assert choose("auto", bundle) == "openvino" and opened == list(CPU_ENGINES) * autoselect.TURNS
    (choice,) = autoselect.stored_choices()
    assert choice.model == "emoji" and choice.seconds == {"onnxruntime": 40.0, "openvino": 20.0}


def test_cpu_is_onnx_runtime_and_nothing_is_measured(both, bundle, monkeypatch):
    assert choose("cpu", bundle) == "onnxruntime" and both[1] == []
    monkeypatch.setenv(VARIABLE, "openvino")
    assert choose("cpu", bundle) == "onnxruntime"


def test_the_variable_says_what_auto_is(both, bundle, monkeypatch):
    for named, engines in (("openvino", ("openvino",)), ("cpu", ("onnxruntime",)), ("auto", CPU_ENGINES)):
        monkeypatch.setenv(VARIABLE, named)
        assert auto_engines() == engines
    monkeypatch.setenv(VARIABLE, "cpu")
    assert choose("auto", bundle) == "onnxruntime" and both[1] == []
    monkeypatch.setenv(VARIABLE, "gpu")
    with pytest.raises(EngineError, match="LATENTRT_ENGINE: got 'gpu', expected one of auto, cpu, onnxruntime,"):
        choose("auto", bundle)


def test_it_says_once_that_it_measures_and_why(both, bundle, caplog):
    choose("auto", bundle)
    choose("auto", bundle)
    (line,) = [record.getMessage() for record in caplog.records if "auto" in record.getMessage()]
    assert "(onnxruntime, openvino)" in line and "about 20 s" in line and '"cpu" skips it' in line


def test_other_work_during_one_turn_decides_nothing(both, bundle, monkeypatch):
    seconds, opened = both
    call = autoselect.seconds_of_call

    def disturbed(engine, feeds):
        return call(engine, feeds) * (10 if len(opened) == 2 else 1)

    monkeypatch.setattr(autoselect, "seconds_of_call", disturbed)
    assert choose("auto", bundle) == "openvino"


def test_a_model_that_takes_long_is_measured_in_one_turn(both, bundle, monkeypatch):
    _, opened = both
    monkeypatch.setattr(autoselect, "LONG_SECONDS", 0.0)
    assert choose("auto", bundle) == "openvino" and opened == list(CPU_ENGINES)


@pytest.mark.parametrize("changed", ["graph", "processor", "cores", "versions", "file"])
def test_what_decides_is_measured_again_when_it_changes(changed, both, bundle, monkeypatch, tmp_path):
    seconds, _ = both
    assert choose("auto", bundle) == "openvino"
    seconds["openvino"] = 9.0
    if changed == "graph":
        files = {**bundle.manifest.files, "unet.onnx": replace(bundle.manifest.files["unet.onnx"], sha256="0" * 64)}
        bundle = replace(bundle, manifest=replace(bundle.manifest, files=files))
    elif changed == "file":
        (path,) = tmp_path.glob("latentrt/fastest/*.json")
        path.write_text(path.read_text()[:-9])
    else:
        name, value = {
            "processor": ("processor", "another"),
            "cores": ("usable_cores", 77),
            "versions": ("versions_of", {"onnxruntime": "2"}),
        }[changed]
        monkeypatch.setattr(autoselect, name, lambda *_: value)
    assert choose("auto", bundle) == "onnxruntime"


def test_an_engine_that_fails_is_left_out(both, bundle, caplog):
    seconds, _ = both
    seconds["openvino"] = None
    assert choose("auto", bundle) == "onnxruntime" and "openvino failed" in caplog.text


def test_engines_that_all_fail(both, bundle, tmp_path):
    seconds, _ = both
    seconds.update(onnxruntime=None, openvino=None)
    with pytest.raises(EngineError, match="onnxruntime failed"):
        choose("auto", bundle)
    assert not list(tmp_path.rglob("*.json"))


def test_nothing_is_measured_that_cannot_be_remembered(both, bundle, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert choose("auto", bundle) == "onnxruntime" and both[1] == []
    assert "cannot be written, so engines are not timed: using onnxruntime" in caplog.text


def test_it_is_measured_for_real(tmp_path, monkeypatch, emoji):
    """All installed engines; without OpenVINO there is only one, and nothing is written."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(VARIABLE)
    small = replace(emoji.bundle.manifest.defaults, width=64, height=64)
    bundle = replace(emoji.bundle, manifest=replace(emoji.bundle.manifest, defaults=small))
    installed = [name for name in CPU_ENGINES if ENGINES[name].installed]
    chosen = choose("auto", bundle)
    assert chosen in installed
    if len(installed) > 1:
        (path,) = tmp_path.glob("latentrt/fastest/*.json")
        seconds = json.loads(path.read_text())["seconds"]
        assert list(seconds) == installed and min(seconds, key=seconds.get) == chosen and min(seconds.values()) > 0


def test_versions_come_from_packages_of_other_names():
    assert autoselect.version_of("numpy") == __import__("numpy").__version__
    assert autoselect.version_of("PIL").startswith("pillow ") and autoselect.version_of("no_such_module") == ""


def test_a_processor_is_its_name_and_its_instructions(tmp_path: Path):
    path = tmp_path / "cpuinfo"

    def read(text: str) -> str:
        path.write_text(text)
        return processor(path)

    assert read(X86).startswith("A CPU @ 2 GHz ") and read(ARM).startswith("0xd42 ")
    assert read(X86) == read(X86.replace("sse avx2", "avx2 sse")) != read(X86.replace("avx2", "avx2 avx512f"))
    assert processor(tmp_path / "none")
