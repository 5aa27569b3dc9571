"""Comparison of two reports, phase by phase. Reports of unlike runs are refused with the reasons."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from latentrt.bench.report import TOTAL, Case, CaseSettings, Report
from latentrt.bench.statistics import Summary
from latentrt.errors import RequestError

# Attributes that must be equal; otherwise a difference in time need not come from the bundle or the engine.
MACHINE = ("processor", "cores", "all_cores", "memory_bytes", "governor", "board", "power_mode", "gpu", "driver")
SETTINGS = ("guidance", "sampler", "sigmas", "unet_rows", "memory_budget")


@dataclass(frozen=True)
class Ratio:
    """The times of one phase in both reports, in seconds."""

    phase: str
    first: Summary
    second: Summary

    @property
    def ratio(self) -> float:
        """The second median over the first."""
        return self.second.p50 / self.first.p50

    @property
    def interval(self) -> tuple[float, float] | None:
        """Bounds of the ratio if each median is anywhere in its 95 % interval; None with too few samples."""
        one, two = self.first, self.second
        if not one.low or one.high is None or two.low is None or two.high is None:
            return None
        return two.low / one.high, two.high / one.low

    @property
    def verdict(self) -> str:
        """The second run relative to the first, as far as the samples can tell."""
        interval = self.interval
        if interval is None:
            return "too few samples to tell"
        if interval[0] <= 1 <= interval[1]:
            return "as fast, within the uncertainty"
        return "faster" if self.ratio < 1 else "slower"


@dataclass(frozen=True)
class Pairing:
    """A case that both reports have."""

    settings: CaseSettings
    ratios: tuple[Ratio, ...]


def compare_reports(first: Report, second: Report, *, force: bool = False) -> tuple[Pairing, ...]:
    """Returns the cases that both reports have, phase by phase. force: compare unlike runs too.

    Raises RequestError with every reason for unlike runs, and for reports without a common case.
    """
    reasons = differences(first, second)
    if reasons and not force:
        listed = "".join(f"\n  - {reason}" for reason in reasons)
        raise RequestError(f"these runs are not alike:{listed}\nmeasure again, or compare them anyway with --force")
    pairs = common_cases(first, second)
    if not pairs:
        got, other = (", ".join(f"({case.settings.name})" for case in report.cases) for report in (first, second))
        raise RequestError(f"no case in common: got {got} and {other}; measure both with the same options")
    return tuple(Pairing(one.settings, tuple(ratios(one, two))) for one, two in pairs)


def document(pairings: Sequence[Pairing]) -> list[dict[str, Any]]:
    """The comparison as plain values for JSON."""
    return [
        {
            "settings": asdict(pairing.settings),
            "phases": {
                ratio.phase: {
                    "first_s": ratio.first.p50,
                    "second_s": ratio.second.p50,
                    "ratio": ratio.ratio,
                    "between": ratio.interval,
                    "said": ratio.verdict,
                }
                for ratio in pairing.ratios
            },
        }
        for pairing in pairings
    ]


def common_cases(first: Report, second: Report) -> list[tuple[Case, Case]]:
    """Pairs of cases with the same size, steps and batch."""
    others = {case.settings.name: case for case in second.cases}
    return [(case, others[case.settings.name]) for case in first.cases if case.settings.name in others]


def differences(first: Report, second: Report) -> list[str]:
    """The reasons not to compare two reports; an empty list for like runs."""
    reasons = [*differing_values("machine", first.machine, second.machine, MACHINE)]
    if first.subject.family != second.subject.family:
        reasons.append(f"family: {first.subject.family} and {second.subject.family}")
    for one, two in common_cases(first, second):
        reasons += differing_values(one.settings.name, one.settings, two.settings, SETTINGS)
        for name, case in (("first", one), ("second", two)):
            if not case.valid:
                codes = dict.fromkeys(reason.code for reason in case.reasons)
                reasons.append(f"{one.settings.name}: the {name} is INVALID: {', '.join(codes)}")
    return reasons


def differing_values(subject: str, one: object, two: object, names: tuple[str, ...]) -> Iterator[str]:
    """One line per attribute in `names` that differs between two objects."""
    for name in names:
        values = getattr(one, name), getattr(two, name)
        if values[0] != values[1]:
            yield f"{subject}: {name} is {values[0]} and {values[1]}"


def ratios(one: Case, two: Case) -> Iterator[Ratio]:
    """The ratios of the phases that both cases have, the total last."""
    names = [name for name in one.statistics if name in two.statistics and one.statistics[name].p50 > 0]
    for name in sorted(names, key=lambda name: name == TOTAL):
        yield Ratio(name, one.statistics[name], two.statistics[name])
