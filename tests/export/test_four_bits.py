"""Exports in 4 bits: their weights, what stays wider, and what is refused."""

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from click.testing import CliRunner

import latentrt
from latentrt.bundle.folder import open_bundle
from latentrt.cli import cli
from latentrt.errors import FidelityError
from latentrt_export.build.tensorrt import BuildOptions, build
from latentrt_export.export import ExportOptions, export
from latentrt_export.graph.four_bit_weights import in_blocks
from latentrt_export.graph.precision import PRECISIONS
from tests.export import klein, tiny
from tests.export.parts import written
from tests.sweep import sweep

pytestmark = pytest.mark.usefixtures("one_thread")

FOUR_BITS = ("text_encoder", "unet")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("origin")
    tiny.save_diffusers_folder(path / "folder")
    return path / "folder"


@pytest.fixture(scope="module")
def made(checkpoint):
    """The bundle, with a shallow UNet."""
    export(checkpoint, out := checkpoint.parent / "w4", ExportOptions(precision="w4", step_cache=1))
    return out


def arrays(path):
    """The weights of a graph's file by name."""
    return {name: value.const_value.numpy() for name, value in ir.load(path).graph.initializers.items()}


def test_the_largest_components_have_four_bits_and_others_sixteen(made):
    components = open_bundle(made).manifest.components
    found = {name: one.precision for name, one in components.items()}
    assert found == {name: "w4" if name in (*FOUR_BITS, "unet_shallow") else "w16" for name in components}
    for name in FOUR_BITS:
        assert components[name].fidelity.gate == "PSNR at least 20 dB"
        assert 25 < components[name].fidelity.psnr_db < 60


def test_weights_are_the_checkpoint_s_rounded_to_half_precision_and_then_to_blocks(made):
    weight = tiny.build_unet().state_dict()["mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"]
    expected, stored = in_blocks(weight.half().float().numpy().T, scale_dtype=np.float16), arrays(made / "unet.onnx")
    same = [name for name, one in stored.items() if np.array_equal(one, expected.values)]
    assert len(same) == 1 and stored[same[0]].dtype == ir.DataType.INT4.numpy()
    np.testing.assert_array_equal(stored[same[0].replace(".quantized", ".scale")], expected.scales)


@pytest.mark.parametrize("name", [*FOUR_BITS, "unet_shallow"])
def test_the_manifest_counts_the_bytes_in_eight_bits(made, name):
    wide = sum(one.nbytes for one in arrays(made / f"{name}.onnx").values() if one.dtype == np.int8)
    assert open_bundle(made).manifest.components[name].eight_bit_bytes == wide
    assert (wide > 0) == (name != "text_encoder")


def test_all_graphs_are_valid(made):
    for path in made.glob("*.onnx"):
        onnx.checker.check_model(onnx.load(path), full_check=True)


@sweep
def test_the_command_draws_with_and_without_a_step_cache(made, checkpoint, tmp_path):
    out = tmp_path / "bundle"
    told = CliRunner().invoke(cli, ["export", str(checkpoint), str(out), "--precision", "w4", "--step-cache", "1"])
    assert told.exit_code == 0, told.output
    assert (out / "unet.onnx").read_bytes() == (made / "unet.onnx").read_bytes()
    with latentrt.load(out) as pipe:
        plain, cached = (pipe.generate("a rocket", steps=4, cache=cache).images[0] for cache in (None, 2))
    assert np.asarray(plain).shape == np.asarray(cached).shape == (64, 64, 3) and np.asarray(plain).std() > 1


def test_a_graph_that_loses_too_much_leaves_nothing_and_names_the_next_command(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(PRECISIONS, "w4", replace(PRECISIONS["w4"], psnr_db=90.0))
    expected = (
        r"text_encoder: .* expected PSNR at least 90 dB; .* `latentrt calibrate --precision w4`, which keeps in 8"
    )
    with pytest.raises(FidelityError, match=expected):
        export(checkpoint, tmp_path / "out", ExportOptions(precision="w4"))
    assert not [*tmp_path.iterdir()]


def test_it_takes_no_calibration(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = CliRunner().invoke(cli, ["calibrate", str(made), "out"])
    assert told.exit_code == 1 and "latentrt export" in str(told.exception)
    assert not [*tmp_path.iterdir()]


@sweep
def test_a_transformer_s_table_of_modulations_is_w16_and_draws(tmp_path):
    with (made := klein.opened_pair(tmp_path, precision="w4")).ours as pipe:
        components = pipe.bundle.manifest.components
        found = {name: components[name].precision for name in ("text_encoder", "transformer", "time_bias")}
        assert found == {"text_encoder": "w4", "transformer": "w4", "time_bias": "w16"}
        assert 30 < made.psnr(steps=4) < 100  # against the pipeline in float32


@sweep
def test_tensorrt_rtx_builds_it(made, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    whole = open_bundle(made)
    for name in FOUR_BITS:
        (tmp_path / name).mkdir()
        alone = written(tmp_path / name, whole, {name: whole.manifest.components[name]})
        [plan] = build(alone.folder, BuildOptions("tensorrt-rtx", ("sm86",), batches=(2,)))
        assert (plan.component, plan.gpu) == (name, "sm86") and plan.bytes > 0
