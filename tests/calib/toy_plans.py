"""The toy model quantized: a plan for each of its layers, and the graph that is written from them."""

from latentrt_calib.quantize import qdq
from latentrt_calib.quantize.plan import TARGETS, LayerPlan, Scale
from latentrt_calib.quantize.ranges import Range, scale_and_zero
from latentrt_calib.quantize.split_concat import split_concatenations
from latentrt_export.graph.eight_bit_weights import quantized
from latentrt_export.graph.layers import default_float, float_type, layer_nodes, layers_of, output_axis, weight_of
from tests.export import toy


def split_toy(precision="fp32"):
    model = toy.build(precision)
    split_concatenations(model, layers_of(model, toy.SHAPES))
    return model, layers_of(model, toy.SHAPES)


def scales_of(layers, target, values):
    """The scale of each activation from the least and largest value seen."""
    names = {name for layer in layers for name in (layer.input, layer.output, layer.residual) if name}
    found = {name: Range(float(values[name].min()), float(values[name].max())) for name in names}
    return {
        name: Scale(float(scale), zero)
        for name, (scale, zero) in (
            (name, scale_and_zero(values, TARGETS[target].activations)) for name, values in found.items()
        )
    }


def plans_of(model, layers, target, inputs, folder):
    """A plan for each layer that may be quantized, from one run."""
    names = {name for layer in layers for name in (layer.input, layer.output, layer.residual) if name}
    values = toy.run(model, inputs, folder, extra=sorted(names - inputs.keys()))[0] | inputs
    scales, nodes = scales_of(layers, target, values), layer_nodes(model.graph)
    plans = {}
    for layer in layers:
        if layer.name not in default_float(layers):
            node = nodes[layer.name]
            weight = quantized(
                weight_of(node),
                output_axis(node),
                scale_dtype=float_type(node),
                largest=TARGETS[target].largest_weight,
            )
            plans[layer.name] = LayerPlan(
                scales[layer.input], *weight, scales[layer.output], scales.get(layer.residual)
            )
    return plans


def written(target, precision, folder, change=lambda plans: plans):
    model, layers = split_toy(precision)
    plans = change(plans_of(model, layers, target, toy.feeds(precision, batch=32), folder))
    qdq.write_qdq(model, plans, target)
    return model, plans
