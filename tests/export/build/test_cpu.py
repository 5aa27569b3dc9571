"""Graphs optimised for this processor: the same pictures, found again, never one that is damaged or of another kind."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx_ir.passes.common import IdentityEliminationPass
from onnxruntime import InferenceSession

import latentrt
from latentrt.bundle.catalog import MODELS
from latentrt.bundle.folder import Bundle, open_bundle
from latentrt.cli import main
from latentrt.engines.onnx import engine as cpu
from latentrt.engines.onnx import optimised
from latentrt.engines.onnx.session import new_session
from latentrt.errors import BundleError, EngineError, FidelityError
from latentrt_export.build import cpu as build_cpu
from latentrt_export.lower.fused import as_fused
from latentrt_export.lower.tensorrt import Gate
from tests.runtime.fake import psnr

ASKED = {"steps": 2, "seed": 0, "width": 96, "height": 64, "batch": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the built-in bundle, with optimised graphs."""
    folder = tmp_path_factory.mktemp("built") / "emoji"
    shutil.copytree(MODELS / "emoji", folder)
    built = list(build_cpu.build_cpu(folder))
    assert [one.component for one in built] == list(open_bundle(folder).manifest.components)
    assert all(one.seconds is not None and one.psnr_db is not None and one.psnr_db >= 120 for one in built)
    return folder


@pytest.fixture
def bundle(folder: Path, tmp_path: Path) -> Bundle:
    """The bundle, with the smallest optimised graph alone, to be spoilt."""
    opened = open_bundle(folder, verify=False)
    path = optimised.folder_of(opened, "time_bias")
    shutil.copytree(path, tmp_path / "targets" / "cpu" / path.name)
    return replace(opened, folder=tmp_path, verified=True)


def test_pictures_are_those_of_the_canonical_graphs(folder: Path) -> None:
    with latentrt.load(folder, engine="onnxruntime") as built, latentrt.load("emoji", engine="onnxruntime") as plain:
        assert all(engine.optimised for engine in built.engines.values())
        assert not any(engine.optimised for engine in plain.engines.values())
        pairs = zip(*(pipe.generate("a red apple", **ASKED).images for pipe in (built, plain)), strict=True)
        assert min(psnr(*pair) for pair in pairs) > 60


