"""Layers: which there are, what they are called, and how much they compute, against shapes that were really run."""

import numpy as np
import onnx_ir as ir
import pytest

from latentrt.bundle.catalog import folder_of
from latentrt.bundle.folder import open_bundle
from latentrt.errors import ShapeError
from latentrt_export.graph.costs import total_macs
from latentrt_export.graph.layers import default_float, layer_nodes, layers_of, output_axis, weight_of
from tests.export import toy

NAMES = ["conv_in", "block.conv1", "block.time", "block.conv2", "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0"]
NAMES += ["down.conv", "up.conv_shortcut", "conv_out"]


def built_in(name):
    """A component of the built-in model, and the shapes of its inputs at batch 1 and the size it was trained at."""
    bundle = open_bundle(folder_of("emoji"), verify=False)
    component, defaults = bundle.manifest.components[name], bundle.manifest.defaults
    pixels = bundle.manifest.latents.factor
    sides = {"batch": 1, "height": defaults.height // pixels, "width": defaults.width // pixels}
    sides["tokens"] = bundle.manifest.tokenizer.length
    shapes = {spec.name: [sides.get(side, side) for side in spec.shape] for spec in component.inputs}
    return ir.load(bundle.path(component.file)), shapes


@pytest.mark.parametrize("precision", toy.FLOATS)
def test_every_form_of_layer_is_found_once_in_graph_order(precision):
    model = toy.build(precision)
    layers = layers_of(model, toy.SHAPES)
    assert [layer.name for layer in layers] == NAMES
    assert {layer.op for layer in layers} == {"Conv", "MatMul", "Gemm"}
    assert all(layer.weight in model.graph.initializers for layer in layers)
    assert default_float(layers) == {"conv_in", "conv_out"}
    by_name = {layer.name: layer for layer in layers}
    assert {name: layer.halves for name, layer in by_name.items() if layer.halves} == {
        "up.conv_shortcut": (toy.WIDE, toy.CHANNELS)
    }
    residuals = {name: layer.residual for name, layer in by_name.items() if layer.residual}
    assert residuals == {"block.conv2": "conv_in", "attn.to_out.0": "attn.turned"}
    assert by_name["attn.to_q"].input == by_name["attn.to_k"].input == by_name["attn.to_v"].input == "attn.norm"


@pytest.mark.parametrize("batch", [1, 3])
def test_multiply_adds_are_those_of_the_shapes_that_run(batch, tmp_path):
    model = toy.build()
    layers = layers_of(model, {name: (batch, *shape[1:]) for name, shape in toy.SHAPES.items()})
    products = {"attn.scores": "attn.to_q", "attn.mixed": "attn.softmax"}
    names = [layer.output for layer in layers] + [*products, *products.values()]
    shapes = {
        name: value.shape for name, value in toy.run(model, toy.feeds(batch=batch), tmp_path, extra=names)[0].items()
    }
    nodes = layer_nodes(model.graph)
    for layer in layers:
        weight, axis = weight_of(nodes[layer.name]), output_axis(nodes[layer.name])
        assert weight.shape[axis] in shapes[layer.output]
        assert layer.macs == np.prod(shapes[layer.output]) * weight.size // weight.shape[axis]
    attention = sum(np.prod(shapes[product]) * shapes[left][-1] for product, left in products.items())
    total = total_macs(model, {name: (batch, *shape[1:]) for name, shape in toy.SHAPES.items()})
    assert total == sum(layer.macs for layer in layers) + attention


def test_weights_are_read_as_their_node_has_them():
    nodes = layer_nodes(toy.build().graph)
    shapes = {name: weight_of(node).shape for name, node in nodes.items()}
    assert shapes["block.conv2"] == (toy.CHANNELS, toy.CHANNELS, 3, 3)
    assert shapes["block.time"] == (toy.CHANNELS, 6)
    assert output_axis(nodes["block.time"]) == 0
    turned = nodes["attn.to_out.0"].inputs[1].producer().inputs[0].const_value.numpy()
    np.testing.assert_array_equal(weight_of(nodes["attn.to_out.0"]), turned.T)


def test_nodes_without_a_name_of_their_own_get_one():
    model = toy.build()
    for node in model.graph:
        node.name = None if node.op_type == "Conv" else "same"
    layers = layers_of(model, toy.SHAPES)
    assert [layer.name for layer in layers] == NAMES
    assert len({node.name for node in model.graph}) == len(list(model.graph))
    assert {layer.node for layer in layers} <= {node.name for node in model.graph}


def test_two_layers_with_one_weight_have_two_names():
    model = toy.build()
    nodes = layer_nodes(model.graph)
    nodes["attn.to_k"].replace_input_with(1, nodes["attn.to_q"].inputs[1])
    assert [name for name in layer_nodes(model.graph) if "to_q" in name] == ["attn.to_q", "attn.to_q.2"]


def test_a_missing_shape_is_named():
    with pytest.raises(ShapeError, match=r"got shapes of \['sample'\], expected time as well"):
        layers_of(toy.build(), {"sample": (1, 4, 8, 8)})


def test_the_built_in_vae_decoder():
    layers = layers_of(*built_in("vae_decoder"))
    kept = default_float(layers)
    assert kept == {"post_quant", "decoder.conv_in", "decoder.conv_out"} == {layers[i].name for i in (0, 1, -1)}
    assert sum(layer.macs for layer in layers if layer.name in kept) < 0.01 * sum(layer.macs for layer in layers)


def test_the_built_in_unet():
    model, shapes = built_in("unet")
    layers = layers_of(model, shapes)
    assert len({layer.name for layer in layers}) == len(layers)
    assert layers[0].name == "conv_in" and layers[-1].name == "conv_out"
    assert default_float(layers) == {"conv_in", "conv_out"}
    operators = [node.op_type for node in model.graph]
    products = operators.count("Conv") + operators.count("MatMul") + operators.count("Gemm")
    assert products - len(layers) == 2 * operators.count("Softmax")
    assert 0.8 < sum(layer.macs for layer in layers) / total_macs(model, shapes) < 1
    # The up blocks read a concatenation; only their shortcuts read it directly.
    split = [layer.name for layer in layers if layer.halves]
    assert split == [name for name in (layer.name for layer in layers) if "up_blocks" in name and "shortcut" in name]
    blocks = [layer for layer in layers if layer.name.endswith((".conv2", ".to_out.0", ".ff.net.2", ".proj_out"))]
    shortcuts = {layer.name.removesuffix("_shortcut") for layer in layers if layer.name.endswith("conv_shortcut")}
    for layer in blocks:
        assert layer.residual or layer.name.removesuffix("2") in shortcuts
    assert not [layer.name for layer in layers if layer.residual and layer.name.endswith((".conv1", "to_q", "proj"))]


def test_weights_are_not_read_to_find_layers(tmp_path):
    model = toy.build("w16")
    expected = layers_of(model, toy.SHAPES)
    ir.save(model, tmp_path / "toy.onnx", external_data="toy.onnx.data", size_threshold_bytes=300)
    mapped = ir.load(tmp_path / "toy.onnx")
    (tmp_path / "toy.onnx.data").unlink()
    assert layers_of(mapped, toy.SHAPES) == expected
