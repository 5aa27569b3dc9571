"""Splitting a convolution of a concatenation is exact, and copies no weight."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from latentrt_calib.quantize.split_concat import split_concatenations
from latentrt_export.graph.layers import layers_of
from tests.export import toy

TOLERANCE = {"fp32": 1e-5, "w16": 1e-5, "fp16": 5e-3}
NAME = "up.conv_shortcut"


@pytest.mark.parametrize("precision", toy.FLOATS)
@pytest.mark.parametrize("batch", [1, 3])
def test_the_output_is_the_same(precision, batch, tmp_path):
    model, inputs = toy.build(precision), toy.feeds(precision, batch)
    expected, _ = toy.run(model, inputs, tmp_path)
    before = layers_of(model, toy.SHAPES)
    assert split_concatenations(model, before) == (f"{NAME}.first", f"{NAME}.second")
    got, _ = toy.run(model, inputs, tmp_path)
    np.testing.assert_allclose(got["conv_out"], expected["conv_out"], atol=TOLERANCE[precision])
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    after = layers_of(model, toy.SHAPES)
    assert sum(layer.macs for layer in after) == sum(layer.macs for layer in before)
    assert [layer.name for layer in after if NAME in layer.name] == [f"{NAME}.first", f"{NAME}.second"]
    assert [layer.input for layer in after if NAME in layer.name] == ["up.resized", "attn.image"]
    assert not [layer for layer in after if layer.halves]
    assert "Concat" not in [node.op_type for node in model.graph if node.name == "up.joined/Concat"]


def test_the_bias_is_added_once_and_the_weights_are_views():
    model = toy.build("w16")
    whole = model.graph.initializers[f"net.{NAME}.weight.fp16"].const_value.numpy()
    split_concatenations(model, layers_of(model, toy.SHAPES))
    halves = [node for node in model.graph if node.op_type == "Conv" and NAME in node.name]
    assert [len([value for value in node.inputs if value is not None]) for node in halves] == [3, 2]
    for half in ("first", "second"):
        part = model.graph.initializers[f"net.{NAME}.{half}.weight.fp16"].const_value.numpy()
        assert np.shares_memory(part, whole)
    assert f"net.{NAME}.weight.fp16" not in model.graph.initializers


def test_a_split_layer_that_makes_the_graph_s_output_keeps_its_name(tmp_path):
    model = toy.build()
    last = next(node for node in model.graph if node.name == f"{NAME}/Conv")
    model.graph.outputs[0] = last.outputs[0]
    for node in reversed(list(model.graph)):
        if not any(output.uses() or output.is_graph_output() for output in node.outputs):
            model.graph.remove(node, safe=True)
    expected, _ = toy.run(model, toy.feeds(), tmp_path)
    split_concatenations(model, layers_of(model, toy.SHAPES))
    got, _ = toy.run(model, toy.feeds(), tmp_path)
    assert list(got) == [NAME]
    np.testing.assert_allclose(got[NAME], expected[NAME], atol=1e-5)


def test_layers_without_halves_are_left_alone():
    model = toy.build()
    nodes = [node.name for node in model.graph]
    assert split_concatenations(model, [layer for layer in layers_of(model, toy.SHAPES) if not layer.halves]) == ()
    assert [node.name for node in model.graph] == nodes
