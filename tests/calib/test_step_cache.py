"""Calibration of a bundle with step caching: both UNets in 8 bits, with one set of weights and scales."""

import json
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner

import latentrt
from latentrt.bundle.catalog import folder_of
from latentrt.bundle.folder import open_bundle, save_manifest
from latentrt.bundle.presets import Preset
from latentrt.bundle.quantization import PictureLoss
from latentrt.cli import cli
from latentrt.pipeline.load import load
from latentrt.tensors import shape_of
from latentrt_calib.calibrate import calibrate
from latentrt_calib.precisions.context import Context, recorded
from latentrt_calib.precisions.int8 import plan_all_layers
from latentrt_calib.quantize.planning import Recipe
from latentrt_calib.recording.record import SHALLOW, FeedRecorder
from latentrt_export.components.denoiser import unet_parts
from latentrt_export.components.steering import Steering
from latentrt_export.export import write_component
from latentrt_export.step_cache import add_step_cache, without_step_cache
from tests.calib.small import OPTIONS
from tests.export import tiny
from tests.export.controls import build_controlnet
from tests.export.parts import written
from tests.export.tiny_families import SMALL_UNET
from tests.one_thread import one_thread
from tests.runtime.fake import psnr
from tests.sweep import rest_swept

CONFIG = {
    **SMALL_UNET,
    "block_out_channels": (32, 64),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D"),
    "cross_attention_dim": 256,
}
# In 4 steps, two calls are the shallow UNet's. At boundary 2, the layer before the cut is a convolution.
STEPS, BOUNDARY = 4, 2
FEW = replace(OPTIONS, images=1, evaluations=1, steps=STEPS, budget_db=0.0, vae_gate_db=None)
SIZES = ({"batch": 3, "height": 8, "width": 12}, {"batch": 1, "height": 9, "width": 13})


@pytest.fixture(scope="module", autouse=True)
def few_threads():
    with one_thread():
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The built-in model with a small UNet, a ControlNet, step caching and a preset."""
    path = tmp_path_factory.mktemp("cached")
    (path / "plain").mkdir()
    source, unet = open_bundle(folder_of("emoji"), verify=False), tiny.build_unet(**CONFIG)
    steering = Steering({"canny": build_controlnet(unet)})
    parts = unet_parts(unet, steering=steering)
    made = {part.name: write_component(part, path / "plain", "w16", lambda line: None) for part in parts}
    written(path / "plain", source, {**without_step_cache(source.manifest).components, **made})
    manifest = add_step_cache(path / "plain", path / "cut", BOUNDARY)
    loss = PictureLoss(1, 30.0, 30.0, 0.9, 0.9, (0.1,))
    preset = Preset("ddim", 20, 2.0, 0.5, loss, 10, loss, cache=3)
    save_manifest(path / "cut", replace(manifest, presets={"fast": preset}))
    return path / "cut"


FORMS = [("int8", "cpu"), ("int8", "tensorrt"), ("w8", "cpu"), ("w4", "cpu")]


@pytest.fixture(scope="module", params=rest_swept(FORMS, FORMS[:1]), ids="-".join)
def made(request, source, tmp_path_factory):
    """The precision, the quantized bundle and the report."""
    (precision, target), out = request.param, tmp_path_factory.mktemp("made") / "out"
    return precision, out, calibrate(source, out, precision, replace(FEW, recipe=Recipe(target)))


def called(pipeline, name, feeds):
    """The outputs of a component. feeds: its inputs, and others."""
    component = pipeline.bundle.manifest.components[name]
    return pipeline.engines[name]({spec.name: feeds[spec.name] for spec in component.inputs})


def test_both_graphs_are_quantized_and_nothing_else(source, made):
    precision, out, report = made
    before, after = (open_bundle(folder).manifest for folder in (source, out))
    full, shallow = after.components["unet"], after.components["unet_shallow"]
    changed = {name for name in before.components if before.components[name] != after.components[name]}
    assert [*after.components] == [*before.components] and changed == {"unet", "unet_shallow"}
    assert full.precision == shallow.precision == precision and shallow.boundary == BOUNDARY
    assert full.quantization == report.quantization
    for name in changed:
        one, other = before.components[name], after.components[name]
        assert (one.inputs, one.outputs, one.sources) == (other.inputs, other.outputs, other.sources)
    assert before.files["unet_shallow.onnx"].bytes > after.files["unet_shallow.onnx"].bytes


def test_the_shallow_unet_has_figures_of_its_own_layers(source, made):
    _, out, _ = made
    before, after = (open_bundle(folder).manifest for folder in (source, out))
    full, shallow = (after.components[name].quantization for name in ("unet", "unet_shallow"))
    assert (shallow.bytes_before, shallow.loss) == (before.files["unet_shallow.onnx"].bytes, full.loss)
    assert 0 < shallow.macs < 0.6 * full.macs and {*shallow.layers} < {*full.layers}
    names = {layer.name for layer in shallow.layers}
    assert {"conv_in", "conv_out", "up_blocks.1.resnets.1.conv2"} < names
    assert not any(name.startswith(("mid_block", "up_blocks.0")) for name in names)


def test_presets_of_the_float_graphs_are_left_out(source, made):
    assert open_bundle(source).manifest.presets and not open_bundle(made[1]).manifest.presets


def test_the_shallow_unet_has_the_same_weights_and_scales(made):
    _, out, _ = made
    full, shallow = (ir.load(out / f"{name}.onnx").graph for name in ("unet", "unet_shallow"))
    for name, value in shallow.initializers.items():
        assert value.const_value.tobytes() == full.initializers[name].const_value.tobytes(), name
    kinds = [{node.op_type for node in graph} & {"QuantizeLinear", "DequantizeLinear"} for graph in (full, shallow)]
    assert kinds[0] == kinds[1] and kinds[0]


def test_with_fresh_features_it_computes_the_same_to_the_bit(made):
    _, out, _ = made
    random = np.random.default_rng(0)
    with latentrt.load(out, engine="cpu") as pipeline:
        manifest = pipeline.bundle.manifest
        for sizes in SIZES:
            specs = {spec.name: spec for name in ("unet", "control_canny") for spec in manifest.components[name].inputs}
            shapes = {name: shape_of(spec, manifest.sizes() | sizes) for name, spec in specs.items()}
            feeds = {name: random.standard_normal(shape).astype(specs[name].dtype) for name, shape in shapes.items()}
            residuals, short = (called(pipeline, f"control_canny{end}", feeds) for end in ("", "_shallow"))
            full = called(pipeline, "unet", feeds | residuals)
            shallow = called(pipeline, "unet_shallow", feeds | full | short)
            np.testing.assert_array_equal(shallow["prediction"], full["prediction"])
            stale = full | {"deep_features": full["deep_features"] + 0.1}
            apart = called(pipeline, "unet_shallow", feeds | stale | short)["prediction"] - full["prediction"]
            assert np.abs(apart).max() > 1e-3


def test_the_layer_before_the_cut_has_a_quantized_output(source, tmp_path):
    """Its output would be float if it were the graph's, and ONNX Runtime would compute the layer in float."""
    with load(source, engine="onnxruntime") as pipeline:
        context = Context(pipeline, FEW, tmp_path, lambda line: None)
        draft = plan_all_layers(context, recorded(context))
        names = [layer.name for layer in draft.layers if layer.output == "deep_features"]
        assert len(names) == 1 and draft.planned[names[0]].plan.output is not None
        model = draft.graph.quantized({name: one.plan for name, one in draft.planned.items()}, "cpu")
    [node] = [node for node in model.graph if node.outputs[0].name == "deep_features"]
    assert {use.node.op_type for use in node.outputs[0].uses()} == {"QuantizeLinear"}
    assert [value.name for value in model.graph.outputs] == ["prediction"]


