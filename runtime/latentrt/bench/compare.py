"""Two reports side by side, where that means something: refused, with reasons, where they are of unlike runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from latentrt.bench.report import TOTAL, Case, Report, Settings
from latentrt.bench.statistics import Summary
from latentrt.errors import RequestError

# What has to be the same, or it is not the bundle or the engine that makes the difference.
MACHINE = ("processor", "cores", "all_cores", "memory_bytes", "governor", "board", "power_mode", "gpu", "driver")
SETTINGS = ("guidance", "sampler", "sigmas", "unet_rows", "memory_budget")


@dataclass(frozen=True)
class Ratio:
    """A phase in both reports, seconds."""

    phase: str
    first: Summary
    second: Summary

    @property
    def ratio(self) -> float:
        """The second's median over the first's."""
        return self.second.p50 / self.first.p50

    @property
    def interval(self) -> tuple[float, float] | None:
        """The least and the most that the ratio may be, where the medians are anywhere in their intervals at 95 %."""
        one, two = self.first, self.second
        if not one.low or one.high is None or two.low is None or two.high is None:
            return None
        return two.low / one.high, two.high / one.low

    @property
    def said(self) -> str:
        """Whether the samples tell a difference."""
        interval = self.interval
        if interval is None:
            return "too few samples to tell"
        if interval[0] <= 1 <= interval[1]:
            return "as fast, as far as can be told"
        return "faster" if self.ratio < 1 else "slower"


@dataclass(frozen=True)
class Pairing:
    """A case that both reports have."""

    settings: Settings
    ratios: tuple[Ratio, ...]


def compare_reports(first: Report, second: Report, *, force: bool = False) -> tuple[Pairing, ...]:
    """Returns every case of both, phase by phase. force: also where they are unlike.

    Raises RequestError for unlike runs, with every reason, and for reports that have no case in common.
    """
    reasons = unlike(first, second)
    if reasons and not force:
        listed = "".join(f"\n  - {reason}" for reason in reasons)
        raise RequestError(f"these runs are not alike:{listed}\nmeasure again, or use --force to see them side by side")
    pairs = common(first, second)
    if not pairs:
        asked, other = (", ".join(f"({case.settings.name})" for case in report.cases) for report in (first, second))
        raise RequestError(f"no case in common: got {asked} and {other}; measure both with the same options")
    return tuple(Pairing(one.settings, tuple(ratios(one, two))) for one, two in pairs)


def document(pairings: Sequence[Pairing]) -> list[dict[str, Any]]:
    """The comparison as JSON can hold it."""
    return [
        {
            "settings": asdict(pairing.settings),
            "phases": {
                ratio.phase: {
                    "first_s": ratio.first.p50,
                    "second_s": ratio.second.p50,
                    "ratio": ratio.ratio,
                    "between": ratio.interval,
                    "said": ratio.said,
                }
                for ratio in pairing.ratios
            },
        }
        for pairing in pairings
    ]


def common(first: Report, second: Report) -> list[tuple[Case, Case]]:
    """The cases of the same size, steps and batch."""
    others = {case.settings.name: case for case in second.cases}
    return [(case, others[case.settings.name]) for case in first.cases if case.settings.name in others]


def unlike(first: Report, second: Report) -> list[str]:
    """Why the two should not be compared; nothing for like runs."""
    reasons = [*differing("machine", first.machine, second.machine, MACHINE)]
    if first.subject.family != second.subject.family:
        reasons.append(f"family: {first.subject.family} and {second.subject.family}")
    for one, two in common(first, second):
        reasons += differing(one.settings.name, one.settings, two.settings, SETTINGS)
        for name, case in (("first", one), ("second", two)):
            if not case.valid:
                codes = dict.fromkeys(reason.code for reason in case.reasons)
                reasons.append(f"{one.settings.name}: the {name} is INVALID: {', '.join(codes)}")
    return reasons


def differing(where: str, one: object, two: object, names: tuple[str, ...]) -> Iterator[str]:
    """What differs between two objects, among these attributes."""
    for name in names:
        values = getattr(one, name), getattr(two, name)
        if values[0] != values[1]:
            yield f"{where}: {name} is {values[0]} and {values[1]}"


def ratios(one: Case, two: Case) -> Iterator[Ratio]:
    """The phases that both have, the total last."""
    names = [name for name in one.statistics if name in two.statistics and one.statistics[name].p50 > 0]
    for name in sorted(names, key=lambda name: name == TOTAL):
        yield Ratio(name, one.statistics[name], two.statistics[name])
