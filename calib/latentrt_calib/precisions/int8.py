"""A component with weights and activations in 8 bits: observed, planned, float layers chosen, noise measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import onnx_ir as ir

from latentrt_calib.evaluate.candidate import Evaluator, FloatGraph
from latentrt_calib.evaluate.damage import Damage
from latentrt_calib.evaluate.noise import noise_of
from latentrt_calib.evaluate.sensitivity import multiply_adds
from latentrt_calib.observing.observations import Observations
from latentrt_calib.observing.observe import ObservationSettings, observe
from latentrt_calib.precisions.choice import Choice, Chosen, exempt_layers
from latentrt_calib.precisions.context import Candidate, Context, recorded
from latentrt_calib.quantize.planning import PlannedLayer, candidates, observed_values, plan_layers
from latentrt_calib.recording.record import DECODER, Recording
from latentrt_calib.report.layer_reports import BY_RULE, bucket_ends, over_budget, ranges_of
from latentrt_calib.report.report import LayerReport
from latentrt_export.graph.layers import Layer, layers_of

OBSERVING, OBSERVING_DECODER = ObservationSettings(), ObservationSettings(buckets=1)  # the decoder has no timesteps


def observing(component: str) -> ObservationSettings:
    """The settings with which a component's activations are observed."""
    return OBSERVING_DECODER if component == DECODER else OBSERVING


@dataclass(frozen=True)
class QuantizationDraft:
    """Plans of all layers that can be quantized, before some return to float.

    layers: all layers of the graph. quantizable: the layers with a plan. observations: statistics of their activations
    over the recording. planned: plans by layer.
    """

    recording: Recording
    graph: FloatGraph
    layers: tuple[Layer, ...]
    quantizable: tuple[Layer, ...]
    observations: Observations
    planned: Mapping[str, PlannedLayer]


def plan_all_layers(context: Context, recording: Recording) -> QuantizationDraft:
    """Returns plans for the layers of the recording's component. Observations are kept in the work folder."""
    recipe, component = context.options.recipe, recording.component
    graph = context.graph(component, split=recipe.split)
    model = graph.model()
    layers = layers_of(model, graph.shapes)
    quantizable = candidates(layers)
    values, folder = observed_values(quantizable, recipe.target), context.folder / "observed" / component
    shallow = context.shallow(graph)
    observations = observe(model, values, recording, folder, observing(component), context.progress, shallow)
    context.progress("planning")
    planned = plan_layers(model, quantizable, observations, recipe)
    return QuantizationDraft(recording, graph, layers, quantizable, observations, planned)


def in_int8(context: Context, evaluator: Evaluator, component: str) -> Candidate:
    """The component with weights and activations in 8 bits; some of the UNet's layers stay float for the budget."""
    target = context.options.recipe.target
    draft = plan_all_layers(context, recorded(context).of(component))
    floats, damage = choose_float_layers(context, evaluator, draft) if component != DECODER else (frozenset(), ())
    plans = {name: one.plan for name, one in draft.planned.items() if name not in floats}
    model = draft.graph.quantized(plans, target)
    layers = partial(int8_layers, context, draft, model, floats, damage)
    buckets = bucket_ends(observing(component).buckets, draft.recording.settings.train_steps)
    return Candidate(draft.graph, model, "int8", target, layers, buckets, damage)


def choose_float_layers(context: Context, evaluator: Evaluator, draft: QuantizationDraft) -> Chosen:
    """Names of the layers that must stay float for the budget, and the damage of each group that was measured."""

    def build(chosen: Sequence[Layer]) -> ir.Model:
        plans = {layer.name: draft.planned[layer.name].plan for layer in chosen}
        return draft.graph.quantized(plans, context.options.recipe.target)

    choice = Choice(draft.graph.component, draft.quantizable, build, 8, "float", multiply_adds)
    return exempt_layers(context, evaluator, choice, context.options.budget_db)


def int8_layers(
    context: Context, draft: QuantizationDraft, model: ir.Model, floats: frozenset[str], damage: Sequence[Damage]
) -> tuple[LayerReport, ...]:
    """Reports of the layers of the quantized `model`. floats: names of the layers that stay float for the budget."""
    context.pipeline.close()  # noise is measured with two graphs in memory
    context.progress("measuring each layer's noise")
    noise = noise_of(draft.graph.model(), model, draft.layers, draft.recording, context.folder / "noise")
    by_layer = {name: one for one in damage for name in one.layers}
    reasons = {
        layer.name: over_budget(by_layer[layer.name]) if layer.name in floats else None for layer in draft.quantizable
    }
    return tuple(
        LayerReport(
            layer.name,
            layer.op,
            layer.macs,
            reasons.get(layer.name, BY_RULE),
            noise[layer.name],
            *ranges_of(draft.planned.get(layer.name), draft.observations, layer),
        )
        for layer in draft.layers
    )
