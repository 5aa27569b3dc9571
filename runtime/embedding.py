"""The time embedding of a run: every level, and every text and size that it takes besides, in one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from latentrt.conditioning import Call, Conditioning, Row
from latentrt.manifest import Manifest, SizeId
from latentrt.settings import Settings
from latentrt.tensors import Array

Key = tuple[str, bool]  # a text, and whether it is the negative one
ANY: Key = ("", False)


@dataclass(frozen=True)
class TimeBias:
    """The packed biases: (texts, T) by level. places: the row of each text; none where texts have no say."""

    rows: Mapping[float, Array]
    places: Mapping[Key, int]

    def of(self, sigma: float, row: Row) -> Array:
        """The biases at a level under a text, (1, T)."""
        place = self.places.get((row.text, row.negative), 0)
        return self.rows[sigma][place : place + 1]


def time_bias(call: Call, times: Mapping[float, float], added: Mapping[Key, Mapping[str, Array]]) -> TimeBias:
    """The biases at every level.

    times: the timestep of each level. added: by text, what the graph takes besides the timestep, one row each.
    """
    names = next(iter(added.values()))
    feeds = {name: np.concatenate([one[name] for one in added.values()]) for name in names}
    timesteps = np.repeat(np.array(list(times.values())), len(added))
    repeated = {name: np.concatenate([feed] * len(times)) for name, feed in feeds.items()}
    biases = call("time_bias", timestep=timesteps, **repeated)["time_bias"]
    rows = biases.reshape(len(times), len(added), -1)
    return TimeBias(dict(zip(times, rows, strict=True)), {key: place for place, key in enumerate(added)})


def added(manifest: Manifest, settings: Settings, conditioning: Conditioning) -> dict[Key, dict[str, Array]]:
    """What the time embedding takes besides the timestep, by text; {ANY: {}} where that is nothing."""
    wanted = {spec.name for spec in manifest.components["time_bias"].inputs} - {"timestep"}
    if not wanted:
        return {ANY: {}}
    # diffusers tells models the guidance less one, the paper's w.
    shared = {"size_ids": size_ids(manifest.size_ids, settings), "guidance": np.array([settings.scales[0] - 1])}
    found = {}
    for text, negative in conditioning.used():
        pooled = conditioning.encoded(text, negative=negative).pooled
        known = shared if pooled is None else {**shared, "pooled": pooled}
        found[text, negative] = {name: known[name] for name in wanted}
    return found


def size_ids(names: Sequence[SizeId], settings: Settings) -> Array:
    """The sizes that the picture is to look made for: (1, ids) float32, in pixels."""
    values = {
        "original": settings.original_size,
        "target": settings.target_size,
        "crop": settings.crop,
    }
    sides = {"width": 0, "left": 0, "height": 1, "top": 1}
    pairs = (name.split("_") for name in names)
    return np.array([[(values[what] or (0, 0))[sides[side]] for what, side in pairs]], np.float32)
