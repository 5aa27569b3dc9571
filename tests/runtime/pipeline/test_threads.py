"""One pipeline in several threads: each gets its own pictures, byte for byte, whatever the others do meanwhile."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import latentrt
from latentrt.bundle.catalog import MODELS
from latentrt.bundle.folder import open_bundle
from latentrt.engines import autoselect
from latentrt.engines import openvino as ov
from latentrt.engines.onnx import engine as ort
from tests.runtime.pipeline.crowd import asked, drawn, together

THREADS = 8


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """One cache for the whole module, that of no user."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module", params=["onnxruntime", "openvino"])
def pipeline(request, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        with latentrt.load("emoji", engine=request.param, verify=False) as pipeline:
            yield pipeline


@pytest.fixture(scope="module")
def expected(pipeline):
    """Pictures of one size, by number, drawn alone."""
    return {number: drawn(pipeline, asked(number)) for number in (0, 3, 6)}


def test_eight_threads_draw_what_one_draws(pipeline, expected):
    assert len(set(expected.values())) == len(expected)
    pipeline.unload()  # so that they load at once, too
    assert together(pipeline, expected, THREADS, 2) == {"ok": THREADS * 2}


def test_runs_that_alternate_in_one_thread(pipeline, expected):
    runs = {number: pipeline.steps(asked(number)) for number in expected}
    for steps in zip(*runs.values(), strict=True):
        assert len(steps) == len(expected)
    assert {number: run.result.images[0].tobytes() for number, run in runs.items()} == expected


def test_a_thread_that_unloads_disturbs_nobody(pipeline):
    engine, done = pipeline.engines["time_bias"], threading.Event()
    feeds = [{"timestep": np.array([number], np.float32)} for number in range(4)]
    expected = [engine(one)["time_bias"] for one in feeds]

    def unload():
        while not done.is_set():
            engine.unload()

    with ThreadPoolExecutor(1) as unloading:
        unloading.submit(unload)
        found = at_once(lambda number: [engine(feeds[number])["time_bias"] for _ in range(5)], len(feeds))
        done.set()
    assert all(np.array_equal(one, alone) for mine, alone in zip(found, expected, strict=True) for one in mine)


def at_once(call, count=THREADS):
    """What as many threads get that call at the same time."""
    start = threading.Barrier(count)

    def one(number):
        start.wait()
        return call(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def test_a_session_is_made_once(monkeypatch):
    made, new_session = [], ort.new_session

    def slow(*arguments, **options):
        made.append(1)
        time.sleep(0.02)
        return new_session(*arguments, **options)

    monkeypatch.setattr(ort, "new_session", slow)
    engine = ort.engine_of(open_bundle(MODELS / "emoji", verify=False), "time_bias", "onnxruntime")
    found = at_once(lambda number: engine({"timestep": np.array([number], np.float32)})["time_bias"])
    assert made == [1]
    for number, bias in enumerate(found):
        assert np.array_equal(bias, engine({"timestep": np.array([number], np.float32)})["time_bias"])


def test_calls_of_other_sizes_get_their_own_answer():
    """Each compiles OpenVINO's graph anew, under the others."""
    engine = ov.engine_of(open_bundle(MODELS / "emoji", verify=False), "time_bias")
    found = at_once(lambda number: engine({"timestep": np.full(number + 1, number, np.float32)})["time_bias"])
    for number, bias in enumerate(found):
        assert bias.shape == (number + 1, 1696)
        expected = engine({"timestep": np.full(1, number, np.float32)})["time_bias"]
        np.testing.assert_allclose(bias, np.repeat(expected, number + 1, axis=0), atol=1e-5)


def test_what_is_the_fastest_is_measured_by_one_thread(bundle, tmp_path, monkeypatch):
    measured = []

    def measure(*_):
        measured.append(1)
        time.sleep(0.05)
        return {"onnxruntime": 2.0, "openvino": 1.0}

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("LATENTRT_ENGINE")
    monkeypatch.setattr(autoselect, "time_engines", measure)
    assert at_once(lambda _: autoselect.fastest(bundle)) == ["openvino"] * THREADS and measured == [1]
    (path,) = tmp_path.rglob("*.json")
    assert json.loads(path.read_text())["seconds"] == {"onnxruntime": 2.0, "openvino": 1.0}
