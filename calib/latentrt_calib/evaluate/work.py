"""The work of a request: multiply-adds of the denoiser's calls, and the number of steps that costs as much."""

from __future__ import annotations

from latentrt.bundle.folder import Bundle
from latentrt.request.request import Request
from latentrt.request.settings import resolve
from latentrt_export.estimate.estimate import calls_of, denoiser_macs


def share_of(bundle: Bundle, less: Request, full: Request) -> float:
    """The multiply-adds of the denoiser's calls for a request, of those for another one, 0 to 1."""
    first, second = (resolve(one, bundle.manifest) for one in (less, full))
    macs = [denoiser_macs(bundle.manifest, calls_of(bundle, settings)) for settings in (first, second)]
    return macs[0] / macs[1]


def fewer_steps(share: float, steps: int) -> int:
    """The number of steps, at least 1, whose share of the work of `steps` is nearest to `share`."""
    return max(1, round(share * steps))
