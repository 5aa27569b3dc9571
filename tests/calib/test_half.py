"""Calibration to fp16: what leaves its range stays float32, and nothing else does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from latentrt.bundle.folder import open_bundle
from latentrt.cli import cli
from latentrt.errors import BundleError, FidelityError
from latentrt_calib.calibrate import calibrate
from latentrt_calib.report.layer_reports import HALF
from latentrt_export.build.tensorrt import BuildOptions, build
from latentrt_export.export import ExportOptions, export
from latentrt_export.graph.emulation import emulated
from tests.calib.small import FEWER, OPTIONS
from tests.export import tiny
from tests.export.parts import written
from tests.one_thread import one_thread

LOUD = "down_blocks.0.resnets.0.conv1"
IN_HALF = replace(OPTIONS, budget_db=40.0, vae_gate_db=40.0, text_gate_db=40.0)


@pytest.fixture(scope="module", autouse=True)
def few_threads():
    with one_thread():
        yield


@pytest.fixture(scope="module")
def loud(tmp_path_factory):
    """A checkpoint one of whose convolutions has outputs up to some 100,000, which the norm after it makes small."""
    folder = tmp_path_factory.mktemp("loud") / "checkpoint"
    tiny.save_diffusers_folder(folder, **FEWER)
    [file] = (folder / "unet").glob("*.safetensors")
    tensors = load_file(file)
    for name in (f"{LOUD}.weight", f"{LOUD}.bias"):
        tensors[name] = tensors[name] * 1e5
    save_file(tensors, file)
    return folder


@pytest.fixture(scope="module")
def bundle_of_loud(loud):
    export(loud, loud.parent / "w16", ExportOptions("w16", guidance=3.0))
    return loud.parent / "w16"


@pytest.fixture(scope="module")
def made(bundle_of_loud):
    """The bundle in fp16, and its report."""
    out = bundle_of_loud.parent / "fp16"
    return out, calibrate(bundle_of_loud, out, "fp16", IN_HALF)


def test_the_export_in_fp16_names_the_way(loud, tmp_path):
    with pytest.raises(FidelityError, match="calibrate --precision fp16"):
        export(loud, tmp_path / "fp16", ExportOptions("fp16"))


def test_only_what_leaves_the_range_is_float32(made):
    _, report = made
    wide = [layer for layer in report.layers if layer.reason != HALF]
    assert any("conv1" in layer.name and layer.op == "Conv" for layer in wide)
    assert len([layer for layer in wide if layer.op == "Conv"]) == 1  # the norm after it reads its output
    assert len(wide) < 12 and all("float32" in layer.reason for layer in wide)


def test_pictures_stay_and_the_loss_is_that_of_rounding(made):
    out, report = made
    assert 40 < report.comparison.loss.psnr_db < 100  # in float32, which a CPU computes, nothing would differ
    components = open_bundle(out).manifest.components
    assert {components[name].precision for name in ("unet", "vae_decoder", "text_encoder")} == {"fp16"}
    assert [gate.report is not None for gate in report.gates] == [True, True]


def test_every_type_is_written_in_the_graph(made):
    whole = open_bundle(made[0]).manifest.components["unet"]
    model = ir.load(made[0] / whole.file)
    kinds = {value.dtype for value in model.graph.initializers.values() if value.const_value.size > 1}
    assert ir.DataType.FLOAT16 in kinds
    for node in model.graph:
        floats = {value.dtype for value in node.inputs if value is not None} & {
            ir.DataType.FLOAT,
            ir.DataType.FLOAT16,
        }
        assert len(floats) < 2, node
    assert {spec.dtype for spec in (*whole.inputs, *whole.outputs)} <= {"float32"}
    emulated(model)


def test_tensorrt_rtx_builds_it(made, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    whole = open_bundle(made[0])
    alone = written(tmp_path, whole, {"unet": whole.manifest.components["unet"]})
    [plan] = build(alone.folder, BuildOptions("tensorrt-rtx", ("sm86",), batches=(2,)))
    assert (plan.component, plan.floats) == ("unet", "fp16")


def test_a_second_time_is_refused(made, tmp_path):
    with pytest.raises(BundleError, match="already"):
        calibrate(made[0], tmp_path / "out", "fp16", IN_HALF)


def test_the_command_names_the_operators(bundle_of_loud, tmp_path):
    out = tmp_path / "out"
    command = ["calibrate", str(bundle_of_loud), str(out), "--precision", "fp16", "--images", "1", "--evaluations", "1"]
    ran = CliRunner().invoke(cli, [*command, "--steps", "1"])
    assert ran.exit_code == 0, ran.output
    assert "conv1" in ran.output and "float32, as values reach" in ran.output


def test_pictures_below_the_budget_are_refused(bundle_of_loud, tmp_path):
    with pytest.raises(FidelityError, match=r"expected at least 200 dB"):
        calibrate(bundle_of_loud, tmp_path / "out", "fp16", replace(IN_HALF, budget_db=200.0))
    assert not (tmp_path / "out").exists()


def test_the_operators_are_the_ones_beside_the_values():
    from latentrt_calib.precisions.half import out_of_range

    value = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT))
    first, second = ir.node("Relu", [value], name="first"), ir.node("Neg", [value], name="second")
    for node, name in ((first, "y"), (second, "z")):
        node.outputs[0].name, node.outputs[0].type = name, value.type
    graph = ir.Graph([value], list(second.outputs), nodes=[first, second])
    assert out_of_range(graph, {"y": 45_000.0, "z": 1.0}) == {"first": 45_000.0}
    assert out_of_range(graph, {"y": 32_768.0, "z": np.inf}) == {"second": np.inf}
