"""Verdict on a case: fixed rules, each of which may give reasons against the figures."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from latentrt.bench.report import TOTAL, Case, Reason

LEAST_SAMPLES = 10
MOST_OTHERS = 0.05  # share of all cores that other processes may use
MOST_UNCERTAINTY = 0.05  # half the width of the median's 95 % interval, relative to the median
MOST_DRIFT = 0.05  # from the first third of the samples to the last
MOST_CLOCK = 0.05  # from the highest clock to the lowest
LEAST_REPEATED = 0.9  # time of a repeated request over that of a new one; the limit of MLPerf's TEST04
LEAST_REPEATED_PHASE = 0.5  # of one phase, which varies more; a cached one takes almost no time


def reasons_of(case: Case) -> tuple[Reason, ...]:
    """Returns the reasons why a case is INVALID; empty for a valid one. The name of a rule is its reason's code."""
    rules = (few, spread, drift, loaded, clocks, slowed, fallback, budget, audit)
    return tuple(Reason(rule.__name__, text) for rule in rules for text in rule(case))


def few(case: Case) -> Iterator[str]:
    """There are too few samples."""
    if len(case.samples) < LEAST_SAMPLES:
        yield f"{len(case.samples)} samples, expected at least {LEAST_SAMPLES}: use --runs {LEAST_SAMPLES}"


def spread(case: Case) -> Iterator[str]:
    """The interval of the median is too wide."""
    uncertain = case.statistics[TOTAL].uncertainty
    if uncertain is not None and uncertain > MOST_UNCERTAINTY:
        yield (
            f"the median's 95 % interval is \u00b1{100 * uncertain:.1f} %, more than the "
            f"{100 * MOST_UNCERTAINTY:.0f} % allowed: use more --runs"
        )


def drift(case: Case) -> Iterator[str]:
    """Requests became faster or slower during the run."""
    third = len(case.samples) // 3
    if third < 2:
        return
    first, last = (median(sample.total for sample in part) for part in (case.samples[:third], case.samples[-third:]))
    change = last / first - 1
    if abs(change) > MOST_DRIFT:
        more = "more" if change > 0 else "less"
        yield (
            f"the last third of the requests took {abs(change):.1%} {more} time than the first: use more --warmups, or "
            "check cooling and other load"
        )


def loaded(case: Case) -> Iterator[str]:
    """Other processes used too much of the processor."""
    others = case.conditions.others
    if others is not None and others > MOST_OTHERS:
        yield f"other processes used {others:.1%} of the cores, expected at most {MOST_OTHERS:.0%}: stop them"


def clocks(case: Case) -> Iterator[str]:
    """A clock of the processor or GPU changed too much."""
    for name, clock in case.conditions.clocks_mhz.items():
        if clock.least < clock.most * (1 - MOST_CLOCK):
            yield f"the {name}'s clock went from {clock.most:.0f} to {clock.least:.0f} MHz: fix it, see docs/bench.md"


def slowed(case: Case) -> Iterator[str]:
    """Clocks were throttled for heat or power."""
    yield from (f"throttled: {reason}" for reason in case.conditions.slowed)


def fallback(case: Case) -> Iterator[str]:
    """This package logged a warning during the timed requests."""
    yield from (f"a warning during the timed requests: {warning}" for warning in case.conditions.warnings)


def budget(case: Case) -> Iterator[str]:
    """The peak of memory was over the budget."""
    peak, most = case.memory.peak, case.settings.memory_budget
    if peak is not None and most is not None and peak > most:
        yield f"the peak was {peak / 1e9:.2f} GB, over the budget of {most / 1e9:.2f} GB: use a larger --memory-budget"


def audit(case: Case) -> Iterator[str]:
    """The audit found different pictures, or times that suggest a cache."""
    if case.audit is None:
        return
    if case.audit.different:
        seeds = ", ".join(map(str, case.audit.different))
        yield f"pictures differ when generated again, for these seeds: {seeds}"
    for phase, ratio in case.audit.repeated.items():
        least = LEAST_REPEATED if phase == TOTAL else LEAST_REPEATED_PHASE
        if ratio < least:
            yield (
                f"{phase}: a repeated request takes {ratio:.2f} of a new one's time, expected at least {least:g}: "
                "results are cached, or other processes slowed the new requests; measure again on an idle machine"
            )
