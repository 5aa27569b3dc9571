"""The seeds of a batch, and the generator that they belong to."""

from __future__ import annotations

import secrets
from typing import Any

from latentrt.request.request import LARGEST_SEED, RANDOM, Request
from latentrt.request.rows import checked
from latentrt.request.text import strength_of
from latentrt.sampling.noise.source import NoiseSpec
from latentrt.validate import whole


def resolve_noise(request: Request) -> NoiseSpec:
    """The request's random numbers; a seed that is not given is drawn from the system. Raises RequestError."""
    batch, strength = checked(request, "batch"), strength_of(request, "variation_strength", "variation_seed")
    seeds = seeds_of("seed", request.seed, batch, one=strength > 0)
    varied = request.variation_seed is not None
    variations = seeds_of("variation_seed", request.variation_seed, batch) if varied else ()
    return NoiseSpec(checked(request, "noise"), seeds, variations if strength else (), strength)


def noise_record(spec: NoiseSpec) -> dict[str, Any]:
    """The fields of the request that make this again; seeds and variation seeds one per image."""
    fields = dict(vars(spec))
    return {"noise": fields.pop("generator"), **fields}


def seeds_of(name: str, seed: int | None, batch: int, *, one: bool = False) -> tuple[int, ...]:
    """One seed per image, each one more than the last, or `one` for all; drawn from the system for None and RANDOM."""
    highest = LARGEST_SEED - (0 if one else batch - 1)
    first = secrets.randbits(32) if seed in (None, RANDOM) else whole(name, seed, 0, highest)
    return (first,) * batch if one else tuple(range(first, first + batch))
