"""Exports of the small checkpoint: what is in the graphs, what is recorded, and that a failed one leaves nothing."""

import json
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

import latentrt
from latentrt.bundle.folder import open_bundle
from latentrt.errors import CheckpointError, FidelityError, OutputError
from latentrt.sampling.schedule import NoiseSchedule
from latentrt_export import export as write
from latentrt_export.export import ExportOptions, export
from tests.export import compvis, tiny

pytestmark = pytest.mark.usefixtures("one_thread")

COMPONENTS = ("text_encoder", "time_bias", "cross_kv", "unet", "vae_decoder", "vae_encoder")
PRECISIONS = ("fp32", "fp16", "w16")
# Softmax nodes, one an attention: text layers; UNet: self and cross, one down, one middle, two up; one a VAE half.
ATTENTIONS = {"text_encoder": 2, "cross_kv": 0, "time_bias": 0, "unet": 8, "vae_decoder": 1, "vae_encoder": 1}
FLOATS = {"fp32": "float32", "fp16": "float16", "w16": "float32"}


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    """A folder, a single file and its configs that no test changes."""
    path = tmp_path_factory.mktemp("origin")
    tiny.save_diffusers_folder(path / "folder")
    tiny.save_configs(path / "configs")
    modules = tiny.build_unet(), tiny.build_vae(), tiny.build_text_encoder()
    compvis.save_single_file(*modules, path / "tiny.safetensors", torch.float32)
    return path


@pytest.fixture(scope="module")
def exported(origin):
    """Returns the folder of an export in the given precision, made once."""

    def make(precision):
        out = origin / precision
        if not out.exists():
            export(origin / "folder", out, ExportOptions(precision=precision))
        return out

    return make


def graphs(folder):
    return {name: onnx.load(folder / f"{name}.onnx") for name in COMPONENTS}


