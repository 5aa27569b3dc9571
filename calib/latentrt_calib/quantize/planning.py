"""Quantization plans from observations: ranges, SmoothQuant, int8 weights and corrected biases of each layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from latentrt_calib.observing.histogram import Histogram
from latentrt_calib.observing.observations import Observations, Observed
from latentrt_calib.quantize.bias import bias_correction
from latentrt_calib.quantize.plan import TARGETS, LayerPlan, Scale, Target
from latentrt_calib.quantize.ranges import Range, minmax, mse, scale_and_zero
from latentrt_calib.quantize.smooth import Smoothing, absorber, search
from latentrt_export.graph.eight_bit_weights import SHRINKS, quantized
from latentrt_export.graph.four_bit_weights import BLOCK
from latentrt_export.graph.layers import Layer, default_float, float_type, layer_nodes, output_axis, weight_of


@dataclass(frozen=True)
class Recipe:
    """Parts of the method. All are on, except in benchmarks that measure the effect of each.

    target: a key of `plan.TARGETS`. split: separate scales for the two halves of a skip connection. smooth: SmoothQuant
    for linear layers. correct: bias correction. clip: ranges of least squared error instead of the extremes. feedback,
    block: of weights in 4 bits, error feedback, and the input channels of a scale.
    """

    target: str = "cpu"
    split: bool = True
    smooth: bool = True
    correct: bool = True
    clip: bool = True
    feedback: bool = True
    block: int = BLOCK

    @property
    def rules(self) -> Target:
        """Q/DQ placement of the target."""
        return TARGETS[self.target]


@dataclass(frozen=True)
class PlannedLayer:
    """A layer's plan, with figures for the report. clip: input range. alpha: of SmoothQuant; None without it."""

    plan: LayerPlan
    clip: Range
    alpha: float | None


def candidates(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """Returns the layers that may be quantized: all except those that stay float by rule."""
    floats = default_float(layers)
    return tuple(layer for layer in layers if layer.name not in floats)


def observed_values(layers: Iterable[Layer], target: str) -> list[str]:
    """Returns the names of activations whose ranges the target's plans need, each once, in graph order."""
    rules = TARGETS[target]
    values: list[str] = []
    for layer in layers:
        values.append(layer.input)
        if layer.op in rules.outputs:
            values.append(layer.output)
        if rules.residuals and layer.residual:
            values.append(layer.residual)
    return list(dict.fromkeys(values))


def plan_layers(
    model: ir.Model, layers: Sequence[Layer], observations: Observations, recipe: Recipe
) -> dict[str, PlannedLayer]:
    """Returns a plan for each of the model's `layers`; the model is not changed."""
    nodes = layer_nodes(model.graph)
    planned: dict[str, PlannedLayer] = {}
    for value, readers in readers_of(layers).items():
        observed = observations[value]
        smoothing = smoothing_of([nodes[layer.name] for layer in readers], observed, recipe)
        clip, scale = input_scale(observed, smoothing, recipe)
        for layer in readers:
            ranges = {"output": layer.output, "residual": layer.residual}
            others = {name: scale_of(observations, activation, recipe) for name, activation in ranges.items()}
            factors = None if smoothing is None else smoothing.scales
            plan = layer_plan(nodes[layer.name], observed, factors, scale, recipe, others)
            planned[layer.name] = PlannedLayer(plan, clip, None if smoothing is None else smoothing.alpha)
    return {layer.name: planned[layer.name] for layer in layers}


def readers_of(layers: Iterable[Layer]) -> dict[str, list[Layer]]:
    """The layers by their input; layers with the same input share its scale."""
    groups: dict[str, list[Layer]] = {}
    for layer in layers:
        groups.setdefault(layer.input, []).append(layer)
    return groups


def smoothing_of(nodes: Sequence[ir.Node], observed: Observed, recipe: Recipe) -> Smoothing | None:
    """The smoothing of the linear layers that read one activation; None unless a LayerNorm can absorb the division.

    Without a LayerNorm, the division needs one more operator and loses fidelity: the sampled rows miss outliers of
    inputs that no norm bounds, and pictures of the built-in model lost 3.7 dB.
    """
    value = nodes[0].inputs[0]
    if not recipe.smooth or not len(observed.rows) or value is None or absorber(value, nodes) is None:
        return None
    weights = [weight_of(node) if output_axis(node) == 1 else weight_of(node).T for node in nodes]
    rules = recipe.rules
    found = search(
        observed.rows,
        weights,
        input_absmax=observed.channel_absmax,
        scheme=rules.activations,
        largest_weight=rules.largest_weight,
    )
    return None if found.alpha is None else found


def input_scale(observed: Observed, smoothing: Smoothing | None, recipe: Recipe) -> tuple[Range, Scale]:
    """The range and the scale of a layer's input, after smoothing if there is any."""
    if smoothing is None:
        return fitted(observed.histogram, recipe)
    quotient = Histogram()
    quotient.add(observed.rows / smoothing.scales)  # known for the sampled rows only
    return fitted(quotient, recipe)


def scale_of(observations: Observations, value: str, recipe: Recipe) -> Scale | None:
    """The scale of an activation; None if it was not observed."""
    return fitted(observations[value].histogram, recipe)[1] if value in observations else None


def fitted(histogram: Histogram, recipe: Recipe) -> tuple[Range, Scale]:
    """The range of a histogram, and the scale and zero point that cover it."""
    scheme = recipe.rules.activations
    found = mse(histogram, scheme) if recipe.clip else minmax(histogram)
    scale, zero = scale_and_zero(found, scheme)
    return found, Scale(float(scale), zero)


def layer_plan(
    node: ir.Node,
    observed: Observed,
    factors: NDArray[np.float32] | None,
    scale: Scale,
    recipe: Recipe,
    others: Mapping[str, Scale | None],
) -> LayerPlan:
    """The plan of one layer. factors: divisors of its input, or None. scale: of the input, after the division."""
    axis, weight = output_axis(node), weight_of(node)
    mean = observed.channel_mean
    if factors is not None:
        weight = weight * (factors[:, np.newaxis] if axis == 1 else factors)
        mean = mean / factors
    shrinks = SHRINKS if recipe.clip else (1.0,)
    values, steps = quantized(
        weight, axis, shrinks=shrinks, scale_dtype=float_type(node), largest=recipe.rules.largest_weight
    )
    delta = bias_correction(weight, values, steps, mean, axis) if recipe.correct else None
    return LayerPlan(scale, values, steps, bias_delta=delta, smooth=factors, **others)
