"""Calibration to 4 bits whole, on the small checkpoint and on a small transformer: denoisers and text encoders."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

import latentrt
from latentrt.bundle.folder import open_bundle
from latentrt.cli import cli
from latentrt.errors import BundleError, FidelityError, RequestError
from latentrt_calib.calibrate import calibrate
from latentrt_calib.evaluate import sensitivity
from latentrt_calib.precisions import choice
from latentrt_calib.quantize.planning import Recipe
from latentrt_calib.report.layer_reports import EIGHT_BITS, FIRST_OR_LAST, FOUR_BITS
from latentrt_export.build.tensorrt import BuildOptions, build
from latentrt_export.export import ExportOptions, export
from tests.calib.small import FEWER, OPTIONS
from tests.export import klein, pixart, tiny
from tests.export.decoded import furthest, layers_of, outputs, random_feeds, save_lora
from tests.export.parts import written
from tests.one_thread import one_thread
from tests.sweep import sweep

FEW = replace(OPTIONS, vae_gate_db=None, text_gate_db=5.0)


@pytest.fixture(scope="module", autouse=True)
def few_threads():
    with one_thread():
        yield


@pytest.fixture(scope="module")
def made(bundle, tmp_path_factory):
    """The bundle in 4 bits, its report, and the lines of progress."""
    out, lines = tmp_path_factory.mktemp("w4") / "w4", []
    return out, calibrate(bundle, out, "w4", FEW, lines.append), lines


def types_of(path):
    """The number of weights of each type that are in a graph's file."""
    graph, counts = onnx.load(path).graph, {}
    for one in graph.initializer:
        counts[one.data_type] = counts.get(one.data_type, 0) + (max(one.dims, default=1) > 1)
    return {onnx.TensorProto.DataType.Name(kind): count for kind, count in counts.items() if count}


def bytes_of_type(path, kind):
    """The bytes of a graph's weights of a type of one byte."""
    return sum(math.prod(one.dims) for one in onnx.load(path).graph.initializer if one.data_type == kind)


def test_the_bundle_is_whole_and_draws(bundle, made):
    out, report, _ = made
    before, after = (open_bundle(folder).manifest for folder in (bundle, out))
    changed = {name for name in before.components if before.components[name] != after.components[name]}
    assert changed == {"unet", "text_encoder"}
    assert {after.components[name].precision for name in changed} == {"w4"}
    for one in report.components:
        found = after.components[one.component]
        assert found.quantization == one.quantization
        assert found.eight_bit_bytes == bytes_of_type(out / f"{one.component}.onnx", onnx.TensorProto.INT8)
    with latentrt.load(out) as pipe:
        assert pipe.generate("a rocket", steps=2).images[0].size == (64, 64)
    assert sorted(path.name for path in out.parent.iterdir()) == ["w4"]


def test_linear_layers_have_four_bits_others_eight_and_the_ends_are_float(made):
    out, report, _ = made
    for one in report.components:
        reasons = {layer.name: layer.reason for layer in one.layers}
        small = [name for name, reason in reasons.items() if reason == FOUR_BITS]
        assert small and {layer.op for layer in one.layers if layer.name in small} == {"MatMul"}
        kinds = types_of(out / f"{one.component}.onnx")
        assert kinds["INT4"] == len(small)
        assert kinds.get("INT8", 0) >= [*reasons.values()].count(EIGHT_BITS)
    unet = {layer.name: layer.reason for layer in report.layers}
    assert unet["conv_in"] == unet["conv_out"] == FIRST_OR_LAST and unet["down_blocks.0.resnets.0.conv1"] == EIGHT_BITS


def test_pictures_stay_and_files_shrink(made):
    _, report, lines = made
    assert report.comparison.loss.psnr_db > 25 and report.macs_int8_share_of_layers == 0
    assert all(one.bytes_after < one.bytes_before for one in report.components)
    assert re.search(r"all \d+ layers in 4 bits: \d+\.\d\d dB, the budget is 5 dB", "\n".join(lines))
    [gate] = report.encoders
    assert (gate.component, gate.gate_db) == ("text_encoder", 5.0) and gate.psnr_db > 25


