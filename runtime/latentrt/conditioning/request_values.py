"""Values of a request that models are conditioned on, by the names that a manifest has for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from latentrt.bundle.manifest import Manifest
from latentrt.bundle.sources import GUIDANCE
from latentrt.errors import BundleError
from latentrt.request.settings import Settings
from latentrt.tensors import Array, TensorSpec

# A value from the settings of a run; the second argument says whether it is for the negative prompt.
RequestValue = Callable[[Settings, bool], float]


def part_of(field: str, place: int) -> RequestValue:
    """One number of a pair of the settings."""
    return lambda settings, _negative: getattr(settings.size_conditioning, field)[place]


def aesthetic_score(settings: Settings, negative: bool) -> float:
    """The score that the picture is to look rated with; the negative prompt has its own."""
    spec = settings.size_conditioning
    score = spec.negative_aesthetic_score if negative else spec.aesthetic_score
    return 0.0 if score is None else score


REQUEST_VALUES: dict[str, RequestValue] = {
    GUIDANCE: lambda settings, _negative: settings.scales[0] - 1,
    "original_width": part_of("original_size", 0),
    "original_height": part_of("original_size", 1),
    "crop_left": part_of("crop", 0),
    "crop_top": part_of("crop", 1),
    "target_width": part_of("target_size", 0),
    "target_height": part_of("target_size", 1),
    "aesthetic_score": aesthetic_score,
}


def request_input(spec: TensorSpec, names: Sequence[str], settings: Settings, *, negative: bool = False) -> Array:
    """One row of an input that takes these values, (1,) or (1, values), in the type of the input."""
    row = np.array([[REQUEST_VALUES[name](settings, negative) for name in names]], spec.dtype)
    return row if len(spec.shape) > 1 else row[:, 0]


def check_request_values(manifest: Manifest, where: object) -> None:
    """Raises BundleError for a model that is conditioned on a value that requests do not have."""
    unknown = [name for name in manifest.request_values if name not in REQUEST_VALUES]
    if unknown:
        raise BundleError(
            f"{where}: the model is conditioned on {', '.join(unknown)}, expected values among "
            f"{', '.join(REQUEST_VALUES)}; update latentrt"
        )
