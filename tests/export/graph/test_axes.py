"""Axes as expressions: their values, and the shapes of whole graphs against shape inference."""

from fractions import Fraction

import onnx_ir as ir
import pytest

from latentrt_export.graph.axes import parsed, size_of, substituted
from latentrt_export.graph.constants import name_of, shape_of_constant
from latentrt_export.graph.costs import inferred
from tests.export import builtin

GRAPHS = ("unet", "unet_shallow", "vae_encoder", "vae_decoder", "text_encoder", "cross_kv", "time_bias")
SIZES = [{"batch": 1, "height": 8, "width": 8, "tokens": 77, "n": 1}, {"batch": 3, "height": 9, "width": 13}]


@pytest.mark.parametrize(
    ("axis", "size"),
    [
        ("height", 9),
        ("8*height", 72),
        ("4*(floor(height/2 - 1/2) + 1)", 20),
        ("2*8*height*8*width", 2 * 72 * 56),
        ("floor(floor(8*height/2)/2) + 1", 19),
        ("ceiling(width/4) - -1", 3),
        ("Max(height, width) // 2 + Min(3, width % 4)", 7),
    ],
)
def test_sizes(axis, size):
    assert size_of(axis, {"height": 9, "width": 7}) == size


@pytest.mark.parametrize(
    "axis", ["height/2", "unk__0", "height.real", "height**9", "open('x')", "(", "'a'", "f(*height)"]
)
def test_other_expressions_are_refused_and_run_nothing(axis):
    with pytest.raises((ValueError, KeyError)):
        size_of(axis, {"height": 9})
    assert size_of("height/3", {"height": 9}) == Fraction(3) and parsed("height/3") is parsed("height/3")


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("name", GRAPHS)
def test_shapes_are_those_of_inference(name, sizes):
    model = ir.load(builtin.BUNDLE / f"{name}.onnx")
    sizes = {"tokens": 7, "n": 4, **sizes}
    known = {
        value.name: tuple(side if isinstance(side, int) else size_of(side.value, sizes) for side in value.shape)
        for value in model.graph.inputs
    }
    found = substituted(model.graph, known)
    constants = {name_of(value): shape_of_constant(value) for value in model.graph.initializers.values()}
    assert found is not None and found == inferred(model, known | constants)


def test_shapes_that_contradict_the_graph_are_left_to_inference():
    model = ir.load(builtin.BUNDLE / "vae_decoder.onnx")
    [latents] = model.graph.inputs
    assert substituted(model.graph, {latents.name: (1, 4, 8, 8)}) is not None
    assert substituted(model.graph, {latents.name: (1, 5, 8, 8)}) is None
    first = next(iter(model.graph)).outputs[0]
    first.shape = None
    assert substituted(model.graph, {latents.name: (1, 4, 8, 8)}) is None