def test_the_page_and_the_figures_tell_of_the_text_encoder(made):
    out, report, _ = made
    assert "Text encoder text_encoder" in (out / "report.html").read_text(encoding="utf-8")
    figures = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert figures["encoders"]["text_encoder"]["psnr_db"] == report.encoders[0].psnr_db
    assert figures["settings"]["input channels of a scale"] == 32


@sweep
def test_rounding_to_the_nearest_needs_no_recording(bundle, made, tmp_path):
    plain, lines = replace(FEW, text_gate_db=None, recipe=Recipe(feedback=False, block=64)), []
    report = calibrate(bundle, tmp_path / "plain", "w4", plain, lines.append)
    assert not any(line.startswith(("recording", "observing")) for line in lines) and not report.encoders
    assert (report.settings["error feedback"], report.settings["input channels of a scale"]) == ("False", 64)
    assert report.bytes_after < made[1].bytes_after or len(small(report)) < len(small(made[1]))


def test_rounded_to_the_nearest_it_is_what_an_export_in_four_bits_writes(bundle, tmp_path):
    few = replace(FEW, images=1, evaluations=1, steps=1, budget_db=0.0, text_gate_db=0.0)
    calibrate(bundle, tmp_path / "calibrated", "w4", replace(few, recipe=Recipe(feedback=False)))
    export(bundle.parent / "checkpoint", tmp_path / "exported", ExportOptions("w4"))
    for name in ("unet", "text_encoder"):
        ours, theirs = (onnx.load(tmp_path / kind / f"{name}.onnx").graph for kind in ("calibrated", "exported"))
        assert [*ours.node] == [*theirs.node] and [*ours.initializer] == [*theirs.initializer]


def small(report):
    """The names of the layers in 4 bits."""
    return [layer.name for layer in report.layers if layer.reason == FOUR_BITS]


@sweep
def test_a_budget_keeps_eight_bits_or_is_refused(bundle, made, tmp_path, monkeypatch):
    monkeypatch.setattr(choice, "groups_of", lambda layers: sensitivity.groups_of(layers, 3))
    whole = float(re.search(r"all \d+ layers in 4 bits: (\S+) dB", "\n".join(made[2]))[1])
    alone, out = replace(FEW, text_gate_db=None), tmp_path / "out"
    with pytest.raises(FidelityError, match=r"the budget of 200 dB cannot be met: .* groups in 8 bits"):
        calibrate(bundle, out, "w4", replace(alone, budget_db=200.0))
    report = calibrate(bundle, out, "w4", replace(alone, budget_db=whole + 0.2))
    kept = [layer for layer in report.layers if layer.reason.startswith(f"{EIGHT_BITS}, over the budget: ")]
    assert kept and all(re.search(r"alone, pictures have \d+\.\d dB$", layer.reason) for layer in kept)
    assert any(layer.reason == FOUR_BITS for layer in report.layers)
    assert report.comparison.loss.psnr_db >= whole + 0.2


