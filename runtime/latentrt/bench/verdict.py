"""What speaks against figures: reasons by rules that are written down, not by judgement."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from latentrt.bench.report import TOTAL, Case, Reason

LEAST_SAMPLES = 10
MOST_OTHERS = 0.05  # of all cores, taken by other processes
MOST_UNCERTAINTY = 0.05  # of the median, either way, at 95 %
MOST_DRIFT = 0.05  # from the first third of the samples to the last
MOST_CLOCK = 0.05  # from the highest clock to the lowest
LEAST_REPEATED = 0.9  # of a new request's time; MLPerf's TEST04 allows the same
LEAST_REPEATED_PHASE = 0.5  # of a phase alone, which varies more; one that is cached takes next to nothing


def reasons_of(case: Case) -> tuple[Reason, ...]:
    """Returns why the figures are not to be trusted; nothing for a valid case."""
    rules = (few, spread, drift, loaded, clocks, slowed, fallback, budget, audit)
    return tuple(Reason(rule.__name__, said) for rule in rules for said in rule(case))


def few(case: Case) -> Iterator[str]:
    """Too few samples."""
    if len(case.samples) < LEAST_SAMPLES:
        yield f"{len(case.samples)} samples, at least {LEAST_SAMPLES} are needed: use --runs {LEAST_SAMPLES}"


def spread(case: Case) -> Iterator[str]:
    """The median is not known well."""
    uncertain = case.statistics[TOTAL].uncertainty
    if uncertain is not None and uncertain > MOST_UNCERTAINTY:
        yield f"the median is known to {uncertain:.1%} only, not to {MOST_UNCERTAINTY:.0%}: use more --runs"


def drift(case: Case) -> Iterator[str]:
    """It became faster or slower on the way."""
    third = len(case.samples) // 3
    if third < 2:
        return
    first, last = (median(sample.total for sample in part) for part in (case.samples[:third], case.samples[-third:]))
    change = last / first - 1
    if abs(change) > MOST_DRIFT:
        yield f"the last third took {change:+.1%} against the first: use more --warmups, see to cooling and load"


def loaded(case: Case) -> Iterator[str]:
    """Other processes had a share of the machine."""
    others = case.conditions.others
    if others is not None and others > MOST_OTHERS:
        yield f"other processes took {others:.1%} of the cores, at most {MOST_OTHERS:.0%} may be: stop them"


def clocks(case: Case) -> Iterator[str]:
    """A clock changed."""
    for name, clock in case.conditions.clocks_mhz.items():
        if clock.least < clock.most * (1 - MOST_CLOCK):
            yield f"the {name}'s clock went from {clock.most:.0f} to {clock.least:.0f} MHz: fix it, see docs/bench.md"


def slowed(case: Case) -> Iterator[str]:
    """Clocks were lowered, for heat or power."""
    yield from (f"slowed down: {reason}" for reason in case.conditions.slowed)


def fallback(case: Case) -> Iterator[str]:
    """The engine warned while it was timed."""
    yield from (f"warned while timed: {warning}" for warning in case.conditions.warnings)


def budget(case: Case) -> Iterator[str]:
    """It took more memory than it was to."""
    peak, most = case.memory.peak, case.settings.memory_budget
    if peak is not None and most is not None and peak > most:
        yield f"the peak was {peak / 1e9:.2f} GB, over the budget of {most / 1e9:.2f} GB: use a larger --memory-budget"


def audit(case: Case) -> Iterator[str]:
    """The audit found that the timed work was not done."""
    if case.audit is None:
        return
    if case.audit.different:
        seeds = ", ".join(map(str, case.audit.different))
        yield f"made again untimed, the pictures of these seeds differ: {seeds}"
    for phase, ratio in case.audit.repeated.items():
        least = LEAST_REPEATED if phase == TOTAL else LEAST_REPEATED_PHASE
        if ratio < least:
            yield (
                f"{phase}: a repeated request takes {ratio:.2f} of a new one's time, expected at least {least:g}: "
                "something is kept from request to request, or other processes slowed the new ones; run it again on an "
                "idle machine"
            )
