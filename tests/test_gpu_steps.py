"""The measurement of steps on a GPU, rehearsed without one: all ways, their results, and failures."""

import json
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import gpu_steps, step_cases
from latentrt.engines.onnx.session import GRAPH_PROVIDERS
from tests.one_thread import one_thread
from tests.sweep import sweep


@pytest.fixture(scope="module", autouse=True)
def fast():
    with one_thread():
        yield


@pytest.fixture
def measure(tmp_path, monkeypatch, capsys):
    """Runs the measurement with these options; gives its exit status, its table and its JSON."""
    monkeypatch.setitem(GRAPH_PROVIDERS, "onnxruntime", {})  # restored after the test
    del GRAPH_PROVIDERS["onnxruntime"]
    monkeypatch.setattr(gpu_steps, "WARM_UP", 1)
    file = tmp_path / "steps.json"

    def run(*options):
        few = ["--engine", "cpu", "--tiny", "--rounds", "2", "--steps", "1", "--work", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", ["gpu_steps", *few, "--json", str(file), *options])
        return gpu_steps.main(), capsys.readouterr().out, json.loads(file.read_text())

    return run


@sweep
def test_all_ways_of_all_shapes(measure):
    status, table, found = measure("--batch", "3")
    assert (status, found["failures"]) == (0, [])
    assert list(found["cases"]) == ["built-in", "sd15", "sdxl"]
    for name, case in found["cases"].items():
        assert list(case) == ["plain", "bound", "graph", "torch"]  # CUDA graphs of torch need CUDA
        assert all(len(way["rounds"]) == 2 and way["step_s"]["min"] > 0 for way in case.values())
        assert case["bound"]["psnr_db"] == case["graph"]["psnr_db"] == 999
        assert case["graph"]["captured"]
        assert ("psnr_db" in case["torch"]) == (name != "built-in")
    assert "| UNet, batch 3 | plain, ms | bound, ms | graph, ms | torch, ms |" in table
    assert table.count(" to ") == 3 * 4
    assert table.endswith("all passed\n")


def test_one_picture_without_guidance_and_without_torch(measure):
    status, table, found = measure("built-in", "--batch", "1", "--ways", "graph,plain")
    assert (status, found["failures"]) == (0, [])
    assert list(found["cases"]["built-in"]) == ["graph", "plain"]
    assert "| UNet, batch 1 | plain, ms | graph, ms |" in table


def test_the_built_in_model_needs_no_torch():
    code = (
        "import sys; sys.modules['torch'] = None; from benchmarks import gpu_steps; sys.argv[1:] = ['built-in', "
        "'--engine', 'cpu', '--ways', 'plain,graph', '--rounds', '1', '--steps', '1']; sys.exit(gpu_steps.main())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=gpu_steps.ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "all passed"), done.stderr


def test_results_that_differ_and_ways_that_fail(measure, monkeypatch):
    def wrong(setup):
        step = gpu_steps.plain(setup)
        return lambda number: step(number) + (0.01 if number == 3 else 0)

    def broken(setup):
        raise RuntimeError("no luck")

    monkeypatch.setitem(gpu_steps.WAYS, "bound", wrong)
    monkeypatch.setitem(gpu_steps.WAYS, "graph", broken)
    status, table, found = measure("built-in", "--ways", "plain,bound,graph")
    assert status == 1
    difference, failure = sorted(found["failures"])
    assert difference.startswith("built-in, bound: got PSNR ")
    assert failure == "built-in, graph: RuntimeError: no luck"
    assert list(found["cases"]["built-in"]) == ["plain", "bound"]
    assert table.count("FAILED: ") == 2


def test_a_graph_that_is_not_captured_is_a_failure(measure, monkeypatch):
    monkeypatch.setenv("LATENTRT_CUDA_GRAPH", "0")
    status, _, found = measure("built-in", "--ways", "graph")
    assert (status, found["failures"]) == (1, ["built-in, graph: no CUDA graph was captured; see the log above"])


def test_a_way_that_there_is_not(measure, capsys):
    with pytest.raises(SystemExit):
        measure("--ways", "plain,fast")
    assert "--ways: got fast, expected some of plain, bound, graph, torch, torch-graph" in capsys.readouterr().err


def test_steps_differ_and_the_prompt_stays():
    """So that a way which feeds old latents, or an old timestep, is found."""
    for name, case in step_cases.CASES.items():
        if case.ships:
            setup = step_cases.prepared(case, name, None, "onnxruntime", batch=2, torch=False)
    one, other = setup.feeds
    assert one["cross_kv"] is other["cross_kv"] and not one["cross_kv"].flags.writeable
    assert not np.array_equal(one["sample"], other["sample"])
    assert not np.array_equal(one["time_bias"], other["time_bias"])


def test_psnr():
    ones = np.ones(4, np.float32)
    assert gpu_steps.psnr_db(ones, ones) == 999
    assert gpu_steps.psnr_db(ones * np.nan, ones) == -999
    assert gpu_steps.psnr_db(ones * np.float32(1.1), ones) == pytest.approx(20, abs=1e-4)
