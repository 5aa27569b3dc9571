"""Settings of a run for a benchmark's report."""

from __future__ import annotations

from latentrt.bench.report import CaseSettings
from latentrt.pipeline.pipeline import Pipeline
from latentrt.pipeline.prepare import Prepared


def report_settings(pipeline: Pipeline, prepared: Prepared) -> CaseSettings:
    """The settings of a prepared run for a report."""
    resolved, demand, budget = prepared.settings, prepared.demand, pipeline.budget
    return CaseSettings(
        prompt=resolved.text.prompt,
        negative=resolved.text.negative,
        seed=resolved.seeds[0],
        steps=resolved.steps,
        batch=demand.images,
        width=resolved.width,
        height=resolved.height,
        guidance=tuple(dict.fromkeys(resolved.scales)),
        sampler=resolved.schedule.sampler,
        sigmas=str(resolved.schedule.sigmas),
        unet_rows=demand.images * (1 if prepared.split else demand.prompts),
        memory_budget=budget.bytes if budget else None,
        in_turn=prepared.plan is not None and not prepared.plan.keep,
        class_label=resolved.model_inputs.class_label,
    )