@sweep
def test_a_text_encoder_that_misses_its_gate_stays_float(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(choice, "groups_of", lambda layers: sensitivity.groups_of(layers, 1))
    options = ["--precision", "w4", "--steps", "1", "--images", "1", "--evaluations", "1", "--text-gate", "200"]
    result = CliRunner().invoke(cli, ["calibrate", str(bundle), str(tmp_path / "out"), *options])
    assert result.exit_code == 0, result.output
    assert re.search(r"(?m)^text_encoder stays float: pictures of prompts .* the gate is 200 dB$", result.stdout)
    assert re.search(rf"(?m)^w4 +\d+ layers: {FOUR_BITS}$", result.stdout)
    before, after = (open_bundle(folder).manifest.components for folder in (bundle, tmp_path / "out"))
    assert before["text_encoder"] == after["text_encoder"]


def test_tensorrt_rtx_builds_it(made, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    whole = open_bundle(made[0])
    for name in ("unet", "text_encoder"):
        (tmp_path / name).mkdir()
        alone = written(tmp_path / name, whole, {name: whole.manifest.components[name]})
        [plan] = build(alone.folder, BuildOptions("tensorrt-rtx", ("sm86",), batches=(2,)))
        assert (plan.component, plan.gpu) == (name, "sm86") and plan.bytes == plan.path.stat().st_size > 0


@sweep
def test_openvino_draws_the_same(made):
    """On processors with VNNI it rounds the inputs of products to 8 bits."""
    pictures = []
    for engine in ("onnxruntime", "openvino"):
        with latentrt.load(made[0], engine=engine) as pipe:
            pictures.append(np.asarray(pipe.generate("a rocket", steps=2, seed=0).images[0], np.float64))
    error = np.sqrt(np.square(pictures[0] - pictures[1]).mean())
    assert error < 1.0  # 48 dB; 1e-3 and less without the rounding


@sweep
def test_text_encoders_have_a_gate_in_8_bits_too(bundle, tmp_path):
    few = replace(FEW, images=1, evaluations=1, steps=1)
    report = calibrate(bundle, tmp_path / "w8", "w8", few)
    encoder = open_bundle(tmp_path / "w8").manifest.components["text_encoder"]
    assert encoder.precision == "w8" and encoder.quantization == report.encoders[0].report.quantization
    assert not encoder.eight_bit_bytes, "in w8 it is all of them"


def test_the_command_shows_the_layers_of_each_width(made):
    lines = CliRunner().invoke(cli, ["inspect", str(made[0])]).stdout
    count = len(small(made[1]))
    assert re.search(rf"(?m)^unet  w4  .*\n  .*\b{count} layers: {FOUR_BITS}\b.*; before \d", lines)


def test_lora_files_stand_beside_the_weights(made, tmp_path):
    shapes = {name: shape for name, shape in layers_of(tiny.build_unet(**FEWER)).items() if "attn1" in name}
    added = save_lora(tmp_path / "a.safetensors", "unet", shapes)
    with latentrt.load(made[0], engine="onnxruntime") as pipe:
        feeds = random_feeds(pipe.bundle.manifest.components["unet"], 3)
        found = pipe.with_loras({tmp_path / "a.safetensors": 1.0}).engines["unet"](feeds)
        assert furthest(found, outputs(pipe.bundle, "unet", added, feeds)) < 1e-5


def test_text_encoders_stay_float_in_int8(bundle, tmp_path):
    with pytest.raises(RequestError, match="text gate: got 5 dB with the precision int8.*--precision w4"):
        calibrate(bundle, tmp_path / "out", "int8", FEW)


@pytest.fixture(scope="module")
def transformer(tmp_path_factory):
    """A small PixArt; T5's layers are as wide as the transformer's."""
    path = tmp_path_factory.mktemp("pixart")
    theirs = pixart.reference(caption_channels=32)
    theirs.text_encoder = pixart.build_text_encoder(d_model=32, d_kv=8, d_ff=64)
    theirs.save_pretrained(path / "checkpoint")
    export(path / "checkpoint", path / "bundle", ExportOptions("w16"))
    return path / "bundle"


@sweep
def test_a_transformer_and_its_text_encoder_are_quantized_too(transformer, tmp_path):
    out = tmp_path / "w4"
    report = calibrate(transformer, out, "w4", FEW)
    before, after = (open_bundle(folder).manifest for folder in (transformer, out))
    changed = {name for name in before.components if before.components[name] != after.components[name]}
    assert changed == {"transformer", "text_encoder"} and report.component == "transformer"
    assert all(any(layer.reason == FOUR_BITS for layer in one.layers) for one in report.components)
    assert report.comparison.loss.psnr_db > 20 and all(one.bytes_after < one.bytes_before for one in report.components)
    with latentrt.load(out) as pipe:
        assert pipe.generate(pixart.PROMPT, steps=2, **pixart.SIZE).images[0].size == (96, 64)


@sweep
def test_flux2_and_qwen3_are_quantized_too(tmp_path):
    klein.opened_pair(tmp_path)
    report = calibrate(tmp_path / "bundle", tmp_path / "w4", "w4", replace(FEW, steps=2))
    assert [one.component for one in report.components] == ["transformer", "text_encoder"]
    assert all(any(layer.reason == FOUR_BITS for layer in one.layers) for one in report.components)
    assert report.comparison.loss.psnr_db > 40
    with latentrt.load(tmp_path / "w4") as pipe:
        assert pipe.generate(klein.PROMPT, **klein.SIZE).images[0].size == (klein.SIZE["width"], klein.SIZE["height"])


@sweep
def test_activations_of_a_transformer_stay_float(transformer, tmp_path):
    with pytest.raises(BundleError, match="a transformer, expected a UNet.*--precision w4"):
        calibrate(transformer, tmp_path / "out", "int8", replace(FEW, text_gate_db=None))
