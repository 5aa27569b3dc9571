"""Cases that hypothesis generates: so many, always the same ones of a seed, and none is kept or made smaller."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st


def for_each(work: Callable[..., None], *strategies: st.SearchStrategy[Any], count: int, at: int) -> None:
    """Calls `work` with at most `count` values of the strategies; fewer if there are no more. at: the seed."""
    limits = settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    seed(at)(limits(given(*strategies)(work)))()
