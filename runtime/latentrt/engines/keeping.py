"""Outputs that stay on their engine's device, as inputs of a later call of it or of another engine of its kind."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol, runtime_checkable

import numpy as np

from latentrt.engines import Engine
from latentrt.errors import EngineError
from latentrt.tensors import Tensor


@runtime_checkable
class KeepsOutputs(Protocol):
    """An engine, or a wrapper of one, that can leave outputs on its device and takes such tensors as inputs."""

    def keep(self, feeds: Mapping[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
        """Returns every output by name; those in `names` stay on the device. Raises as a call."""
        ...


def keep(engine: Engine, feeds: Mapping[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
    """Returns every output of a call by name; those in `names` stay on the engine's device.

    feeds: arrays, or what an earlier call kept. An engine without a device of its own, as all for a CPU, returns arrays
    and copies nothing. Raises as a call, and EngineError if there is no output of such a name.
    """
    if isinstance(engine, KeepsOutputs):
        outputs = engine.keep(feeds, names)
    else:
        outputs = dict(engine({name: np.asarray(feed) for name, feed in feeds.items()}))
    if missing := sorted(set(names) - outputs.keys()):
        raise EngineError(f"got outputs {', '.join(missing)} to keep, expected some of {', '.join(outputs)}")
    return outputs
