"""Calibration whole, on the small checkpoint: what the bundle holds, what it refuses, that it can be killed."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import onnx
import pytest
from click.testing import CliRunner

import latentrt
from latentrt.bundle.folder import open_bundle
from latentrt.cli import INTERRUPTED, cli
from latentrt.errors import BundleError, FidelityError, OutputError
from latentrt_calib.calibrate import calibrate
from latentrt_calib.evaluate import sensitivity
from latentrt_calib.precisions import choice as module
from latentrt_calib.quantize.planning import Recipe
from latentrt_calib.report.layer_reports import BY_RULE, OVER_BUDGET
from latentrt_export.build.tensorrt import BuildOptions as Build
from latentrt_export.build.tensorrt import build
from tests.calib.small import OPTIONS, digests
from tests.export.parts import written
from tests.one_thread import one_thread
from tests.sweep import sweep

# What it says when a stage begins, and how it is stopped there; then it is begun anew.
STOPS = (
    ("recording image 2", signal.SIGKILL),
    ("observing unet", signal.SIGINT),
    ("observing vae_decoder", signal.SIGKILL),
)
STATUS = {signal.SIGKILL: -signal.SIGKILL, signal.SIGINT: INTERRUPTED}


def decoder_of(manifest):
    """What a manifest says of the VAE decoder and its file."""
    component = manifest.components["vae_decoder"]
    return component, manifest.files[component.file]


@pytest.fixture(scope="module", autouse=True)
def few_threads():
    with one_thread():
        yield


def test_the_bundle_is_whole_and_draws(quantized):
    out, report, _ = quantized
    manifest = open_bundle(out).manifest
    unet = manifest.components["unet"]
    assert unet.precision == "int8" and unet.quantization.target == "cpu"
    assert unet.quantization == report.quantization
    with latentrt.load(out) as pipe:
        assert pipe.generate("a rocket", steps=2).images[0].size == (64, 64)
    assert sorted(path.name for path in out.parent.iterdir()) == ["cpu"], "what was kept on the way is gone"


def test_nearly_all_work_is_in_int8_and_pictures_stay(quantized):
    _, report, _ = quantized
    assert report.macs_int8_share_of_layers > 0.95
    assert report.macs_int8_share_of_all < report.macs_int8_share_of_layers
    assert report.comparison.loss.psnr_db > 30 and report.bytes_after < 0.8 * report.bytes_before
    assert {layer.name for layer in report.float_layers} == {"conv_in", "conv_out"}
    assert all(layer.reason == BY_RULE for layer in report.float_layers)


def test_the_vae_decoder_is_quantized_by_its_own_gate(bundle, quantized):
    out, report, lines = quantized
    before, after = (open_bundle(one).manifest.components["vae_decoder"] for one in (bundle, out))
    gate, own = report.decoder, report.decoder.report
    assert before.quantization is None and after.precision == "int8" and after.quantization == own.quantization
    assert gate.psnr_db == own.comparison.loss.psnr_db >= gate.gate_db
    assert set(own.comparison.loss.latents_error) == {0.0}, "it decoded the float UNet's latents"
    assert {layer.name.split(".")[-1] for layer in own.float_layers} == {"post_quant", "conv_in", "conv_out"}
    assert own.macs_int8_share_of_layers > 0.9
    assert f"vae_decoder in int8: {gate.psnr_db:.2f} dB, the gate is 5 dB" in lines
    assert "The VAE decoder" in (out / "report.html").read_text(encoding="utf-8")
    figures = json.loads((out / "report.json").read_text(encoding="utf-8"))["decoder"]
    assert figures["psnr_db"] == gate.psnr_db and len(figures["report"]["layers"]) == len(own.layers)


def test_every_quantized_layer_is_reported_with_its_noise_and_ranges(quantized):
    _, report, _ = quantized
    for layer in (*report.layers, *report.decoder.report.layers):
        assert layer.snr_db is None or layer.snr_db > 5, layer.name
        if layer.reason is None:
            low, high = layer.clip
            assert low <= 0 <= high
    assert {len(layer.ranges) for layer in report.layers if layer.reason is None} == {len(report.buckets)}


def test_the_page_shows_the_pictures(quantized):
    out, *_ = quantized
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") >= 4 and "down_blocks.0.resnets.0.conv1" in page


def test_all_figures_of_the_page_are_there_for_programs(quantized):
    out, report, _ = quantized
    figures = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert [len(layer["ranges"]) for layer in figures["layers"]] == [len(layer.ranges) for layer in report.layers]
    assert figures["comparison"]["other"]["sha256"] == open_bundle(out).sha256
    assert (report.settings["steps"], report.settings["sampler"]) == (2, "ddim")


def test_other_options_do_not_take_up_what_was_kept(bundle, tmp_path):
    out = tmp_path / "cpu"

    def stop(line):
        if line.startswith("recording"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate(bundle, out, "int8", OPTIONS, stop)
    with pytest.raises(OutputError, match="steps"):
        calibrate(bundle, out, "int8", replace(OPTIONS, steps=3))
    assert not out.exists()


@pytest.fixture(scope="module")
def tensorrt(bundle, tmp_path_factory):
    """The bundle in TensorRT's form, its VAE decoder as it was, and the report."""
    out, recipe = tmp_path_factory.mktemp("tensorrt") / "int8", Recipe("tensorrt", clip=False)
    options = replace(OPTIONS, recipe=recipe, images=1, evaluations=1, vae_gate_db=None)
    return out, calibrate(bundle, out, "int8", options)


