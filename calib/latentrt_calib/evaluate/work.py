"""The work of a request: multiply-adds of the denoiser's calls, and the number of steps that costs as much."""

from __future__ import annotations

from dataclasses import dataclass, field

from latentrt.bundle.folder import Bundle
from latentrt.request.request import Request
from latentrt.request.settings import Settings, resolve
from latentrt_export.estimate.estimate import POSITIVE, call_cost, denoiser_calls


@dataclass(frozen=True)
class Work:
    """Counts a bundle's work. known: multiply-adds of one call, by graph, rows and size; each is counted once."""

    bundle: Bundle
    known: dict[tuple[str, int, int, int], int] = field(default_factory=dict)

    def share(self, less: Request, full: Request) -> float:
        """The multiply-adds of the denoiser's calls for a request, of those for another one, 0 to 1."""
        return self.macs(less) / self.macs(full)

    def macs(self, request: Request) -> int:
        """The multiply-adds of all calls of the denoiser, the shallow one's too, for one picture."""
        settings = resolve(request, self.bundle.manifest)
        calls = denoiser_calls(self.bundle.manifest, settings)
        return sum(
            count * self.call(name.removesuffix(POSITIVE), rows, settings) for name, (rows, count) in calls.items()
        )

    def call(self, name: str, rows: int, settings: Settings) -> int:
        """The multiply-adds of one call of a component."""
        key = name, rows, settings.width, settings.height
        if key not in self.known:
            self.known[key] = call_cost(self.bundle, name, settings, rows).macs
        return self.known[key]


def fewer_steps(share: float, steps: int) -> int:
    """The number of steps, at least 1, whose share of the work of `steps` is nearest to `share`."""
    return max(1, round(share * steps))
