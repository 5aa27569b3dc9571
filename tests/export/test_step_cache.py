"""Bundles with step caching: what is cut out of small models with control networks, LoRA files, and the command."""

import json
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner

import latentrt
from latentrt.bundle.catalog import folder_of
from latentrt.bundle.folder import open_bundle
from latentrt.errors import FidelityError, RequestError
from latentrt.lora.files import Lora
from latentrt.tensors import shape_of
from latentrt_export import step_cache
from latentrt_export.checkpoint.named import NamedNetwork
from latentrt_export.cli.export import export as export_command
from latentrt_export.cli.step_cache import step_cache as command
from latentrt_export.export import ExportOptions, export
from latentrt_export.graph import save
from latentrt_export.graph.step_cache import without_features
from latentrt_export.step_cache import add_step_cache, without_step_cache
from latentrt_export.upgrade import upgrade
from tests.export import loras, tiny
from tests.export.adapters import build_adapter
from tests.export.controls import saved_controlnet
from tests.export.image_prompts import saved_prompts
from tests.export.parts import written
from tests.export.tiny_families import TINY, XL_DEEP, module_of, reference
from tests.sweep import rest_swept, sweep

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]

SIZES = ({"batch": 3, "height": 8, "width": 12}, {"batch": 1, "height": 9, "width": 13})


@pytest.fixture(scope="module")
def steered(tmp_path_factory):
    """A small Stable Diffusion XL, two layers a block, with a ControlNet, a T2I-Adapter and IP-Adapters."""
    folder = tmp_path_factory.mktemp("steered")
    family = replace(TINY["sdxl"], configs=XL_DEEP)
    unet = module_of("unet", XL_DEEP["unet"])
    reference(family, folder / "tokenizers").save_pretrained(folder / "checkpoint")
    saved_controlnet(unet, folder / "canny")
    build_adapter("xl").save_pretrained(folder / "sketch")
    canny, sketch = (NamedNetwork(name, folder / name) for name in ("canny", "sketch"))
    prompts = saved_prompts(unet, folder)
    options = ExportOptions(controls=(canny,), adapters=(sketch,), image_prompts=prompts)
    export(folder / "checkpoint", folder / "bundle", options)
    return folder / "bundle"


def feeds_of(component, sizes):
    """Random inputs of a component."""
    random = np.random.default_rng(0)
    shapes = {spec: shape_of(spec, sizes) for spec in component.inputs}
    return {spec.name: random.standard_normal(shape).astype(spec.dtype) for spec, shape in shapes.items()}


def called(pipeline, name, feeds):
    """The outputs of a component. feeds: its inputs, and others."""
    component = pipeline.bundle.manifest.components[name]
    return pipeline.engines[name]({spec.name: feeds[spec.name] for spec in component.inputs})


@pytest.mark.parametrize("boundary", rest_swept([1, 2, 3], []))
def test_a_steered_model_with_a_short_controlnet(steered, tmp_path, boundary):
    before = open_bundle(steered).manifest
    after = add_step_cache(steered, tmp_path / "out", boundary)
    names = [*before.components]
    for name in ("control_canny", "unet"):
        names.insert(names.index(name) + 1, f"{name}_shallow")
    assert [*after.components] == names
    whole, shallow = after.components["unet"], after.components["unet_shallow"]
    assert (shallow.role, shallow.boundary, after.shallow) == ("shallow_denoiser", boundary, "unet_shallow")
    assert shallow.inputs == (*(one for one in whole.inputs if one in shallow.inputs), whole.outputs[-1])
    assert (whole.outputs[:-1], shallow.fidelity) == (before.components["unet"].outputs, whole.fidelity)
    with latentrt.load(steered, engine="cpu") as old, latentrt.load(tmp_path / "out", engine="cpu") as new:
        for sizes in SIZES:
            check_steered(old, new, {**after.sizes(), **sizes})