def test_tensorrts_form_has_a_float_bias_and_no_zero_points(tensorrt):
    out, report = tensorrt
    graph = onnx.load(out / "unet.onnx").graph
    constants = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    quantizers = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    assert quantizers and report.target == "tensorrt"
    assert all(constants[node.input[2]].dtype == "int8" and not constants[node.input[2]].any() for node in quantizers)
    assert not any(array.dtype == "int32" for array in constants.values())


def test_tensorrt_rtx_builds_it(tensorrt, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "unet").mkdir()
    whole = open_bundle(tensorrt[0])
    alone = written(tmp_path / "unet", whole, {"unet": whole.manifest.components["unet"]})
    [plan] = build(alone.folder, Build("tensorrt-rtx", ("sm86",), batches=(2,)))
    assert (plan.component, plan.floats, plan.gpu) == ("unet", "fp16", "sm86")
    assert plan.bytes == plan.path.stat().st_size > (alone.folder / "unet.onnx").stat().st_size


def test_a_budget_keeps_the_costliest_layers_in_float_or_is_refused(bundle, quantized, tmp_path, monkeypatch):
    """One run that meets its budget, after one that asked for too much and left its work to be taken up."""
    monkeypatch.setattr(module, "groups_of", lambda layers: sensitivity.groups_of(layers, 4))
    _, all_int8, lines = quantized
    whole = float(re.search(r"all \d+ layers in 8 bits: (\S+) dB", "\n".join(lines))[1])
    out, budget, unet_alone = tmp_path / "out", whole + 1.0, replace(OPTIONS, vae_gate_db=None)
    with pytest.raises(FidelityError, match=r"the budget of 200 dB cannot be met: the best was \d+\.\d+ dB"):
        calibrate(bundle, out, "int8", replace(unet_alone, budget_db=200.0))
    assert not out.exists()
    again = []
    report = calibrate(bundle, out, "int8", replace(unet_alone, budget_db=budget), again.append)
    assert not any("sensitivity" in line for line in again), "each layer's damage was kept"
    kept = [layer for layer in report.float_layers if layer.reason.startswith(OVER_BUDGET)]
    assert all(re.search(r"alone, pictures have \d+\.\d dB$", layer.reason) for layer in kept), (
        "what each costs is said"
    )
    assert kept and report.comparison.loss.psnr_db >= budget
    assert 0 < report.macs_int8_share_of_layers < all_int8.macs_int8_share_of_layers
    assert 1 < len(report.sensitivity) <= 4


def test_w8_stores_weights_in_int8_and_computes_in_float(bundle, tmp_path):
    report = calibrate(bundle, tmp_path / "w8", "w8", replace(OPTIONS, vae_gate_db=None))
    assert report.comparison.loss.psnr_db > 40 and report.bytes_after < 0.8 * report.bytes_before
    assert report.macs_int8_share_of_layers == 0
    manifest = open_bundle(tmp_path / "w8").manifest
    assert manifest.components["unet"].precision == "w8"
    before = open_bundle(bundle).manifest
    assert report.decoder is None and decoder_of(manifest) == decoder_of(before), "nobody asked for the VAE decoder"