def test_what_is_built_is_not_built_again(folder: Path, capsys: pytest.CaptureFixture, monkeypatch) -> None:
    monkeypatch.setattr("sys.argv", ["latentrt", "build", str(folder), "--target", "cpu", "--json"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    built = json.loads(capsys.readouterr().out)
    assert [one["component"] for one in built] == list(open_bundle(folder).manifest.components)
    assert all(one["seconds"] is None for one in built)


def test_options_of_other_targets_are_refused(folder: Path, capsys: pytest.CaptureFixture, monkeypatch) -> None:
    monkeypatch.setattr("sys.argv", ["latentrt", "build", str(folder), "--target", "cpu", "--batch", "2"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2 and "got batches, expected no other option" in capsys.readouterr().err


def test_weights_are_mapped(folder: Path) -> None:
    """All but the smallest are in a file of their own, the packed ones too."""
    path = optimised.folder_of(open_bundle(folder, verify=False), "unet")
    assert (path / "unet.onnx").stat().st_size < 1_000_000 < 50_000_000 < (path / "unet.bin").stat().st_size
    operators = [node.op_type for node in onnx.load(path / "unet.onnx", load_external_data=False).graph.node]
    assert operators.count("MultiHeadAttention") == 14 and "Softmax" not in operators


@pytest.mark.parametrize("changed", ["version", "processor", "lowering", "graph"])
def test_graphs_for_something_else_are_left_alone(changed: str, bundle: Bundle, monkeypatch) -> None:
    assert cpu.engine_of(bundle, "time_bias", "onnxruntime").optimised
    if changed == "version":
        monkeypatch.setattr("onnxruntime.__version__", "1.99")
    elif changed == "processor":
        monkeypatch.setattr(optimised, "processor", lambda: "another")
    elif changed == "lowering":
        monkeypatch.setattr(optimised, "VERSION", optimised.VERSION + 1)
    else:
        record = replace(bundle.manifest.files["time_bias.onnx"], sha256="0" * 64)
        files = {**bundle.manifest.files, "time_bias.onnx": record}
        bundle = replace(bundle, manifest=replace(bundle.manifest, files=files))
    assert not cpu.engine_of(bundle, "time_bias", "onnxruntime").optimised
    assert not cpu.engine_of(bundle, "time_bias", "cuda").optimised


@pytest.mark.parametrize("damage", ["bit", "length", "gone"])
def test_a_damaged_graph_is_refused(damage: str, bundle: Bundle) -> None:
    path = optimised.folder_of(bundle, "time_bias")
    weights = path / "time_bias.bin"
    if damage == "bit":
        content = bytearray(weights.read_bytes())
        content[1000] ^= 1
        weights.write_bytes(content)
    elif damage == "length":
        weights.write_bytes(weights.read_bytes()[:-1])
    elif damage == "gone":
        weights.unlink()
    with pytest.raises(BundleError, match=r"damaged \(.*\); remove this folder and run `latentrt build` again"):
        cpu.engine_of(bundle, "time_bias", "onnxruntime")
    if damage == "bit":  # as in the bundle's own files, hashes are checked where they were asked for
        assert cpu.engine_of(replace(bundle, verified=False), "time_bias", "onnxruntime").optimised


@pytest.mark.parametrize(
    "change", ["no record", "another hash", "another signature", "another user", "another graph's"]
)
def test_a_graph_that_this_user_did_not_sign_is_not_used(
    change: str, folder: Path, bundle: Bundle, tmp_path: Path, monkeypatch, caplog
) -> None:
    path = optimised.folder_of(bundle, "time_bias") / optimised.RECORD
    record = json.loads(path.read_text())
    if change == "another hash":
        record["files"]["time_bias.bin"]["sha256"] = "0" * 64
    elif change == "another signature":
        record["hmac"] = record["hmac"][::-1]
    elif change == "another user":
        monkeypatch.setenv("LATENTRT_PLAN_SECRET", str(tmp_path / "secret"))
        (tmp_path / "secret").write_bytes(bytes(32))
        (tmp_path / "secret").chmod(0o600)
    elif change == "another graph's":
        other = optimised.folder_of(open_bundle(folder, verify=False), "cross_kv")
        record = json.loads((other / optimised.RECORD).read_text())
    path.write_text("{}" if change == "no record" else json.dumps(record))
    assert not cpu.engine_of(bundle, "time_bias", "onnxruntime").optimised
    assert "not built by this user or changed since, so the graph as exported is used" in caplog.text


def test_what_is_not_signed_is_built_again(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "emoji", copy_function=os.link)
    bundle = open_bundle(tmp_path / "emoji", verify=False)
    record = optimised.folder_of(bundle, "time_bias") / optimised.RECORD
    record.unlink()
    record.write_text("{}")
    assert [one.component for one in build_cpu.build_cpu(tmp_path / "emoji") if one.seconds] == ["time_bias"]
    assert cpu.engine_of(bundle, "time_bias", "onnxruntime").optimised


def test_a_graph_under_its_gate_leaves_nothing(tmp_path: Path, monkeypatch) -> None:
    shutil.copytree(MODELS / "emoji", tmp_path / "emoji")
    monkeypatch.setitem(build_cpu.GATES, "fp32", Gate(500.0))
    with pytest.raises(FidelityError, match=r"text_encoder: got PSNR .* dB .*, expected PSNR at least 500 dB"):
        list(build_cpu.build_cpu(tmp_path / "emoji"))
    assert list((tmp_path / "emoji" / "targets" / "cpu").iterdir()) == []


def attention(*, mask: bool = False, heads: int = 2, scale: str | None = "0.5") -> ir.Model:
    """Text of a graph with one attention, as exported graphs have it."""
    add = "masked = Add(scores, mask)" if mask else "masked = Identity(scores)"
    factor = f"factor = Constant<value = float {{{scale}}}>()\nscaled = Mul(qt, factor)"
    lines = f"""
        <ir_version: 10, opset_import: ["" : 18]>
        g (float[b, n, 8] q, float[b, t, 8] k, float[b, t, 8] v, float[n, t] mask) => (float[b, n, 8] out) {{
            split = Constant<value = int64[4] {{0, -1, {heads}, {8 // heads}}}>()
            joined = Constant<value = int64[3] {{0, -1, 8}}>()
            qs = Reshape(q, split)
            ks = Reshape(k, split)
            vs = Reshape(v, split)
            qt = Transpose<perm = [0, 2, 1, 3]>(qs)
            kt = Transpose<perm = [0, 2, 3, 1]>(ks)
            vt = Transpose<perm = [0, 2, 1, 3]>(vs)
            {factor if scale else "scaled = Identity(qt)"}
            scores = MatMul(scaled, kt)
            {add}
            weights = Softmax<axis = -1>(masked)
            heads = MatMul(weights, vt)
            turned = Transpose<perm = [0, 2, 1, 3]>(heads)
            merged = Reshape(turned, joined)
            out = Neg(merged)
        }}"""
    return IdentityEliminationPass()(ir.from_proto(onnx.parser.parse_model(lines))).model


@pytest.mark.parametrize(("heads", "scale"), [(2, "0.5"), (1, "0.3"), (4, None)])
def test_fused_attention_computes_the_same(heads: int, scale: str | None) -> None:
    model, random = attention(heads=heads, scale=scale), np.random.default_rng(0)
    shapes = {"q": (3, 5, 8), "k": (3, 7, 8), "v": (3, 7, 8), "mask": (5, 7)}
    feeds = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    before = InferenceSession(ir.to_proto(model).SerializeToString()).run(None, feeds)[0]
    assert as_fused(model) == 1
    assert [node.op_type for node in model.graph if node.op_type != "Constant"] == ["MultiHeadAttention", "Neg"]
    after = InferenceSession(ir.to_proto(model).SerializeToString()).run(None, feeds)[0]
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)


def test_masked_attention_stays() -> None:
    model = attention(mask=True)
    assert as_fused(model) == 0 and any(node.op_type == "Softmax" for node in model.graph)


def test_what_onnx_runtime_cannot_optimise_is_one_error(tmp_path: Path) -> None:
    x = ir.Value(name="x", shape=ir.Shape([2]), type=ir.TensorType(ir.DataType.FLOAT))
    node = ir.node("Unheard", [x], name="node")
    node.outputs[0].name, node.outputs[0].shape, node.outputs[0].type = "y", x.shape, x.type
    graph = ir.Graph([x], node.outputs, nodes=[node], opset_imports={"": 18}, name="unheard")
    ir.save(ir.Model(graph, ir_version=10), tmp_path / "unheard.onnx")
    with pytest.raises(EngineError, match=r"unheard.onnx: ONNX Runtime cannot optimise it, or write .*: .*Unheard"):
        build_cpu.optimise(tmp_path / "unheard.onnx", tmp_path, "made")


def test_a_split_of_many_parts_can_be_loaded(tmp_path: Path) -> None:
    """Its sizes would be more bytes than small constants had, and ONNX Runtime reads no sizes from a second file."""
    parts, width = 140, 4
    x = ir.Value(name="x", shape=ir.Shape(["n", parts * width]), type=ir.TensorType(ir.DataType.FLOAT))
    weight = ir.tensor(np.eye(parts * width, dtype=np.float32), name="weight")
    constants = [ir.Value(name="weight", shape=weight.shape, type=ir.TensorType(weight.dtype), const_value=weight)]
    nodes = [ir.node("MatMul", [x, constants[0]], name="product")]
    for part in range(parts):
        ends = [ir.tensor(np.array([one], np.int64)) for one in (part * width, (part + 1) * width, 1)]
        taken = [ir.Value(name=f"{part}.{place}", const_value=one) for place, one in enumerate(ends)]
        constants += taken
        nodes.append(ir.node("Slice", [nodes[0].outputs[0], *taken], name=f"slice.{part}"))
    nodes.append(ir.node("Sum", [node.outputs[0] for node in nodes[1:]], name="sum"))
    total = nodes[-1].outputs[0]
    total.name, total.type, total.shape = "total", x.type, ir.Shape(["n", width])
    graph = ir.Graph([x], [total], nodes=nodes, initializers=constants, opset_imports={"": 18}, name="parts")
    ir.save(ir.Model(graph, ir_version=10), tmp_path / "parts.onnx")
    (tmp_path / "out").mkdir()
    build_cpu.optimise(tmp_path / "parts.onnx", tmp_path / "out", "parts")
    made = onnx.load(tmp_path / "out" / "parts.onnx", load_external_data=False)
    assert "Split" in [node.op_type for node in made.graph.node]
    fed = np.random.default_rng(0).standard_normal((3, parts * width)).astype(np.float32)
    [found] = new_session(tmp_path / "out" / "parts.onnx", optimised=True).run(None, {"x": fed})
    np.testing.assert_allclose(found, fed.reshape(3, parts, width).sum(1), atol=1e-4)
