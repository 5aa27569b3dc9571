"""The layers that keep more bits, so that pictures keep a budget: those with most damage per saving."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import onnx_ir as ir

from latentrt_calib.evaluate.candidate import Evaluator
from latentrt_calib.evaluate.compare import mean_psnr_db
from latentrt_calib.evaluate.damage import Damage
from latentrt_calib.evaluate.sensitivity import Saving, damage_of, fewest_float, groups_of, in_order
from latentrt_calib.precisions.context import Context
from latentrt_export.graph.layers import Layer

# The exempt layers, and the damage of each group that was measured.
Chosen = tuple[frozenset[str], tuple[Damage, ...]]


@dataclass(frozen=True)
class Choice:
    """Layers of a component to choose from.

    build: returns the graph with these layers in fewer bits and all others in more. bits: of those. exempt: words for
    the others. saving: of a layer.
    """

    component: str
    layers: Sequence[Layer]
    build: Callable[[Sequence[Layer]], ir.Model]
    bits: int
    exempt: str
    saving: Saving


def exempt_layers(context: Context, evaluator: Evaluator, choice: Choice, budget_db: float) -> Chosen:
    """Names of the layers that must keep more bits for the budget, and the damage of each group that was measured.

    Raises FidelityError for a budget that cannot be met.
    """
    options, layers = context.options, choice.layers

    def measure(chosen: Sequence[Layer], images: int | None = None) -> float:
        reached = mean_psnr_db(evaluator.pairs(choice.component, choice.build(chosen), images))
        return math.inf if reached is None else reached

    whole = measure(layers)
    context.progress(f"all {len(layers)} layers in {choice.bits} bits: {whole:.2f} dB, the budget is {budget_db:g} dB")
    if whole >= budget_db and not options.sensitivity:
        return frozenset(), ()
    groups = groups_of(layers)
    results = context.folder / f"sensitivity-{choice.component}.jsonl"
    damage = damage_of(groups, partial(measure, images=options.probes), results, context.progress)
    if whole >= budget_db:
        return frozenset(), damage
    ordered = in_order(groups, damage, choice.saving)
    count, _ = fewest_float(ordered, budget_db, measure, context.progress, choice.exempt)
    return frozenset(layer.name for group in ordered[:count] for layer in group), damage
