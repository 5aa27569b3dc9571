"""Calibration, building and LoRA files of a model without prompts that is shown a picture: LDM's super-resolution."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from diffusers import LDMSuperResolutionPipeline, UNet2DModel

import latentrt
from latentrt.bundle.folder import open_bundle
from latentrt.cli import cli
from latentrt.errors import EngineError
from latentrt_calib.calibrate import CalibrationOptions, calibrate
from latentrt_calib.recording.inits import drawn_picture
from latentrt_calib.recording.record import DECODER, record
from latentrt_export.build.tensorrt import BuildOptions, build
from latentrt_export.export import ExportOptions, export
from tests.export import ldm, tiny
from tests.export.parts import written
from tests.one_thread import one_thread

UNET = {
    **ldm.UNET,
    "in_channels": 6,
    "layers_per_block": 1,
    "block_out_channels": (32, 32),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}
OPTIONS = CalibrationOptions(("",), ("",), images=2, steps=2, evaluations=2, budget_db=5.0, vae_gate_db=5.0)


@pytest.fixture(scope="module", autouse=True)
def few_threads():
    with one_thread():
        yield


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A small bundle that upscales by four."""
    path = tmp_path_factory.mktemp("upscaler")
    unet = tiny.seeded(lambda: UNet2DModel(**UNET))
    LDMSuperResolutionPipeline(ldm.first_stage(), unet, ldm.scheduler()).save_pretrained(path / "checkpoint")
    export(path / "checkpoint", path / "bundle", ExportOptions())
    return path / "bundle"


@pytest.fixture(scope="module")
def quantized(bundle, tmp_path_factory):
    """The bundle in INT8, and its report."""
    out = tmp_path_factory.mktemp("int8") / "int8"
    return out, calibrate(bundle, out, "int8", OPTIONS)


def test_pictures_are_recorded_in_the_channels_after_the_latents(bundle, tmp_path):
    with latentrt.load(bundle, engine="onnxruntime") as pipeline:
        recording = record(pipeline, ("", ""), steps=2, folder=tmp_path / "recording")
        calls, decoded = [*recording.calls(1)], [*recording.of(DECODER).calls(1)]
        expected = np.asarray(drawn_picture(1, 16, 16), np.float32).transpose(2, 0, 1) / 127.5 - 1
        for call in calls:
            np.testing.assert_allclose(call.feeds["sample"][0, 3:], expected, atol=1e-6)
        request = {"init": drawn_picture(1, 16, 16), "seed": 1, "steps": 2, "width": 64, "height": 64}
        *_, last = pipeline.steps(latentrt.Request(**request))
        latents = pipeline.quantized(pipeline.bundle.manifest.latents.for_vae(last.latents))
    assert len(calls) == 2 and len({*recording.settings.inits}) == 2
    # The decoder sees vectors of the codebook.
    np.testing.assert_array_equal(decoded[0].feeds["latents"], latents)


def test_unet_and_decoder_are_quantized_and_the_quantizer_is_not(bundle, quantized):
    out, report = quantized
    before, after = open_bundle(bundle).manifest, open_bundle(out).manifest
    assert {name: one.precision for name, one in after.components.items() if one.precision == "int8"} == {
        "unet": "int8",
        "vae_decoder": "int8",
    }
    assert after.components["unet"].attention_factor == 2 and after.latents.multiple == 2
    assert after.components["quantizer"] == before.components["quantizer"]
    assert report.macs_int8_share_of_layers > 0.9 and report.comparison.loss.psnr_db > 20
    assert "conv_in" in {layer.name for layer in report.float_layers}
    assert report.settings["pictures that it is shown"] == "drawn" and "calibration prompts" not in report.settings
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "The least alike: seed 1000" in page and "\u201c\u201d" not in page


def test_the_quantized_bundle_upscales_and_is_compared(bundle, quantized, tmp_path):
    out, _ = quantized
    with latentrt.load(out, engine="onnxruntime") as pipeline:
        result = pipeline.generate(init=drawn_picture(7, 24, 16), steps=1, batch=3)
    assert [image.size for image in result.images] == [(96, 64)] * 3
    drawn_picture(5, 40, 30).save(tmp_path / "own.png")
    arguments = ["--images", "1", "--steps", "1", "--init", str(tmp_path), "--json"]
    found = CliRunner().invoke(cli, ["compare", str(bundle), str(out), *arguments])
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["pairs"][0]["psnr_db"] > 20


def test_tensorrt_rtx_builds_the_quantizer(bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "quantizer").mkdir()
    whole = open_bundle(bundle)
    alone = written(tmp_path / "quantizer", whole, {"quantizer": whole.manifest.components["quantizer"]})
    [plan] = build(alone.folder, BuildOptions("tensorrt-rtx", ("sm86",)))
    assert (plan.component, plan.floats) == ("quantizer", "fp32") and plan.bytes == plan.path.stat().st_size


def test_lora_files_are_refused_by_one_line(bundle, tmp_path):
    with (
        latentrt.load(bundle, engine="onnxruntime") as pipeline,
        pytest.raises(EngineError, match=r"ldm-super-resolution model without cross_kv, expected a Stable Diffusion"),
    ):
        pipeline.with_loras({tmp_path / "style.safetensors": 1.0})


@pytest.mark.parametrize("command", ["bench", "estimate", "inspect"])
def test_commands_find_a_request_that_the_model_takes(bundle, command):
    more = {"bench": ["--runs", "1", "--warmups", "1", "--steps", "1", "--engine", "cpu", "--json"]}
    found = CliRunner().invoke(cli, [command, str(bundle), *more.get(command, [])])
    assert found.exit_code == 0, found.output
    said = {"bench": '"width": 64', "estimate": "quantizer", "inspect": "width and height in multiples of 8 pixels"}
    assert said[command] in found.stdout