def check_steered(old, new, sizes):
    """Holds a shallow UNet and a short ControlNet against the whole ones, bit for bit, at these sizes."""
    components = new.bundle.manifest.components
    feeds = feeds_of(components["control_canny"], sizes)
    whole, short = (called(new, f"control_canny{end}", feeds) for end in ("", "_shallow"))
    assert [*short] == ["residual_0"]
    computed = np.abs(short["residual_0"]).max((0, 2, 3)) > 0
    assert np.count_nonzero(computed) == 32 * components["unet_shallow"].boundary
    np.testing.assert_array_equal(short["residual_0"][:, computed], whole["residual_0"][:, computed])
    feeds = feeds_of(components["unet"], sizes) | whole
    expected, full = called(old, "unet", feeds)["prediction"], called(new, "unet", feeds)
    np.testing.assert_array_equal(full["prediction"], expected)
    np.testing.assert_array_equal(called(new, "unet_shallow", feeds | full | short)["prediction"], expected)
    nothing = {"residual_0": np.zeros_like(short["residual_0"])}
    assert np.abs(called(new, "unet_shallow", feeds | full | nothing)["prediction"] - expected).max() > 1e-3


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A small Stable Diffusion 1, two layers a block, with a LoRA file: plain, cut, and cut with the file fused.

    Weights lie beside the graphs, but for the smallest.
    """
    folder = tmp_path_factory.mktemp("plain")
    tiny.save_diffusers_folder(folder / "checkpoint", layers_per_block=2)
    modules = {"unet": tiny.build_unet(layers_per_block=2), "text_encoder": tiny.build_text_encoder()}
    loras.save_kohya(folder / "a.safetensors", loras.adapters(1, modules), alpha=5)
    made = {
        "plain": ExportOptions(),
        "cut": ExportOptions(step_cache=2),
        "fused": ExportOptions(step_cache=2, loras=(Lora(folder / "a.safetensors", 0.7),)),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(save, "LARGEST_SINGLE_FILE_BYTES", 0)
        for name, options in made.items():
            export(folder / "checkpoint", folder / name, options)
    return folder


@sweep
def test_a_lora_file_changes_both_graphs(plain):
    file = plain / "a.safetensors"
    with latentrt.load(plain / "cut", engine="cpu") as cut, latentrt.load(plain / "fused", engine="cpu") as fused:
        manifest, changed = cut.bundle.manifest, cut.with_loras({file: 0.7})
        assert manifest.components["unet"].data and manifest.components["unet_shallow"].data
        feeds = feeds_of(manifest.components["unet"], manifest.sizes() | SIZES[0])
        found = []
        for pipeline in (changed, fused, cut):
            full = called(pipeline, "unet", feeds)
            found.append([*full.values(), called(pipeline, "unet_shallow", feeds | full)["prediction"]])
            np.testing.assert_array_equal(found[-1][0], found[-1][2])
    for at_run_time, at_export, without in zip(*found, strict=True):
        np.testing.assert_allclose(at_run_time, at_export, rtol=0, atol=1e-5 * np.abs(at_export).max())
        assert np.abs(without - at_export).max() > 0.1 * np.abs(at_export).max()


@sweep
def test_the_export_and_the_command_make_the_same(plain, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(save, "LARGEST_SINGLE_FILE_BYTES", 0)
        made = add_step_cache(plain / "plain", tmp_path / "out", 2)
    assert made == open_bundle(tmp_path / "out").manifest
    assert made == replace(open_bundle(plain / "cut").manifest, provenance=made.provenance, name=made.name)


@sweep
def test_an_upgrade_restores_the_table_of_both_graphs(plain, tmp_path):
    add_step_cache(plain / "plain", tmp_path / "out", 1)
    manifest = open_bundle(tmp_path / "out").manifest
    table = (tmp_path / "out" / "lora_weights.json").read_bytes()
    files = {name: record for name, record in manifest.files.items() if name != "lora_weights.json"}
    step_cache.save_manifest(tmp_path / "out", replace(manifest, files=files, lora_weights=""))
    assert upgrade(tmp_path / "out")[1]
    assert (tmp_path / "out" / "lora_weights.json").read_bytes() == table
    assert open_bundle(tmp_path / "out").manifest == manifest
    assert {row[0] for row in json.loads(table)["copies"]["unet"].values()} == {"unet_shallow"}


@pytest.fixture(scope="module")
def uncut(tmp_path_factory):
    """The built-in model without its step caching."""
    folder, source = tmp_path_factory.mktemp("uncut"), open_bundle(folder_of("emoji"), verify=False)
    ir.save(without_features(ir.load(source.path("unet.onnx"))), folder / "unet.onnx")
    written(folder, source, without_step_cache(source.manifest).components)
    return folder


def test_the_command(uncut, tmp_path):
    out = tmp_path / "out"
    done = CliRunner().invoke(command, [str(uncut), str(out), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["boundary"] == 2
    manifest = open_bundle(out).manifest
    size = {name: manifest.files[one.file].bytes for name, one in manifest.components.items()}
    assert size["unet_shallow"] < 0.04 * size["unet"]


@sweep
@pytest.mark.parametrize("boundary", [1, 2])
def test_another_boundary_takes_the_place_of_the_first(plain, tmp_path, boundary):
    direct = add_step_cache(plain / "plain", tmp_path / "direct", boundary)
    again = add_step_cache(plain / "cut", tmp_path / "again", boundary)
    same = ("components", "tasks", "defaults", "presets")
    assert [getattr(again, name) for name in same] == [getattr(direct, name) for name in same]
    pictures = []
    for folder in ("direct", "again"):
        with latentrt.load(tmp_path / folder, engine="onnxruntime") as pipe:
            result = pipe.generate("a cat", steps=4, seed=0, cache=4, width=32, height=24)
            pictures.append(result.images[0].tobytes())
    assert pictures[0] == pictures[1]


def test_a_boundary_that_is_not_there_leaves_nothing(uncut, tmp_path):
    with pytest.raises(RequestError, match="got the boundary 4, expected 1 to 2"):
        add_step_cache(uncut, tmp_path / "out", 4)
    assert not [*tmp_path.iterdir()]


@sweep
def test_an_export_refuses_such_a_boundary_before_it_traces(plain, tmp_path):
    lines = []
    with pytest.raises(RequestError, match="got the boundary 4, expected 1 to 3"):
        export(plain / "checkpoint", tmp_path / "out", ExportOptions(step_cache=4), lines.append)
    assert (lines, [*tmp_path.iterdir()]) == ([], [])


@pytest.mark.parametrize("spoilt", ["unet", "unet_shallow"])
def test_a_graph_that_computes_something_else_is_not_kept(uncut, tmp_path, monkeypatch, spoilt):
    cut = getattr(step_cache, "give_features" if spoilt == "unet" else "make_shallow")

    def spoil(model, *arguments):
        made = cut(model, *arguments)
        node = [node for node in model.graph if node.op_type == "Conv"][-1]
        bias = node.inputs[2].producer().inputs[0]
        bias.const_value = ir.tensor(bias.const_value.numpy() * np.float16(1.01), name=bias.name)
        return made

    monkeypatch.setattr(step_cache, cut.__name__, spoil)
    with pytest.raises(FidelityError, match=f"^{spoilt}: got another prediction than the whole graph's, by up to"):
        add_step_cache(uncut, tmp_path / "out", 2)
    assert not [*tmp_path.iterdir()]


def test_the_option_of_export_is_a_boundary(tmp_path):
    done = CliRunner().invoke(export_command, ["a", str(tmp_path / "out"), "--step-cache", "0"])
    assert done.exit_code == 2 and "x>=1" in done.output
