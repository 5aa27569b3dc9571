"""What graphs cost: against torch's own count of the same modules, and against small graphs worked out by hand."""

import onnx
import onnx_ir as ir
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from latentrt.errors import ShapeError
from latentrt.tensors import TensorSpec
from latentrt_export.graph.costs import LayerWork, cost_of, total_macs
from latentrt_export.graph.trace import trace
from latentrt_export.networks.autoencoder import VaeDecoder
from latentrt_export.networks.hoist import HoistedUNet
from tests.export import builtin, tiny

SIZES = [(1, 8, 8), (3, 8, 12), (2, 9, 13)]


def torch_macs(module, shapes):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(*(torch.zeros(shape) for shape in shapes))
    return counter.get_total_flops() // 2


def unet_shapes(model, batch, height, width):
    """Shapes of a UNet graph's inputs; the widths are those that the graph declares."""
    sides = {"batch": batch, "height": height, "width": width, "tokens": 7}
    return {
        value.name: tuple(side if isinstance(side, int) else sides[side.value] for side in value.shape)
        for value in model.graph.inputs
    }


@pytest.fixture(scope="module")
def built_in():
    return HoistedUNet(builtin.build_unet()), ir.load(builtin.BUNDLE / "unet.onnx")


@pytest.mark.parametrize("sizes", SIZES)
def test_the_built_in_unet_costs_what_torch_counts(built_in, sizes):
    module, model = built_in
    shapes = unet_shapes(model, *sizes)
    cost = cost_of(model, shapes)
    assert cost.macs == total_macs(model, shapes) == torch_macs(module, shapes.values())
    # Convolutions and linear layers by their modules: torch is asked nothing about how often each runs.
    weights = sum(m.weight.numel() for m in module.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear)))
    assert cost.layer_weights == weights
    assert sum(count for work, count in cost.work.items() if work.kind == "attention") == sum(
        node.op_type == "Softmax" for node in model.graph
    )


@pytest.mark.parametrize("sizes", SIZES)
def test_a_vae_decoder_costs_what_torch_counts(sizes):
    decoder = VaeDecoder(tiny.build_vae())
    latents = TensorSpec("latents", "float32", ("batch", 4, "height", "width"))
    image = TensorSpec("image", "float32", ("batch", 3, "8*height", "8*width"))
    shape = (sizes[0], 4, *sizes[1:])
    assert cost_of(trace(decoder, [latents], [image]), {"latents": shape}).macs == torch_macs(decoder, [shape])


def test_all_parameters_count_but_the_smallest(built_in):
    module, model = built_in
    found = cost_of(model, unet_shapes(model, 1, 8, 8)).parameters
    small = sum(p.numel() for p in module.parameters() if p.numel() <= 64)
    assert found == pytest.approx(sum(p.numel() for p in module.parameters()) - small, rel=1e-3)


def graph_of(text):
    return ir.from_proto(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 18]> {text}'))


def layer_works(text, **shapes):
    return list(cost_of(graph_of(text), shapes).work.elements())


ATTENTION = """
g (float[b,t,8] x, float[b,u,8] context) => (float[b,t,8] y)
<float[8,8] q = {Q}, float[8,8] k = {Q}, float[8,8] v = {Q}, float[1] scale = {0.5}> {
    query = MatMul(x, q)
    key = MatMul(context, k)
    value = MatMul(context, v)
    scaled = Mul(query, scale)
    turned = Transpose <perm = [0, 2, 1]> (key)
    scores = MatMul(scaled, turned)
    weights = Softmax <axis = -1> (scores)
    y = MatMul(weights, value)
}
""".replace("{Q}", "{" + ", ".join(["0.1"] * 64) + "}")


def test_attention_is_one_piece_and_its_scores_are_not_moved():
    assert layer_works(ATTENTION, x=(2, 5, 8), context=(2, 3, 8)) == [
        LayerWork("linear", 2 * 5 * 64, 64, (2 * 5 * 8,), 2 * 5 * 8),
        LayerWork("linear", 2 * 3 * 64, 64, (2 * 3 * 8,), 2 * 3 * 8),
        LayerWork("linear", 2 * 3 * 64, 64, (), 2 * 3 * 8),  # the second reader of the context
        LayerWork("attention", 2 * (2 * 5 * 3 * 8), 0, (2 * 3 * 8, 2 * 5 * 8, 2 * 3 * 8), 2 * 5 * 8),
    ]


def test_what_is_enlarged_is_read_before_it_is():
    (work,) = layer_works(
        """
        g (float[b,2,h,w] x) => (float[b,1,h2,w2] y)
        <float[1,2,1,1] k = {1, 2}, float[4] scales = {1, 1, 2, 2}> {
            large = Resize <mode = "nearest"> (x, , scales)
            y = Conv (large, k)
        }
        """,
        x=(1, 2, 3, 4),
    )
    assert work == LayerWork("conv", 2 * 6 * 8, 2, (2 * 3 * 4,), 6 * 8)


def test_a_weight_stays_one_in_eight_bits():
    quantized = """
        g (float[b,2,h,w] x) => (float[b,1,h,w] y)
        <int8[1,2,1,1] k = {1, 2}, float s = {0.1}, int8 zero = {0}> {
            q = QuantizeLinear (x, s, zero)
            read = DequantizeLinear (q, s, zero)
            kernel = DequantizeLinear (k, s, zero)
            y = Conv (read, kernel)
        }
    """
    assert layer_works(quantized, x=(1, 2, 3, 4)) == [LayerWork("conv", 2 * 12, 2, (24,), 12)]


@pytest.mark.parametrize(
    ("body", "peak"),
    [
        ("y = Conv(x, k)", 48 + 48),
        ("a = Sigmoid(x) y = Mul(x, a)", 48),  # swish in passing
        ("a = Conv(x, k) b = Conv(a, k) y = Add(x, b)", 48 * 3),  # x waits for the addition, which writes over b
        ("a = Conv(x, k) b = Conv(a, k) c = Conv(b, k) y = Mul(c, c)", 48 * 2),
        ("a = Conv(x, k) c = Concat <axis = 1> (x, a) y = Conv(c, wide)", 48 * 4),
        ("s = Shape(x) a = Reshape(x, s) b = Add(a, half) y = Conv(b, k)", 48 * 2),  # views, and a constant added
    ],
)
def test_activations_that_live_at_once(body, peak):
    head = (
        "g (float[1,4,3,4] x) => (float[1,4,3,4] y) <float[4,4,1,1] k = {K}, float[4,8,1,1] wide = {W}, float h = {1}>"
    )
    text = head.replace("{K}", "{" + ", ".join("1" * 16) + "}").replace("{W}", "{" + ", ".join("1" * 32) + "}")
    text = text.replace("float h", "float half")
    assert cost_of(graph_of(f"{text} {{ {body} }}"), {"x": (1, 4, 3, 4)}).activation_elements == peak


def test_scores_are_never_alive():
    # Most lives when the values are made: the query, the context, its keys and them; with scores it would be later.
    assert (
        cost_of(graph_of(ATTENTION), {"x": (1, 9, 8), "context": (1, 100, 8)}).activation_elements
        == 9 * 8 + 3 * 100 * 8
    )


def test_a_missing_shape_is_named():
    with pytest.raises(ShapeError, match=r"got shapes of \['x'\], expected context as well"):
        cost_of(graph_of(ATTENTION), {"x": (1, 2, 8)})
