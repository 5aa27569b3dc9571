"""The model as samplers see it: noisy latents and their level in, clean latents out, guided."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from latentrt.conditioning.control import Steering
from latentrt.conditioning.extra_channels import beside
from latentrt.conditioning.text import Call, Conditioning, Row
from latentrt.conditioning.time_embedding import TimeBias
from latentrt.sampling.grids import Grid
from latentrt.sampling.guidance import Guidance, guided, sum_of
from latentrt.sampling.prediction import Prediction
from latentrt.sampling.schedule import timestep_at
from latentrt.sampling.step import SamplerSteps
from latentrt.sampling.tiling import Tile
from latentrt.tensors import Array, read_only

log = logging.getLogger(__name__)


def timesteps_of_calls(sampler: Callable[..., SamplerSteps], grid: Grid) -> dict[float, float]:
    """The timestep for every level at which `walk` will call the model, in the order of the first calls.

    Found by walking once with next to nothing, so that no sampler has to say it twice: its own levels have the grid's
    timesteps, those in between are read off the table.
    """
    known = dict(zip(grid.sigmas.tolist(), grid.timesteps.tolist(), strict=True))
    found: dict[float, float] = {}

    def denoise(x: Array, sigma: float) -> Array:
        found[sigma] = known[sigma] if sigma in known else float(timestep_at(np.array(sigma), grid.table))
        return x

    nothing = np.zeros((1, 1, 1, 1), np.float32)
    for _ in sampler(denoise, nothing, grid, lambda _sigma, _lower: nothing):
        pass
    return found


@dataclass
class Denoiser:
    """The model for one run; everything that depends on the prompt or the timestep alone was computed before.

    split: one call of the UNet for each prompt in place of one for all, which needs less memory. sample_dtype: the
    float type in which the UNet takes latents. step: the one that the run is in, for guidance and prompts that change.
    shown: what the UNet sees besides the latents, (batch, channels, height, width), None for one that sees no more.
    steering: of a UNet that images may steer.
    """

    call: Call
    conditioning: Conditioning
    guidance: Guidance
    prediction: Prediction
    time_bias: TimeBias
    split: bool = False
    sample_dtype: str = "float32"
    step: int = 0
    shown: Array | None = None
    steering: Steering | None = None
    stacked: dict[tuple[Row, ...], Array] = field(default_factory=dict)

    def __call__(self, x: Array, sigma: float, window: Tile | None = None) -> Array:
        """The clean latents that the model, guided, sees in `x`; same shape, float32. window: the part that `x` is."""
        scale = self.guidance.at(self.step, sigma)
        negative, positives = self.conditioning.rows(self.step)
        weights, rows = zip(*positives, strict=True)
        image = self.guidance.image if scale > 1 else 1.0
        if scale == 1 and math.fsum(weights) == 1:  # the negative prompt would cancel out
            combined = sum_of(list(zip(weights, self.predict(x, sigma, rows, window), strict=True)))
        else:
            bare = (negative._replace(bare=True),) if image != 1 else ()
            found = self.predict(x, sigma, (*bare, negative, *rows), window)
            first, *rest = found[len(bare) :]
            added = (image - 1) * (first - found[0]) if bare else 0.0
            combined = guided(first, list(zip(weights, rest, strict=True)), scale, self.guidance.rescale, added)
        return self.prediction.denoised(x, combined, sigma)

    def predict(self, x: Array, sigma: float, rows: Sequence[Row], window: Tile | None = None) -> list[Array]:
        """What the UNet predicts under each text, in as few calls as may be. window: the part that `x` is."""
        shown = self.shown if self.shown is None or window is None else self.shown[..., window[0], window[1]]
        scale = self.prediction.scale(sigma)
        # Converted before it is repeated: NumPy makes float16 slowly, one element at a time.
        sample = (x if scale == 1 else x * np.float32(scale)).astype(self.sample_dtype, copy=False)
        predictions: list[Array] = []
        for group in self.groups(rows):
            try:
                predictions += self.predict_group(group, sample, sigma, shown, window)
            except MemoryError:  # the engine's or NumPy's
                if len(group) == 1:
                    raise
                log.warning("too little memory for %d prompts in a call of the UNet: from now on one", len(group))
                break
        else:
            return predictions
        # Outside the handler, whose error holds all that was made for the call that failed.
        self.split, predictions = True, []
        return self.predict(x, sigma, rows, window)

    def predict_group(
        self, group: tuple[Row, ...], sample: Array, sigma: float, shown: Array | None, window: Tile | None
    ) -> list[Array]:
        """What the UNet predicts under some texts, in one call. sample, shown: of one text."""
        feeds = {
            "sample": np.concatenate([sample] * len(group)),
            "time_bias": np.repeat(self.bias(group, sigma), len(sample), axis=0),
            "cross_kv": self.cross_kv(group, len(sample)),
        }
        negative = [row.negative for row in group for _ in sample]
        more = self.steering.feeds(self.step, feeds, negative, window) if self.steering else {}
        if shown is not None:
            feeds["sample"] = np.concatenate([beside(sample, shown, bare=row.bare) for row in group])
        output = self.call("unet", **feeds, **more)["prediction"]
        return list(output.astype(np.float32, copy=False).reshape(len(group), *sample.shape))

    def bias(self, rows: Sequence[Row], sigma: float) -> Array:
        """The time bias at a level under each text, (texts, T)."""
        return np.concatenate([self.time_bias.of(sigma, row) for row in rows])

    def groups(self, rows: Sequence[Row]) -> Iterable[tuple[Row, ...]]:
        """The texts that one call takes together, in order: those next to each other that are equally long."""
        if self.split:
            return ((row,) for row in rows)
        return (tuple(group) for _, group in itertools.groupby(rows, lambda row: row.tokens))

    def cross_kv(self, rows: tuple[Row, ...], images: int) -> Array:
        """The keys and values of each text for every image; kept for the next call, which mostly asks for the same.

        Read-only and no view, so that an engine which has them on its device knows that they did not change.
        """
        if rows not in self.stacked:
            if len(self.stacked) > 1:
                self.stacked.clear()
            packed = [self.conditioning.packed(row) for row in rows for _ in range(images)]
            self.stacked[rows] = read_only(np.concatenate(packed))
        return self.stacked[rows]
