"""How many steps a request asks for, and at which levels of noise: a curve by name, or the levels themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, get_args

from latentrt.bundle.manifest import Manifest
from latentrt.errors import RequestError
from latentrt.request.request import Request
from latentrt.sampling.curves import Sigmas, SigmasName
from latentrt.sampling.samplers.names import Named, curve_of
from latentrt.validate import choice, number, shown, whole

SIGMAS: tuple[SigmasName, ...] = get_args(SigmasName)


def curve_asked(request: Request, named: Named) -> Any:
    """The noise levels that the request names, or that its sampler's name does. Raises RequestError for two curves."""
    if request.sigmas is None or named.sigmas is None:
        return named.sigmas if request.sigmas is None else request.sigmas
    if sigmas_of(request.sigmas) != named.sigmas:
        raise RequestError(
            f"sigmas: got {shown(request.sigmas)} with the sampler {request.sampler!r}, which says {named.sigmas}; "
            f"use the sampler {named.sampler}"
        )
    return named.sigmas


def steps_of(request: Request, sigmas: Sigmas, manifest: Manifest) -> int:
    """The number of steps: as many as there are sigmas where these are listed."""
    if not isinstance(sigmas, tuple):
        return whole(
            "steps",
            manifest.defaults.steps if request.steps is None else request.steps,
            1,
            manifest.schedule.train_steps,
        )
    if request.steps not in (None, len(sigmas)):
        raise RequestError(
            f"steps: got {shown(request.steps)} with {len(sigmas)} sigmas, expected {len(sigmas)} or nothing"
        )
    return len(sigmas)


def sigmas_of(asked: Any) -> Sigmas:
    """A curve's name, or noise levels above zero that fall; a zero at their end, where runs end anyway, is dropped."""
    if isinstance(asked, str):
        found = curve_of(asked)
        return choice("sigmas", asked, SIGMAS) if found is None else found
    if not isinstance(asked, Sequence):
        raise RequestError(f"sigmas: got {shown(asked)}, expected one of {', '.join(SIGMAS)}, or falling numbers")
    levels = tuple(number("sigmas", level, 0, math.inf) for level in asked)
    levels = levels[:-1] if levels and levels[-1] == 0 else levels
    if not levels or levels[-1] == 0 or any(after >= before for before, after in pairwise(levels)):
        raise RequestError(f"sigmas: got {shown(list(asked))}, expected numbers that fall, each above zero")
    return levels