@pytest.mark.parametrize(("gate", "precision", "said"), [(30, "w8", "is quantized"), (200, "w16", "stays float")])
def test_the_command_says_what_became_of_the_vae_decoder(bundle, tmp_path, gate, precision, said):
    out = tmp_path / "out"
    options = ["--precision", "w8", "--steps", "1", "--evaluations", "2", "--vae-gate", str(gate)]
    result = CliRunner().invoke(cli, ["calibrate", str(bundle), str(out), *options])
    assert result.exit_code == 0, result.output
    assert re.search(rf"(?m)^vae_decoder {said}: pictures .* \d+\.\d\d dB, the gate is {gate} dB$", result.stdout)
    before, after = open_bundle(bundle).manifest, open_bundle(out).manifest
    assert after.components["vae_decoder"].precision == precision
    assert (decoder_of(after) == decoder_of(before)) == (said == "stays float")
    assert said in (out / "report.html").read_text(encoding="utf-8")
    with latentrt.load(out) as pipe:
        assert pipe.generate("a rocket", steps=1).images[0].size == (64, 64)


def test_a_quantized_bundle_is_refused(quantized, tmp_path):
    with pytest.raises(BundleError, match="quantized already.*latentrt export"):
        calibrate(quantized[0], tmp_path / "out", "int8", OPTIONS)
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_exists_is_refused_before_any_work(bundle, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match="exists"):
        calibrate(bundle, tmp_path / "out", "int8", OPTIONS, lambda line: pytest.fail(line))


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "no prompt"), (b"# only this\n\n", "no prompt"), (b"\xff\xfe", "UTF-8")]
)
def test_a_file_without_prompts_is_wrong_usage(bundle, tmp_path, content, said):
    (tmp_path / "prompts.txt").write_bytes(content)
    arguments = ["calibrate", str(bundle), str(tmp_path / "out"), "--prompts", str(tmp_path / "prompts.txt")]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code != 0 and said in str(result.exception or result.output)
    assert not (tmp_path / "out").exists()


def test_the_command_prints_what_it_came_to(bundle, tmp_path):
    arguments = ["calibrate", str(bundle), str(tmp_path / "out"), "--precision", "w8", "--steps", "1"]
    result = CliRunner().invoke(cli, [*arguments, "--evaluations", "1", "--json"])
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    assert figures["precision"] == "w8" and figures["comparison"]["loss"]["pictures"] == 1
    shutil.rmtree(tmp_path / "out")


def test_no_torch_is_needed():
    code = (
        "import sys; blocked = ('torch', 'diffusers', 'transformers')\n"
        "sys.modules.update(dict.fromkeys(blocked))\n"  # importing what is None there raises ImportError
        "import latentrt_calib.calibrate, latentrt_calib.cli.calibrate"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def one_core():
    """The fixture's bundle was made with one thread."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


@pytest.fixture
def begin(bundle, tmp_path):
    """Starts the command."""
    files = {"prompts": OPTIONS.calibration, "evaluation": OPTIONS.evaluation}
    options = [f"--budget={OPTIONS.budget_db}", f"--vae-gate={OPTIONS.vae_gate_db}"]
    options += [f"--{name}={getattr(OPTIONS, name)}" for name in ("images", "steps", "evaluations")]
    for name, prompts in files.items():
        (tmp_path / name).write_text("\n".join(prompts))
        options.append(f"--{name}={tmp_path / name}")
    command = [sys.executable, "-m", "latentrt", "calibrate", bundle, tmp_path / "out" / "cpu", *options]
    return lambda: subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=one_core)


def stop_at(process, stage, how):
    """Sends the signal once the process says that the stage begins; returns its exit status and what it said after."""
    with process:
        for line in process.stderr:
            if line.startswith(stage):
                process.send_signal(how)
                rest = process.stderr.read()
                return process.wait(), rest
    pytest.fail(f"it ended before {stage!r}")


@sweep
def test_killed_and_interrupted_it_ends_with_the_same_bytes(begin, quantized, tmp_path):
    for stage, how in STOPS:
        status, said = stop_at(begin(), stage, how)
        assert status == STATUS[how] and "Traceback" not in said
        assert [path.name for path in (tmp_path / "out").iterdir()] == [".cpu.calibration"], stage
    with begin() as last:
        _, said = last.communicate()
    assert last.returncode == 0, said
    assert "recording image" not in said and "observing unet" not in said, "both were kept"
    assert digests(tmp_path / "out" / "cpu") == digests(quantized[0])
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["cpu"]
