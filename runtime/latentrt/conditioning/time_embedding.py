"""The time embedding of a run: every level, and every text and size that it takes besides, in one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from latentrt.bundle.manifest import Manifest, SizeId
from latentrt.conditioning.text import Call, Conditioning, Row
from latentrt.request.settings import Settings
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
    guidance = np.array([settings.scales[0] - 1])  # diffusers tells models the guidance less one, the paper's w
    found = {}
    for text, negative in conditioning.used():
        sizes = size_ids(manifest.size_ids, settings, negative=negative)
        pooled = conditioning.encoded(text, negative=negative).pooled
        known = {"guidance": guidance, "size_ids": sizes, **({} if pooled is None else {"pooled": pooled})}
        found[text, negative] = {name: known[name] for name in wanted}
    return found


def size_ids(names: Sequence[SizeId], settings: Settings, *, negative: bool = False) -> Array:
    """What the picture is to look made for: (1, ids) float32. negative: whether it is the negative prompt's."""
    spec = settings.size_conditioning
    score = spec.negative_aesthetic_score if negative else spec.aesthetic_score
    pairs = {
        ("original_width", "original_height"): spec.original_size,
        ("crop_left", "crop_top"): spec.crop,
        ("target_width", "target_height"): spec.target_size,
        ("aesthetic_score",): (score,),
    }
    known = {name: value for pair, values in pairs.items() for name, value in zip(pair, values or (), strict=False)}
    return np.array([[known[name] for name in names]], np.float32)
