"""Settings that compute less, measured: their loss, beside that of fewer steps at the same cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from latentrt.bundle.quantization import PictureLoss
from latentrt.pipeline.pipeline import Pipeline
from latentrt.request.request import Request
from latentrt_calib.evaluate.compare import bundle_summary, compare, ends
from latentrt_calib.evaluate.generate import Advance, Sample, generate_samples
from latentrt_calib.evaluate.work import Work, fewer_steps


@dataclass(frozen=True)
class Shortcut:
    """Fields of a request that compute less.

    share: multiply-adds of all calls of the denoiser, of those without the fields, 0 to 1. loss: of pictures, relative
    to those without. fewer_steps, fewer_loss: the number of steps that costs as much, and its loss.
    """

    fields: Mapping[str, Any]
    share: float
    loss: PictureLoss
    fewer_steps: int
    fewer_loss: PictureLoss

    @property
    def gain_db(self) -> float:
        """Mean PSNR above that of fewer steps; infinite where nothing is lost, or only by the shortcut."""
        if self.loss.psnr_db is None:
            return math.inf
        if self.fewer_loss.psnr_db is None:
            return -math.inf
        return self.loss.psnr_db - self.fewer_loss.psnr_db


class Shortcuts:
    """Measures shortcuts of one bundle on the same requests.

    requests: without shortcuts. references: their samples, made here unless given. advance: called after every picture.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        requests: Sequence[Request],
        advance: Advance = lambda: None,
        references: Sequence[Sample] | None = None,
    ) -> None:
        self.pipeline, self.requests, self.advance = pipeline, requests, advance
        self.references = references or [*generate_samples(pipeline, requests, advance)]
        self.fewer: dict[int, PictureLoss] = {}
        self.work = Work(pipeline.bundle)

    def measure(self, fields: Mapping[str, Any]) -> Shortcut:
        """The shortcut of these fields. Raises RequestError for fields that the bundle or its sampler does not take."""
        first = self.requests[0]
        share = self.work.share(replace(first, **fields), first)
        fewer = fewer_steps(share, self.references[0].settings.steps)
        loss = self.loss(**fields)
        if fewer not in self.fewer:
            self.fewer[fewer] = self.loss(steps=fewer)
        return Shortcut(dict(fields), share, loss, fewer, self.fewer[fewer])

    def loss(self, **fields: Any) -> PictureLoss:
        """The loss of the requests' pictures with these fields in place of their own."""
        changed = [replace(request, **fields) for request in self.requests]
        others = list(generate_samples(self.pipeline, changed, self.advance))
        summary = bundle_summary(self.pipeline.bundle)
        return compare(summary, summary, ends(self.references), ends(others), self.pipeline.engine).loss
