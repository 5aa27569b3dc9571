"""A component with weights in 8 or 4 bits, and arithmetic in float."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from latentrt.errors import FidelityError
from latentrt_calib.evaluate.candidate import Evaluator, FloatGraph
from latentrt_calib.evaluate.damage import Damage
from latentrt_calib.observing.observations import Observations
from latentrt_calib.observing.observe import ObservationSettings, observe
from latentrt_calib.precisions.choice import Choice, exempt_layers
from latentrt_calib.precisions.context import ANY, Candidate, Context, recorded
from latentrt_calib.quantize.planning import candidates
from latentrt_calib.report.layer_reports import (
    BY_RULE,
    EIGHT_BITS,
    FIRST_OR_LAST,
    FOUR_BITS,
    WEIGHTS_ONLY,
    eight_bits_for_budget,
)
from latentrt_calib.report.report import LayerReport
from latentrt_export.graph.eight_bits import weight_only
from latentrt_export.graph.four_bit_weights import BlockWeight, in_blocks
from latentrt_export.graph.four_bits import end_layers, four_bit_layers, scale_type, write_blocks
from latentrt_export.graph.layers import Layer, layer_nodes, layers_of, weight_of

# Inputs of layers are sampled alike over all timesteps: a weight in 4 bits is the same for all of them.
OBSERVING = ObservationSettings(buckets=1)


def in_w8(context: Context, _evaluator: Evaluator, component: str) -> Candidate:
    """The component with weights in 8 bits and arithmetic in float."""
    graph = context.graph(component, split=False)
    model = graph.model()
    layers = layers_of(model, graph.shapes)
    names = {layer.name for layer in candidates(layers)}
    weight_only(model, names)
    reports = tuple(
        LayerReport(layer.name, layer.op, layer.macs, WEIGHTS_ONLY if layer.name in names else BY_RULE)
        for layer in layers
    )
    return Candidate(graph, model, "w8", ANY, lambda: reports)


@dataclass(frozen=True)
class FourBitDraft:
    """A component's layers, and those of them that can have 4 bits, before some keep 8.

    layers: all layers of the graph. ends: names of the first and last ones, which stay float. small: the layers with a
    weight in 4 bits. weights: these, by the layer's name.
    """

    graph: FloatGraph
    layers: tuple[Layer, ...]
    ends: frozenset[str]
    small: tuple[Layer, ...]
    weights: Mapping[str, BlockWeight]

    def model(self, chosen: Collection[str]) -> ir.Model:
        """A new copy of the graph with these layers in 4 bits, and all others but the first and last in 8."""
        model = self.graph.model()
        weight_only(model, [layer.name for layer in self.layers if layer.name not in {*self.ends, *chosen}])
        write_blocks(model, {name: one for name, one in self.weights.items() if name in chosen})
        return model


def in_w4(context: Context, evaluator: Evaluator, component: str) -> Candidate:
    """The component with linear layers in 4 bits, and others in 8, among them those that the budget asks for."""
    draft = draft_of(context, component)
    kept, damage = frozenset[str](), tuple[Damage, ...]()
    if (budget_db := context.budget_of(component)) is not None and draft.small:

        def build(chosen: Sequence[Layer]) -> ir.Model:
            return draft.model({layer.name for layer in chosen})

        sizes = {name: one.values.size for name, one in draft.weights.items()}
        choice = Choice(component, draft.small, build, 4, "8 bits", lambda layer: sizes[layer.name])
        try:
            kept, damage = exempt_layers(context, evaluator, choice, budget_db)
        except FidelityError:
            if component == context.denoiser:
                raise
            # A text encoder then misses its gate, and stays float.
    chosen = {layer.name for layer in draft.small} - kept
    reports = reports_of(draft, chosen, damage)
    return Candidate(draft.graph, draft.model(chosen), "w4", ANY, lambda: reports, damage=damage)


def draft_of(context: Context, component: str) -> FourBitDraft:
    """The component's layers in 4 bits, each rounded with its inputs in the recording."""
    recipe, graph = context.options.recipe, context.graph(component, split=False)
    model = graph.model()
    layers = layers_of(model, graph.shapes)
    small = four_bit_layers(model, layers, recipe.block)
    nodes = layer_nodes(model.graph)
    rows = inputs_of(context, graph, model, small) if recipe.feedback else {}
    weights = {}
    for number, layer in enumerate(small, 1):
        context.progress(f"rounding layer {number} of {len(small)}: {layer.name}")
        node, found = nodes[layer.name], rows[layer.input].rows if rows else None
        weights[layer.name] = in_blocks(weight_of(node), recipe.block, inputs=found, scale_dtype=scale_type(node))
    return FourBitDraft(graph, layers, end_layers(model.graph, nodes), small, weights)


def inputs_of(context: Context, graph: FloatGraph, model: ir.Model, layers: Sequence[Layer]) -> Observations:
    """A sample of each layer's inputs over the recording, kept in the work folder."""
    values, folder = list(dict.fromkeys(layer.input for layer in layers)), context.folder / "observed" / graph.component
    recording = recorded(context).of(graph.component)
    return observe(model, values, recording, folder, OBSERVING, context.progress, context.shallow(graph))


def reports_of(draft: FourBitDraft, chosen: Collection[str], damage: Sequence[Damage]) -> tuple[LayerReport, ...]:
    """Reports of all layers. chosen: names of those in 4 bits."""
    by_layer = {name: one for one in damage for name in one.layers}

    def reason(name: str) -> str:
        if name in chosen or name in draft.ends:
            return FOUR_BITS if name in chosen else FIRST_OR_LAST
        return eight_bits_for_budget(by_layer[name]) if name in draft.weights else EIGHT_BITS

    return tuple(LayerReport(layer.name, layer.op, layer.macs, reason(layer.name)) for layer in draft.layers)
