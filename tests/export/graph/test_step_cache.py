"""UNets cut for step caching: the cut, what is left, and that both halves compute what the whole UNet does."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from diffusers import UNet2DConditionModel, UNet2DModel

from latentrt.errors import RequestError
from latentrt.tensors import TensorSpec, shape_of
from latentrt_export.components.denoiser import last_skips, unet_parts
from latentrt_export.graph.constants import add_constant, insert_after, new_node
from latentrt_export.graph.costs import total_macs
from latentrt_export.graph.step_cache import deep_features, give_features, make_shallow
from latentrt_export.graph.trace import trace
from tests.export import builtin, tiny
from tests.export.ldm import RESAMPLING, UNET
from tests.export.ldm_pairs import ONE_TOKEN_UNET
from tests.export.tiny_families import PRUNED, REFINER_UNET, SMALL_UNET, XL_UNET
from tests.sweep import rest_swept

pytestmark = pytest.mark.usefixtures("one_thread")

BUILT_IN = builtin.BUNDLE / "unet.onnx"
# Multiply-adds of the shallow UNet against the whole one, at 16 latents a side and a batch of two.
SHARES = {2: 0.200, 1: 0.069}
DEEP = {"layers_per_block": 2}
# The number of concatenations in the last up block, and the UNet.
UNETS = {
    "sd1": (3, lambda: UNet2DConditionModel(**tiny.UNET | DEEP)),
    "sdxl": (3, lambda: UNet2DConditionModel(**XL_UNET | DEEP)),
    "refiner": (3, lambda: UNet2DConditionModel(**REFINER_UNET | DEEP)),
    "pruned": (2, lambda: UNet2DConditionModel(**PRUNED["unet"])),
    "one level": (2, lambda: UNet2DConditionModel(**SMALL_UNET)),
    "ldm": (3, lambda: loaded(UNet2DModel(**UNET))),
    "ldm resampling": (3, lambda: loaded(UNet2DModel(**RESAMPLING))),
    "ldm classes": (2, lambda: UNet2DConditionModel(**ONE_TOKEN_UNET)),
}
PROBES = ({"batch": 1, "height": 8, "width": 16}, {"batch": 3, "height": 24, "width": 8})


def loaded(unet):
    """A UNet with the name of its class in the config, as one that is read from files has."""
    unet.register_to_config(_class_name=type(unet).__name__)
    return unet


def session_of(model):
    """A graph in the session that the runtime's engine for CPUs has."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    content = ir.to_proto(model).SerializeToString()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def run(session, feeds):
    """The outputs of a session by name. feeds: its inputs, and others."""
    names = [output.name for output in session.get_outputs()]
    inputs = {one.name: feeds[one.name] for one in session.get_inputs()}
    return dict(zip(names, session.run(names, inputs), strict=True))


def specs_of(model):
    """The inputs of a graph as specs."""
    axes = (
        (one.name, [side if isinstance(side, int) else side.value for side in one.shape]) for one in model.graph.inputs
    )
    return [TensorSpec(name, "float32", tuple(shape)) for name, shape in axes]


def feeds_of(specs, sizes):
    """Random inputs."""
    random = np.random.default_rng(0)
    return {spec.name: random.standard_normal(shape_of(spec, sizes)).astype(spec.dtype) for spec in specs}


def cut(load, boundary):
    """A UNet whole, with its deep features, and shallow. load: makes it anew."""
    full, shallow = load(), load()
    give_features(full, boundary)
    give_features(shallow, boundary)
    return load(), full, make_shallow(shallow)


def check(load, boundary):
    """Holds both graphs against the whole one, bit for bit; returns all three."""
    models = cut(load, boundary)
    whole, full, shallow = map(session_of, models)
    for sizes in PROBES:
        feeds = feeds_of(specs_of(models[0]), {"tokens": 7, **sizes})
        expected, found = run(whole, feeds)["prediction"], run(full, feeds)
        assert [*found] == ["prediction", "deep_features"]
        np.testing.assert_array_equal(found["prediction"], expected)
        np.testing.assert_array_equal(run(shallow, feeds | found)["prediction"], expected)
        stale = run(shallow, feeds | {"deep_features": found["deep_features"] + 1})["prediction"]
        assert np.abs(stale - expected).max() > 1e-3
    return models


