"""Loss of a quantized bundle with a step cache: of both together, of the cache alone, and of 8 bits alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from latentrt.bundle.folder import Bundle
from latentrt.bundle.quantization import PictureLoss
from latentrt.pipeline.load import load
from latentrt_calib.evaluate.candidate import Evaluator
from latentrt_calib.evaluate.compare import bundle_summary, compare
from latentrt_calib.evaluate.generate import Sample, generate_samples
from latentrt_calib.recording.cached import EVERY, cached


@dataclass(frozen=True)
class CachedLoss:
    """Loss of pictures with a step cache that repeats features, one full call in `every` and the last.

    both: quantized and cached, relative to float and full. cache: float and cached, relative to float and full.
    quantization: quantized and cached, relative to float and cached.
    """

    every: int
    both: PictureLoss
    cache: PictureLoss
    quantization: PictureLoss


def cached_loss(source: Bundle, folder: Path, evaluator: Evaluator) -> CachedLoss | None:
    """The loss of the folder's bundle with a step cache, on the evaluator's requests.

    source: the float bundle. None where no call would be the shallow UNet's.
    """
    manifest, engine = source.manifest, evaluator.pipeline.engine
    requests = [second for one in evaluator.requests if (second := cached(one, manifest)) is not None]
    if len(requests) < len(evaluator.requests):
        return None
    floats = list(generate_samples(evaluator.pipeline, requests))
    evaluator.pipeline.close()
    with load(folder, engine=engine, verify=False) as pipeline:
        others = list(generate_samples(pipeline, requests))
        summaries = bundle_summary(source), bundle_summary(pipeline.bundle)

    def loss(one: Sequence[Sample], other: Sequence[Sample]) -> PictureLoss:
        return compare(*summaries, one, other, engine).loss

    full = evaluator.references
    return CachedLoss(EVERY, loss(full, others), loss(full, floats), loss(floats, others))
