"""Values of a request that models are conditioned on, by the names that a manifest has for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from latentrt.bundle.manifest import Manifest
from latentrt.bundle.sources import GUIDANCE
from latentrt.errors import BundleError
from latentrt.request.model_inputs import VALUES
from latentrt.request.settings import Settings
from latentrt.tensors import Array, TensorSpec

# A value from the settings of a run; the second argument says whether it is for the negative prompt.
RequestValue = Callable[[Settings, bool], float | Array]


def model_input(name: str) -> RequestValue:
    """An input of the model besides the prompt."""
    return lambda settings, negative: VALUES[name](settings.model_inputs, negative)


REQUEST_VALUES: dict[str, RequestValue] = {
    GUIDANCE: lambda settings, _negative: settings.scales[0] - 1,
    **{name: model_input(name) for name in VALUES},
}


def request_input(spec: TensorSpec, names: Sequence[str], settings: Settings, *, negative: bool = False) -> Array:
    """One row of an input that takes these values, (1,), (1, values) or (1, ...), in the type of the input."""
    values = [REQUEST_VALUES[name](settings, negative) for name in names]
    if isinstance(values[0], np.ndarray):
        return values[0][np.newaxis].astype(spec.dtype)
    row = np.array([values], spec.dtype)
    return row if len(spec.shape) > 1 else row[:, 0]


def check_request_values(manifest: Manifest, where: object) -> None:
    """Raises BundleError for a model that is conditioned on a value that requests do not have."""
    unknown = [name for name in manifest.request_values if name not in REQUEST_VALUES]
    if unknown:
        raise BundleError(
            f"{where}: the model is conditioned on {', '.join(unknown)}, expected values among "
            f"{', '.join(REQUEST_VALUES)}; update latentrt"
        )
