"""The denoiser as samplers call it: noisy latents and sigma in, guided clean latents out."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from latentrt.bundle.manifest import Manifest
from latentrt.bundle.sources import DEEP_FEATURES
from latentrt.conditioning.control import ControlSet
from latentrt.conditioning.extra_channels import concat_channels
from latentrt.conditioning.inputs import DenoiserInputs
from latentrt.conditioning.positions import position_table
from latentrt.conditioning.prompts import Row
from latentrt.conditioning.references import References
from latentrt.conditioning.rotary import image_rotations, text_rotations
from latentrt.conditioning.text import Call
from latentrt.pipeline.step_cache import StepCache
from latentrt.sampling.guidance import Guidance, guided, sum_of
from latentrt.sampling.prediction import Prediction
from latentrt.sampling.tiling import Tile
from latentrt.tensors import Array

log = logging.getLogger(__name__)


@dataclass
class Denoiser:
    """The denoiser for one run, with all inputs that depend only on the prompt or the timestep computed before.

    split: one call of the network per prompt, not one for all prompts, to need less memory. step: the current step, for
    guidance and prompts that change. extra_channels: those after the noisy latents, (batch, channels, height, width);
    None for a model without. controls: the control images; None for a model that takes none. references: pictures that
    are shown beside the latents; None for none. cache: what calls leave for later ones; None where every call computes
    everything.
    """

    call: Call
    manifest: Manifest
    inputs: DenoiserInputs
    guidance: Guidance
    prediction: Prediction
    split: bool = False
    step: int = 0
    extra_channels: Array | None = None
    controls: ControlSet | None = None
    references: References | None = None
    cache: StepCache | None = None

    def __call__(self, x: Array, sigma: float, window: Tile | None = None) -> Array:
        """The guided clean latents for `x`, float32 of the same shape. window: the tile that `x` is; None for all."""
        scale = self.guidance.at(self.step, sigma)
        negative, positives = self.inputs.conditioning.rows(self.step)
        weights, rows = zip(*positives, strict=True)
        image = self.guidance.image if scale > 1 else 1.0
        # Without guidance, the negative prompt would cancel out.
        if negative is None or (scale == 1 and math.fsum(weights) == 1):
            combined = sum_of(list(zip(weights, self.predictions(x, sigma, rows, window), strict=True)))
        else:
            dropped = (negative._replace(image_dropped=True),) if image != 1 else ()
            found = self.predictions(x, sigma, (*dropped, negative, *rows), window)
            first, *rest = found[len(dropped) :]
            added = (image - 1) * (first - found[0]) if dropped else 0.0
            combined = guided(first, list(zip(weights, rest, strict=True)), scale, self.guidance.rescale, added)
        return self.prediction.denoised(x, combined, sigma)

    def predictions(self, x: Array, sigma: float, rows: Sequence[Row], window: Tile | None) -> list[Array]:
        """The prediction for each row of conditioning, negative ones first: the network's, or from the cache."""
        if self.cache is None:
            return self.predict(x, sigma, rows, window)
        self.cache.begin(rows, window)
        return self.cache.predictions(partial(self.predict, x, sigma, window=window), rows)

    def predict(self, x: Array, sigma: float, rows: Sequence[Row], window: Tile | None = None) -> list[Array]:
        """The network's prediction for each row of conditioning, in as few calls as possible. window: the tile `x`."""
        extra = self.extra_channels
        extra = extra if extra is None or window is None else extra[..., window[0], window[1]]
        scale = self.prediction.scale(sigma)
        dtype = self.manifest.components[self.manifest.denoiser].input(self.manifest.sample).dtype
        # Converted before it is repeated: NumPy converts to float16 slowly, one element at a time.
        sample = (x if scale == 1 else x * np.float32(scale)).astype(dtype, copy=False)
        predictions: list[Array] = []
        for group in self.groups(rows):
            try:
                predictions += self.predict_group(group, sample, sigma, extra, window)
            except MemoryError:  # the engine's or NumPy's
                if len(group) == 1:
                    raise
                log.warning("too little memory for %d prompts per call of the UNet: from now on one", len(group))
                break
        else:
            return predictions
        # Outside the handler, because its error keeps the failed call's arrays alive.
        self.split, predictions = True, []
        return self.predict(x, sigma, rows, window)

    def predict_group(
        self, group: tuple[Row, ...], sample: Array, sigma: float, extra: Array | None, window: Tile | None
    ) -> list[Array]:
        """The network's prediction for some rows, in one call. sample, extra: of one row."""
        name = self.manifest.sample
        feeds = {name: np.concatenate([sample] * len(group)), **self.inputs.feeds(group, sigma, len(sample))}
        feeds |= self.positions((sample.shape[2], sample.shape[3]), group[0].tokens)
        negative = [row.negative for row in group for _ in sample]
        shallow = self.manifest.shallow if self.cache is not None and self.cache.shallow else None
        more = self.controls.feeds(self.step, feeds, negative, window, shallow=shallow) if self.controls else {}
        if extra is not None:
            feeds[name] = np.concatenate([concat_channels(sample, extra, dropped=row.image_dropped) for row in group])
        if self.references is not None:
            feeds[name] = self.references.joined(feeds[name])
        output = self.network(group, {**feeds, **more}, shallow)
        if self.references is not None:
            output = self.references.parted(output, sample.shape[2] * sample.shape[3])
        return list(output.astype(np.float32, copy=False).reshape(len(group), *sample.shape))

    def positions(self, size: tuple[int, int], tokens: int) -> dict[str, Array]:
        """The inputs that depend on the size alone: rows and columns of latents, and tokens of a text.

        Of a tile, it is that of a picture of its size.
        """
        denoiser, found = self.manifest.components[self.manifest.denoiser], dict[str, Array]()
        references = () if self.references is None else self.references.sizes
        for spec in denoiser.inputs:
            source = denoiser.sources[spec.name]
            if source.positions is not None:
                found[spec.name] = position_table(spec, source.positions, *size)
            elif source.rotary is not None and "tokens" in spec.shape:
                found[spec.name] = text_rotations(source.rotary, tokens)
            elif source.rotary is not None:
                found[spec.name] = image_rotations(source.rotary, size, references)
        return found

    def network(self, group: tuple[Row, ...], feeds: dict[str, Array], shallow: str | None) -> Array:
        """The prediction of one call for some rows: of the denoiser, or of the shallow one with features kept."""
        cache = self.cache
        if cache is not None and shallow is not None:
            taken = {name: feeds[name] for name in self.manifest.components[shallow].sources if name in feeds}
            return self.call(shallow, **taken, **{DEEP_FEATURES: cache.features_of(group)})["prediction"]
        if cache is None or not cache.plan.spec.features:
            return self.call(self.manifest.denoiser, **feeds)["prediction"]
        outputs = self.call(self.manifest.denoiser, kept=(DEEP_FEATURES,), **feeds)
        cache.keep_features(group, outputs[DEEP_FEATURES])
        return outputs["prediction"]

    def groups(self, rows: Sequence[Row]) -> Iterable[tuple[Row, ...]]:
        """The rows of each call, in order: neighbours with the same number of tokens share a call."""
        if self.split:
            return ((row,) for row in rows)
        return (tuple(group) for _, group in itertools.groupby(rows, lambda row: row.tokens))
