"""What a request asks of a pipeline: every choice made, and how it keeps to a memory budget."""

from __future__ import annotations

from dataclasses import dataclass

from latentrt.bench.report import Settings
from latentrt.pipeline.memory import Demand, Plan, demand_of
from latentrt.pipeline.pipeline import Pipeline
from latentrt.prompt import read
from latentrt.request.request import Request
from latentrt.request.settings import settle


@dataclass(frozen=True)
class Asked:
    """A request's settings, its demand, and the plan for a pipeline that has a budget."""

    settings: Settings
    demand: Demand
    plan: Plan | None

    @property
    def keeps(self) -> bool:
        """Whether components stay loaded from one to the next."""
        return self.plan is None or self.plan.keep


def asked_of(pipeline: Pipeline, request: Request) -> Asked:
    """Returns what the request asks of the pipeline.

    Raises RequestError for what cannot be generated, OutOfMemoryError for more than the budget.
    """
    manifest, budget = pipeline.bundle.manifest, pipeline.budget
    chosen = settle(request, manifest)
    prompt = read(chosen.prompt, pipeline.tokenizer, chosen.steps, syntax=chosen.syntax)
    demand = demand_of(chosen, len(prompt.guides), manifest)
    plan = budget.plan(manifest, demand) if budget else None
    split = pipeline.split_guidance or (plan is not None and plan.split)
    settings = Settings(
        prompt=chosen.prompt,
        negative=chosen.negative,
        seed=chosen.seeds[0],
        steps=chosen.steps,
        batch=demand.images,
        width=chosen.width,
        height=chosen.height,
        guidance=tuple(dict.fromkeys(chosen.scales)),
        sampler=chosen.sampler,
        sigmas=str(chosen.sigmas),
        unet_rows=demand.images * (1 if split else demand.prompts),
        memory_budget=budget.bytes if budget else None,
        in_turn=plan is not None and not plan.keep,
    )
    return Asked(settings, demand, plan)