def shape_of(value):
    return tuple(axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_gates_are_recorded_and_kept(exported, precision):
    components = open_bundle(exported(precision)).manifest.components
    assert tuple(components) == COMPONENTS
    for name, component in components.items():
        lost = component.fidelity
        assert component.precision == precision
        assert component.data == ()
        if precision == "fp32":
            assert lost.gate == "relative error at most 0.0001"
            assert lost.relative_error <= 1e-5
        else:
            assert lost.gate == "PSNR at least 40 dB"
            assert 60 <= lost.psnr_db <= 120, name  # something was lost: the weights really are in fp16


@pytest.mark.parametrize("precision", PRECISIONS)
def test_manifest_is_the_checkpoint_s(exported, precision):
    manifest = open_bundle(exported(precision)).manifest
    assert (manifest.name, manifest.family) == ("folder", "sd1")
    assert manifest.tasks == ("text-to-image", "image-to-image", "inpainting")
    assert manifest.schedule == NoiseSchedule(
        1000, "scaled_linear", 0.00085, 0.012, "epsilon", False, "leading", 1, "first"
    )
    assert (manifest.defaults.sampler, manifest.defaults.width, manifest.defaults.height) == ("ddim", 64, 64)
    assert (manifest.latents.channels, manifest.latents.factor, manifest.latents.scaling) == (4, 8, 0.18215)
    assert manifest.text.layers == 2
    assert (manifest.tokenizer.length, manifest.tokenizer.bos, manifest.tokenizer.eos) == (32, 0, 1)
    assert manifest.provenance["source"] == "folder"
    assert set(manifest.files) == {f"{name}.onnx" for name in COMPONENTS} | {
        "tokenizer/tokenizer.json",
        "lora_weights.json",
    }


@pytest.mark.parametrize("precision", PRECISIONS)
def test_nothing_but_the_listed_files(exported, precision):
    folder = exported(precision)
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found == {*open_bundle(folder).manifest.files, "bundle.json"}
    assert not [path.name for path in folder.parent.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_graph_rules(exported, precision):
    for name, model in graphs(exported(precision)).items():
        onnx.checker.check_model(model, full_check=True)
        operators = Counter(node.op_type for node in model.graph.node)
        assert [(opset.domain, opset.version <= 20) for opset in model.opset_import] == [("", True)]
        assert model.ir_version <= 10
        assert {node.domain for node in model.graph.node} == {""}
        assert not model.functions
        assert not any(operator.startswith(("Random", "If", "Loop", "Scan")) for operator in operators)
        assert not operators.keys() & {"Attention", "GroupNormalization", "RMSNormalization", "Identity", "Dropout"}
        assert operators["Softmax"] == ATTENTIONS[name]
        assert (model.producer_name, model.producer_version, model.doc_string) == ("latentrt", "", "")
        assert not any(node.doc_string or node.metadata_props for node in model.graph.node)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_attention_is_two_products_around_a_softmax(exported, precision):
    for name, model in graphs(exported(precision)).items():
        maker = {output: node for node in model.graph.node for output in node.output}

        def before(node, *passed, maker=maker):
            node = next(maker[value] for value in node.input if value in maker and maker[value].op_type != "Constant")
            return before(node, *passed) if node.op_type in passed else node

        def after(node, *passed, nodes=model.graph.node):
            [node] = [user for user in nodes if node.output[0] in user.input]
            return after(node, *passed) if node.op_type in passed else node

        for softmax in (node for node in model.graph.node if node.op_type == "Softmax"):
            masked = ("Add",) if name == "text_encoder" else ()
            scores = before(softmax, *masked)
            assert scores.op_type == "MatMul"
            assert before(scores).op_type == "Mul"  # the scale, on the query
            assert after(softmax).op_type == "MatMul"


@pytest.mark.parametrize("precision", PRECISIONS)
def test_inputs_and_outputs_are_as_the_specs_say(exported, precision):
    bundle = open_bundle(exported(precision))
    for name, model in graphs(exported(precision)).items():
        component = bundle.manifest.components[name]
        for specs, values in ((component.inputs, model.graph.input), (component.outputs, model.graph.output)):
            assert [(spec.name, spec.shape) for spec in specs] == [(value.name, shape_of(value)) for value in values]
            for spec, value in zip(specs, values, strict=True):
                dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
                assert str(dtype) == spec.dtype
                fixed = {"input_ids": "int64", "clip_skip": "int64", "timestep": "float32"}
                assert spec.dtype == fixed.get(spec.name, FLOATS[precision])


@pytest.mark.parametrize(("precision", "kinds"), [("fp32", {"float32"}), ("fp16", {"float16"}), ("w16", {"float16"})])
def test_weights_are_stored_in_the_precision(exported, precision, kinds):
    for model in graphs(exported(precision)).values():
        arrays = [numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
        assert {str(array.dtype) for array in arrays if array.size > 1 and array.dtype.kind == "f"} == kinds


def test_half_the_bytes(exported):
    sizes = {precision: (exported(precision) / "unet.onnx").stat().st_size for precision in PRECISIONS}
    assert sizes["fp16"] < 0.65 * sizes["fp32"]
    assert sizes["w16"] < 0.75 * sizes["fp32"]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_bundle_can_be_run(exported, precision):
    with latentrt.load(exported(precision)) as pipeline:
        result = pipeline.generate("a red apple", steps=2, seed=0, width=56, height=72, batch=2)
    assert [image.size for image in result.images] == [(56, 72)] * 2


def test_exporting_again_from_a_single_file_gives_the_same_bytes(origin, exported, tmp_path):
    tokenizer = origin / "folder" / "tokenizer"
    options = ExportOptions(name="folder", configs=origin / "configs", tokenizer=tokenizer)
    lines = []
    manifest = export(origin / "tiny.safetensors", tmp_path / "out", options, lines.append)
    assert manifest == open_bundle(tmp_path / "out").manifest
    expected = open_bundle(exported("fp32")).manifest
    assert manifest.files == expected.files  # sizes and hashes, which opening has checked
    assert replace(manifest, provenance={**manifest.provenance, "source": "folder"}) == expected
    assert lines[:3] == ["text_encoder: tracing", "text_encoder: writing", "text_encoder: comparing with the original"]
    assert lines[-1] == "preview"


@pytest.mark.parametrize("component", ["text_encoder", "cross_kv"])
@pytest.mark.parametrize("value", [1.5, float("nan")])
def test_a_wrong_weight_fails_the_gate_and_leaves_nothing(origin, tmp_path, monkeypatch, component, value):
    save = write.save_graph

    def spoil(model, folder, name):
        files = save(model, folder, name)
        if name == component:
            spoilt = onnx.load(folder / f"{name}.onnx")
            tensor = max(spoilt.graph.initializer, key=lambda tensor: np.prod(tensor.dims))
            array = numpy_helper.to_array(tensor).copy()
            array.flat[:: array.size // 1024] = value  # so often that the tokens which are compared meet it
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
            onnx.save(spoilt, folder / f"{name}.onnx")
        return files

    monkeypatch.setattr(write, "save_graph", spoil)
    with pytest.raises(FidelityError, match=f"{component}: got relative error .* expected relative error at most"):
        export(origin / "folder", tmp_path / "deep" / "out", ExportOptions())
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not list((tmp_path / "deep").iterdir())


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_what_is_there_already_is_refused(origin, tmp_path, kind):
    out = tmp_path / "out"
    {"folder": out.mkdir, "file": out.touch, "link": lambda: out.symlink_to("nowhere")}[kind]()
    with pytest.raises(OutputError, match="exists"):
        export(origin / "folder", out, ExportOptions())
    assert list(tmp_path.iterdir()) == [out]


def unknown(folder):
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "_class_name": "AuraFlowPipeline"}))


def trained_betas(folder):
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "trained_betas": [0.1, 0.2]}))


def no_unet(folder):
    shutil.rmtree(folder / "unet")


@pytest.mark.parametrize("spoil", [unknown, trained_betas, no_unet])
def test_a_checkpoint_that_cannot_be_read_leaves_nothing(origin, tmp_path, spoil):
    folder = shutil.copytree(origin / "folder", tmp_path / "in" / "folder")
    spoil(folder)
    with pytest.raises(CheckpointError):
        export(folder, tmp_path / "out" / "bundle", ExportOptions())
    assert list((tmp_path / "out").iterdir()) == []


def test_a_tokenizer_of_another_size_is_refused(origin, tmp_path):
    with pytest.raises(CheckpointError, match=r"got 49408 words .* expected at most 2660"):
        export(origin / "tiny.safetensors", tmp_path / "out", ExportOptions(configs=origin / "configs"))
    assert list(tmp_path.iterdir()) == []
