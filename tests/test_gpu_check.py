"""The check for real GPUs on the stand-in of one: what passes, what fails and what goes on after a failure."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import gpu_check
from latentrt.bundle.catalog import MODELS
from latentrt.bundle.folder import open_bundle
from latentrt.engines import open_engines
from latentrt.engines.nvidia import engine
from latentrt.errors import EngineError
from tests.runtime.engines import standin
from tests.runtime.engines.standin_plans import VERSION, build


@pytest.fixture
def bundle():
    return open_bundle(MODELS / "emoji", verify=False)


@pytest.fixture
def answers(bundle):
    return dict(open_engines("onnxruntime", bundle))


@pytest.fixture
def check(bundle, answers, tmp_path, monkeypatch):
    """Runs the check with these options; gives its exit status, its tables and its JSON."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cuda = standin.Cuda()
    trt = standin.TensorRT(cuda, bundle.manifest.components, answers, version=VERSION)
    trt.install(monkeypatch, tmp_path)

    def plans(source, options, lines):
        assert (source, options.target) == ("emoji", "tensorrt")
        for name in bundle.manifest.components:
            path = build(bundle, name)
            yield SimpleNamespace(component=name, floats="fp16", bytes=path.stat().st_size, seconds=1.5)

    monkeypatch.setattr(gpu_check, "build", plans)

    def run(capsys, *options):
        file = tmp_path / "found.json"
        size = ["--steps", "2", "--size", "64x48", "--pictures", "1", "--iterations", "4"]
        monkeypatch.setattr(sys, "argv", ["gpu_check", "emoji", *size, "--json", str(file), *options])
        status = gpu_check.main()
        return status, capsys.readouterr().out, json.loads(file.read_text())

    run.cuda, run.trt = cuda, trt
    return run


def test_all_passes(check, bundle, capsys):
    status, tables, found = check(capsys)
    assert (status, found["failures"]) == (0, [])
    assert found["machine"]["gpu"] == "Stand-in" and found["machine"]["sm"] == "sm87"
    assert found["components"].keys() == bundle.manifest.components.keys()
    assert {row["passes"] for row in found["components"].values()} == {"pass"}
    assert all(row["captured"] for row in found["unet"].values())
    assert {row["passes"] for row in found["pictures"].values()} == {"pass"}
    assert found["memory"]["left_after_close_mb"] == 0 < found["memory"]["loaded_mb"]
    assert tables.count("| fp16 |") == len(bundle.manifest.components)
    assert "| a red apple | equal | pass |" in tables
    assert tables.rstrip().endswith("all passed")
    check.cuda.assert_all_freed()


def test_a_component_that_computes_something_else_fails_and_the_others_go_on(check, answers, capsys):
    honest = answers["vae_decoder"]
    random = np.random.default_rng(0)

    def noisy(feeds):
        image = honest(feeds)["image"]
        return {"image": image + random.normal(0, 0.3, image.shape)}

    check.trt.answers = answers | {"vae_decoder": noisy}
    status, tables, found = check(capsys)
    assert status == 1
    assert [name for name, row in found["components"].items() if row["passes"] == "FAIL"] == ["vae_decoder"]
    assert [failure.partition(":")[0] for failure in found["failures"]] == ["vae_decoder", "picture of 'a red apple'"]
    assert "FAILED: vae_decoder: got PSNR " in tables


def test_a_component_without_a_plan_fails_and_the_others_go_on(check, bundle, monkeypatch, capsys):
    def refuse(*arguments):
        raise EngineError("the builder says no")

    def failing(source, options, lines):
        raise EngineError("the builder says no")
        yield

    build(bundle, "time_bias")
    monkeypatch.setattr(gpu_check, "build", failing)
    monkeypatch.setattr(engine, "build_plan", refuse)
    status, tables, found = check(capsys)
    assert status == 1
    assert [name for name, row in found["components"].items() if "error" not in row] == ["time_bias"]
    assert "| unet | failed: unet: got no plan of tensorrt 10.3.0 on Stand-in" in tables
    assert found["plans"] == {"error": "the builder says no"}


def test_without_a_gpu(check, capsys):
    check.cuda.absent = standin.cudaError_t.cudaErrorNoDevice
    status, tables, found = check(capsys)
    assert status == 1
    assert found.keys() == {"machine", "failures"}
    assert "FAILED: machine: EngineError: CUDA: cudaGetDevice failed with cudaErrorNoDevice" in tables