def test_scales_cover_what_only_calls_of_the_shallow_unet_reach(source, tmp_path, monkeypatch):
    ranges, call = [], FeedRecorder.call

    def widened(self, component, timestep, feeds):
        if component == SHALLOW:
            feeds = {**feeds, "deep_features": 10 * feeds["deep_features"]}
            ranges.append(np.ptp(feeds["deep_features"]))
        call(self, component, timestep, feeds)

    monkeypatch.setattr(FeedRecorder, "call", widened)
    with load(source, engine="onnxruntime") as pipeline:
        context = Context(pipeline, replace(FEW, recipe=Recipe(clip=False)), tmp_path, lambda line: None)
        draft = plan_all_layers(context, recorded(context))
    readers = [layer.name for layer in draft.layers if layer.input == "deep_features"]
    assert readers and ranges
    for name in readers:
        assert 255 * draft.planned[name].plan.input.scale == pytest.approx(max(ranges), rel=0.1)


def test_the_loss_with_a_step_cache_is_told(made):
    precision, out, report = made
    cached = report.cached
    assert cached.every == 3 and {one.pictures for one in (cached.both, cached.cache, cached.quantization)} == {1}
    assert cached.both.psnr_db < min(report.comparison.loss.psnr_db, cached.cache.psnr_db)
    first, *others = (one.latents_error[0] for one in (cached.cache, cached.both, cached.quantization))
    assert first == 0 < others[0] == others[1], "the first call is full"
    figures = json.loads((out / "report.json").read_text(encoding="utf-8"))["cached"]
    assert figures["quantization"]["psnr_db"] == cached.quantization.psnr_db
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "With a step cache" in page and f"{cached.both.psnr_db:.1f}" in page


def test_the_losses_are_those_of_pictures_drawn_so(source, made):
    _, out, report = made
    drawn = {}
    for kind, folder, cache in (("full", source, None), ("cached", source, 3), ("both", out, 3)):
        with latentrt.load(folder, engine="cpu") as pipeline:
            [drawn[kind]] = pipeline.generate(FEW.evaluation[0], seed=1_000_000, steps=STEPS, cache=cache).images
    cached = report.cached
    for loss, one, other in (
        (cached.both, "both", "full"),
        (cached.cache, "cached", "full"),
        (cached.quantization, "both", "cached"),
    ):
        assert psnr(drawn[one], drawn[other]) == pytest.approx(loss.psnr_db, abs=0.01)


@pytest.mark.parametrize(("steps", "told"), [(STEPS, True), (2, False)])
def test_the_command_tells_it_unless_every_call_is_full(source, tmp_path, steps, told):
    arguments = ["calibrate", str(source), str(tmp_path / "out"), "--precision", "w8", "--steps", str(steps)]
    result = CliRunner().invoke(cli, [*arguments, "--evaluations", "1", "--budget", "200"])
    assert result.exit_code == 0, result.output
    assert ("one full call in 3: 1: PSNR" in result.stdout) == told
    assert ("cached pictures are below the budget of 200 dB" in result.stdout) == told
    assert ("cached" in json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))) == told