@pytest.mark.parametrize("boundary", SHARES)
def test_the_built_in_model(boundary):
    _, full, shallow = check(lambda: ir.load(BUILT_IN), boundary)
    names = [value.name for value in shallow.graph.inputs]
    assert names == ["sample", "time_bias", "deep_features"]
    assert shallow.graph.initializers.keys() < full.graph.initializers.keys()
    for name, value in shallow.graph.initializers.items():
        np.testing.assert_array_equal(value.const_value.numpy(), full.graph.initializers[name].const_value.numpy())


@pytest.mark.parametrize("boundary", SHARES)
def test_the_share_of_the_multiply_adds(boundary):
    whole, _, shallow = cut(lambda: ir.load(BUILT_IN), boundary)
    sizes = {"batch": 2, "height": 16, "width": 16, "tokens": 32}
    macs = [
        total_macs(model, {spec.name: shape_of(spec, sizes) for spec in specs_of(model)}) for model in (shallow, whole)
    ]
    assert macs[0] / macs[1] == pytest.approx(SHARES[boundary], abs=0.005)


@pytest.fixture(scope="module", params=rest_swept([*UNETS], ["sd1", "ldm resampling"]))
def unet(request):
    """The number of boundaries of a small UNet, and what loads its graph."""
    count, build = UNETS[request.param]
    module = tiny.seeded(build)
    assert last_skips(module.config) == count
    *_, part = unet_parts(module)
    graph = ir.to_proto(trace(part.build().eval(), part.inputs, part.outputs, part.multiple)).SerializeToString()
    return count, lambda: ir.from_proto(onnx.load_from_string(graph))


def test_every_family_at_every_boundary(unet):
    count, load = unet
    assert len(deep_features(load().graph)) == count
    nodes = []
    for boundary in range(1, count + 1):
        whole, full, shallow = check(load, boundary)
        nodes.append(len(shallow.graph))
    assert nodes == sorted(set(nodes))
    assert nodes[-1] < len(whole.graph)
    assert len(full.graph) == len(whole.graph)


def quantized_features():
    """The built-in UNet, with the deep features of boundary 2 in INT8 for all that reads them."""
    model = ir.load(BUILT_IN)
    deep = deep_features(model.graph)[1]
    readers = [use.node for use in deep.uses()]
    scale = add_constant(model.graph, "scale", np.array(0.05, np.float32))
    zero = add_constant(model.graph, "zero", np.array(3, np.int8))
    quantize = new_node("QuantizeLinear", [deep, scale, zero], "quantized", deep)
    quantize.outputs[0].type = zero.type
    dequantize = new_node("DequantizeLinear", [quantize.outputs[0], scale, zero], "dequantized", deep)
    insert_after(model.graph, deep, quantize)
    model.graph.insert_after(quantize, dequantize)
    for node in readers:
        node.replace_input_with([*node.inputs].index(deep), dequantize.outputs[0])
    return model


def test_features_in_int8_stay_so():
    _, _, shallow = check(quantized_features, 2)
    (node,) = (node for node in shallow.graph if node.op_type == "QuantizeLinear")
    assert node.inputs[0] is shallow.graph.inputs[-1]


@pytest.mark.parametrize("boundary", [-1, 0, 3])
def test_a_boundary_that_is_not_there(boundary):
    message = f"got the boundary {boundary}, expected 1 to 2; the last up block of this denoiser has 2 concatenations"
    with pytest.raises(RequestError, match=message):
        give_features(ir.load(BUILT_IN), boundary)


def test_a_graph_without_skips():
    with pytest.raises(RequestError, match="expected a UNet with skips"):
        give_features(ir.load(BUILT_IN.with_name("vae_decoder.onnx")), 1)
