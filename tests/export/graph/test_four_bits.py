"""Graphs with linear layers in 4 bits: what is in the file, what each engine computes; TensorRT-RTX builds it."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from latentrt.bundle.manifest import Component, Fidelity
from latentrt.engines import open_engine
from latentrt.engines.nvidia.plans import Shapes
from latentrt.tensors import TensorSpec
from latentrt_export.build.builders import open_builder
from latentrt_export.build.plan import BuilderSettings, BuildTask, write_plan
from latentrt_export.graph.four_bit_weights import in_blocks
from latentrt_export.graph.four_bits import four_bit_layers, write_blocks
from latentrt_export.graph.layers import layer_nodes, layers_of, weight_of
from latentrt_export.lower.half import half
from tests.export import toy

WIDTH, TOKENS = 64, 5
SHAPES = {"x": (1, TOKENS, WIDTH)}
# The layers between the first and the last whose channels are whole blocks of 32.
CHOSEN = ["wide", "narrow", "turned"]


def build(precision):
    """Five linear layers, one of them transposed in the graph and one of a width that is no whole block."""
    w = toy.Writer(precision)
    dtype = ir.DataType.from_numpy(np.dtype(toy.FLOATS[precision]))
    x = ir.Value(name="x", shape=ir.Shape(["batch", TOKENS, WIDTH]), type=ir.TensorType(dtype))
    first = w.linear("first", x, WIDTH, WIDTH)
    wide = w.swish("wide", w.linear("wide", first, WIDTH, 4 * WIDTH))
    narrow = w.node("Add", "joined", w.linear("narrow", wide, 4 * WIDTH, WIDTH), first)
    odd = w.linear("odd", w.linear("turned", narrow, WIDTH, 48, bias=False, turned=True), 48, WIDTH)
    last = w.linear("last", odd, WIDTH, WIDTH)
    graph = ir.Graph([x], [last], nodes=w.nodes, initializers=w.initializers, opset_imports={"": 18}, name="linear")
    return toy.annotated(ir.Model(graph, ir_version=10), dtype)


def quantized(precision, block=32):
    """The graph with its layers in 4 bits, their weights, and the graph with the weights decoded by NumPy."""
    model, decoded = build(precision), build(precision)
    layers = four_bit_layers(model, layers_of(model, SHAPES), block)
    stored = np.float32 if precision == "fp32" else np.float16
    nodes = layer_nodes(model.graph)
    made = {one.name: in_blocks(weight_of(nodes[one.name]), block, scale_dtype=stored) for one in layers}
    write_blocks(model, made)
    for name, node in layer_nodes(decoded.graph).items():
        if name in made:
            array = made[name].decoded().astype(toy.FLOATS[precision])
            value = ir.Value(name=f"{name}.decoded", const_value=ir.tensor(array, name=f"{name}.decoded"))
            decoded.graph.register_initializer(value)
            node.replace_input_with(1, value)
    return model, made, decoded


def feeds(precision, batch=3):
    return {"x": np.random.default_rng(0).standard_normal((batch, TOKENS, WIDTH)).astype(toy.FLOATS[precision])}


def unpacked(tensor):
    """4-bit integers by the standard's definition: two a byte, the first in the low half, two's complement."""
    packed = np.frombuffer(tensor.raw_data, np.uint8)
    halves = np.stack([packed & 15, packed >> 4], 1).reshape(-1)[: np.prod(tensor.dims)].astype(np.int8)
    return np.where(halves > 7, halves - 16, halves).reshape(tensor.dims)


@pytest.mark.parametrize("precision", toy.FLOATS)
@pytest.mark.parametrize("block", [32, 64])
def test_the_file_holds_what_numpy_decodes(precision, block, tmp_path):
    model, made, _ = quantized(precision, block)
    assert list(made) == CHOSEN
    ir.save(model, tmp_path / "graph.onnx")
    proto = onnx.load(tmp_path / "graph.onnx")
    onnx.checker.check_model(proto, full_check=True)
    constants = {one.name: one for one in proto.graph.initializer}
    makers = [node for node in proto.graph.node if node.op_type == "DequantizeLinear"]
    assert len(makers) == len(made)
    for maker, (name, one) in zip(makers, made.items(), strict=True):
        # LoRA files find a weight by its name.
        assert maker.output[0].removesuffix(".decoded") == maker.input[0].removesuffix(".quantized")
        assert (
            maker.input[0].startswith(f"net.{name}.weight")
            and maker.input[0].removesuffix(".quantized") not in constants
        )
        attributes = {attribute.name: attribute.i for attribute in maker.attribute}
        assert attributes["axis"] == 0 and attributes["block_size"] == block and len(maker.input) == 2
        values = constants[maker.input[0]]
        assert values.data_type == onnx.TensorProto.INT4 and len(values.raw_data) == one.values.size // 2
        np.testing.assert_array_equal(unpacked(values), one.values)
        scale = constants[maker.input[1].removesuffix(".fp32")]
        assert scale.data_type == (onnx.TensorProto.FLOAT if precision == "fp32" else onnx.TensorProto.FLOAT16)
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(scale).astype(np.float32), one.scales)


@pytest.mark.parametrize("precision", toy.FLOATS)
def test_unfused_it_computes_the_same_as_with_decoded_weights_to_the_bit(precision, tmp_path):
    model, made, decoded = quantized(precision)
    names = [node.outputs[0].name for node in model.graph if node.op_type == "DequantizeLinear"]
    got, _ = toy.run(model, feeds(precision), tmp_path, extra=names)
    expected, _ = toy.run(decoded, feeds(precision), tmp_path)
    for name, one in zip(names, made.values(), strict=True):
        assert got[name].tobytes() == one.decoded().astype(toy.FLOATS[precision]).tobytes()
    assert all(got[name].tobytes() == expected[name].tobytes() for name in expected)


@pytest.mark.parametrize("precision", ["fp32", "w16"])
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_engines_agree_with_the_decoded_graph(precision, engine, tmp_path):
    model, _, decoded = quantized(precision)
    ir.save(model, tmp_path / "graph.onnx")
    expected, _ = toy.run(decoded, feeds(precision), tmp_path)
    [(output, reference)] = expected.items()
    specs = [TensorSpec(name, "float32", ("batch", TOKENS, WIDTH)) for name in ("x", output)]
    # OpenVINO computes a component in fp32 without rounding, whatever the processor.
    component = Component("denoiser", "graph.onnx", (), "fp32", (specs[0],), (specs[1],), Fidelity(0, None, ""))
    one = open_engine(engine, "graph", component, tmp_path)
    got = one(feeds(precision))[output]
    one.close()
    assert np.abs(got - reference).max() < 1e-5 * np.abs(reference).max()


def test_onnx_runtime_multiplies_without_unpacking(tmp_path):
    _, optimised = toy.run(quantized("w16")[0], feeds("w16"), tmp_path, optimize=True)
    kinds = [node.op_type for node in optimised.graph]
    assert kinds.count("MatMulNBits") == len(CHOSEN) and "DequantizeLinear" not in kinds


@pytest.mark.parametrize("block", [32, 64])
@pytest.mark.parametrize("lowered", [False, True], ids=["fp32", "fp16"])
def test_tensorrt_rtx_builds_it(block, lowered, tmp_path):
    model, *_ = quantized("w16", block)
    path, plan = tmp_path / "graph.onnx", tmp_path / "graph.plan"
    ir.save(half(model) if lowered else model, path)
    shape = (2, TOKENS, WIDTH)
    profile = (Shapes("x", shape, shape, shape),)
    task = BuildTask("graph", path, (profile,), ("sm86",), BuilderSettings(), tmp_path / "graph.cache")
    write_plan(open_builder("tensorrt-rtx"), task, plan)
    assert plan.stat().st_size > 0
