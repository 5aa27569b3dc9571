"""The memory of activations that the exporter writes: buffers are planned as ONNX Runtime plans them."""

import re
import shutil
import subprocess
import sys

import pytest

from latentrt.bundle.catalog import folder_of
from latentrt.bundle.folder import open_bundle
from latentrt_export.graph.activations import Program, Step, buffers_of, frontier
from latentrt_export.upgrade import upgrade
from tests.sweep import rest_swept

PREDICTED = """
import json, re, sys
import latentrt
from latentrt.pipeline import memory
from latentrt.pipeline.prepare import prepare

bundle, batch, guidance = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
pipe = latentrt.load(bundle, engine="onnxruntime", verify=False, memory_budget=10**12)
asked = latentrt.Request("a red apple", steps=2, seed=0, width=512, height=512, batch=batch, guidance=guidance)
print(prepare(pipe, asked).plan.peak_bytes)
for _ in pipe.steps(asked):
    pass
print(int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024)
"""


@pytest.fixture(scope="module")
def upgraded(tmp_path_factory):
    """The built-in bundle with the memory of its activations."""
    folder = tmp_path_factory.mktemp("figures") / "emoji"
    shutil.copytree(folder_of("emoji"), folder)
    upgrade(folder)
    return folder


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("guidance", rest_swept([1.0, 5.0], [5.0]))
@pytest.mark.parametrize("batch", rest_swept([1, 3], [3]))
def test_the_peak_of_a_process_is_predicted(upgraded, batch, guidance):
    """Within 10 % above and 5 % below what the system counts."""
    done = subprocess.run(
        [sys.executable, "-c", PREDICTED, str(upgraded), str(batch), str(guidance)],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    predicted, measured = map(int, re.findall(r"^\d+$", done.stdout, re.MULTILINE))
    assert 0.95 < predicted / measured < 1.1


def test_an_upgrade_adds_the_figures_and_keeps_those_there_are(upgraded):
    manifest = open_bundle(upgraded).manifest
    figures = {name: one.activations for name, one in manifest.components.items() if one.activations}
    assert {"unet", "vae_decoder"} <= figures.keys() and "text_encoder" not in figures
    assert not upgrade(upgraded)[1]


def test_a_buffer_counts_between_two_tensors_that_take_it():
    """`c` takes the buffer of `a`, which is so held while `b` is made; `d`, of another shape, gets its own."""
    steps = [
        Step("Conv", ("x",), ("a",)),
        Step("Conv", ("a",), ("b",)),
        Step("Resize", ("b",), ("d",)),
        Step("Conv", ("d",), ("c",)),
    ]
    shapes = {"x": (1, 3), "a": (1, 8), "b": (1, 4), "c": (1, 8), "d": (1, 16)}
    found = buffers_of(Program(steps, shapes, ("x",), ("c",)))
    assert [(one.shape, one.first, one.last) for one in found] == [
        ((1, 3), 0, 4),
        ((1, 8), 0, 4),
        ((1, 4), 1, 2),
        ((1, 16), 2, 3),
    ]


def test_an_operator_by_elements_overwrites_what_nothing_reads_later():
    steps = [Step("Conv", ("x",), ("a",)), Step("Add", ("a",), ("b",)), Step("Mul", ("b",), ("c",))]
    found = buffers_of(Program(steps, dict.fromkeys("xabc", (1, 8)), ("x",), ("c",)))
    assert len(found) == 2


def test_only_pairs_that_are_the_largest_somewhere_are_kept():
    assert frontier([(10, 0.0), (5, 2.0), (4, 1.0), (10, 0.0), (1, 3.0)]) == ((10.0, 0.0), (5.0, 2.0), (1.0, 3.0))
