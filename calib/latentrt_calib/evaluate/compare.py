"""Two bundles side by side: the same requests drawn with both, and how far the pictures and the way to them differ.

One bundle draws all its pictures before the other is loaded: what is in memory is one bundle, and of the reference's
pictures the pixels and the latents after each step (2 MB for 512x512 and 20 steps).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from latentrt.bundle.folder import Bundle
from latentrt.bundle.manifest import Precision
from latentrt.bundle.quantization import PictureLoss
from latentrt.errors import BundleError, FidelityError
from latentrt.pipeline.load import load
from latentrt.request.settings import Settings
from latentrt.tensors import Array
from latentrt_calib.evaluate.generate import Advance, Sample, generate_samples, requests_of
from latentrt_calib.evaluate.metrics import psnr_db, relative_error, ssim
from latentrt_calib.recording.requests import check_requests

EVALUATION = Path(__file__).parent / "evaluation.txt"
SHOWN_WORST, SHOWN_FIRST = 3, 3


@dataclass(frozen=True)
class ComponentSize:
    """A component's precision, and the bytes of its graph and weights."""

    precision: Precision
    bytes: int


@dataclass(frozen=True)
class BundleSummary:
    """One of two bundles. sha256: its manifest's. bytes: of all its files."""

    name: str
    sha256: str
    bytes: int
    parts: Mapping[str, ComponentSize]


@dataclass(frozen=True)
class Pair:
    """How alike the two pictures of a request are. psnr_db: None when they are equal.

    latents_error: after each step, the norm of what is off in the latents over the reference's.
    """

    prompt: str
    seed: int
    psnr_db: float | None
    ssim: float
    latents_error: tuple[float, ...]


@dataclass(frozen=True)
class PicturePair:
    """Two pictures to look at, (height, width, 3) uint8 each. pair: their place among the pairs."""

    pair: int
    reference: Array = field(repr=False)
    other: Array = field(repr=False)


@dataclass(frozen=True)
class Comparison:
    """What two bundles made of the same requests.

    settings: what all requests have in common. samples: the least alike first, then the first that were asked for.
    """

    reference: BundleSummary
    other: BundleSummary
    engine: str
    settings: Mapping[str, Any]
    pairs: tuple[Pair, ...]
    samples: tuple[PicturePair, ...] = field(repr=False, compare=False)

    @property
    def loss(self) -> PictureLoss:
        """The pairs in a few numbers: means and extremes."""
        similarities = [pair.ssim for pair in self.pairs]
        errors = np.mean([pair.latents_error for pair in self.pairs], axis=0)
        return PictureLoss(
            pictures=len(self.pairs),
            psnr_db=mean_psnr_db(self.pairs),
            worst_psnr_db=min(psnrs_of(self.pairs), default=None),
            ssim=float(np.mean(similarities)),
            worst_ssim=min(similarities),
            latents_error=tuple(errors.tolist()),
        )

    @property
    def worst(self) -> Pair:
        """The pair whose pictures are least alike, by PSNR."""
        return min(self.pairs, key=likeness)

    def share_from(self, psnr_db: float) -> float:
        """The share of the pictures whose PSNR is at least so many dB, 0 to 1."""
        return float(np.mean([likeness(pair) >= psnr_db for pair in self.pairs]))


@dataclass(frozen=True)
class Gates:
    """What pictures must reach: the mean of their PSNR, and the worst of it. None asks for nothing."""

    mean_db: float | None = None
    worst_db: float | None = None


def compare_bundles(
    reference: str | Path,
    other: str | Path,
    prompts: Sequence[str],
    *,
    images: int,
    seed: int = 0,
    engine: str = "onnxruntime",
    advance: Advance = lambda: None,
    **options: Any,
) -> Comparison:
    """Returns how far the pictures of `other` are from those of `reference`, each a folder or a built-in model's name.

    images, seed, options: as in `requests_of`; what is not given is the reference's default, for both bundles.
    advance: called after every picture of either.

    Raises RequestError for what cannot be generated, BundleError for bundles whose latents have no common shape.
    """
    with load(reference, engine=engine) as first, load(other, engine=engine) as second:
        asked = requests_of(prompts, first.bundle, images=images, seed=seed, **options)
        check_comparable(first.bundle, second.bundle)
        check_requests(second, asked)
        drawn = tuple(generate_samples(first, asked, advance))
        first.close()
        return compare(
            bundle_summary(first.bundle),
            bundle_summary(second.bundle),
            drawn,
            generate_samples(second, asked, advance),
            engine,
        )


def check_comparable(reference: Bundle, other: Bundle) -> None:
    """Raises BundleError unless the same request gives both latents of one shape."""
    spaces = [(bundle.manifest.latents.channels, bundle.manifest.latents.factor) for bundle in (reference, other)]
    if spaces[0] != spaces[1]:
        (channels, pixels), (expected, side) = spaces[1], spaces[0]
        raise BundleError(
            f"{other.folder}: got latents of {channels} channels, one for {pixels} pixels; expected {expected} and "
            f"{side} as in {reference.folder}; compare two bundles of one model"
        )


def compare(
    reference: BundleSummary,
    other: BundleSummary,
    references: Iterable[Sample],
    others: Iterable[Sample],
    engine: str = "onnxruntime",
) -> Comparison:
    """Returns the comparison of two bundles' drawings of the same requests, in the same order and at least one."""
    pairs: list[Pair] = []
    worst: list[PicturePair] = []
    first: list[PicturePair] = []
    settings: Mapping[str, Any] = {}
    for index, (one, two) in enumerate(zip(references, others, strict=True)):
        settings = settings or common_settings(one.settings)
        pairs.append(pair_of(one, two))
        sample = PicturePair(index, one.image, two.image)
        if len(first) < SHOWN_FIRST:
            first.append(sample)
        worst = sorted([*worst, sample], key=lambda sample: likeness(pairs[sample.pair]))[:SHOWN_WORST]
    shown = {sample.pair: sample for sample in (*worst, *first)}
    return Comparison(reference, other, engine, settings, tuple(pairs), tuple(shown.values()))


def pair_of(reference: Sample, other: Sample) -> Pair:
    """How alike two drawings of one request are."""
    ratio = psnr_db(other.image, reference.image)
    return Pair(
        prompt=reference.settings.text.prompt,
        seed=reference.settings.seeds[0],
        psnr_db=None if ratio == math.inf else ratio,
        ssim=ssim(other.image, reference.image),
        latents_error=tuple(map(relative_error, other.latents, reference.latents)),
    )


def mean_psnr_db(pairs: Iterable[Pair]) -> float | None:
    """The mean PSNR in dB of the pairs that differ; None where none does."""
    psnrs = psnrs_of(pairs)
    return float(np.mean(psnrs)) if psnrs else None


def psnrs_of(pairs: Iterable[Pair]) -> list[float]:
    """The PSNR in dB of each pair that differs."""
    return [pair.psnr_db for pair in pairs if pair.psnr_db is not None]


def likeness(pair: Pair) -> float:
    """The PSNR in dB, infinite for equal pictures."""
    return math.inf if pair.psnr_db is None else pair.psnr_db


def common_settings(settings: Settings) -> dict[str, Any]:
    """The settings that do not differ from picture to picture, as JSON can hold them."""
    return {name: value for name, value in settings.record().items() if name not in ("prompt", "seeds")}


def bundle_summary(bundle: Bundle) -> BundleSummary:
    """What a comparison says of a bundle."""
    manifest = bundle.manifest
    parts = {
        name: ComponentSize(
            component.precision, sum(manifest.files[file].bytes for file in (component.file, *component.data))
        )
        for name, component in manifest.components.items()
    }
    return BundleSummary(manifest.name, bundle.sha256, sum(record.bytes for record in manifest.files.values()), parts)


def document(comparison: Comparison) -> dict[str, Any]:
    """The comparison as JSON can hold it: all figures, no pictures."""
    return {
        "reference": asdict(comparison.reference),
        "other": asdict(comparison.other),
        "engine": comparison.engine,
        "settings": dict(comparison.settings),
        "loss": asdict(comparison.loss),
        "worst": asdict(comparison.worst),
        "pairs": [asdict(pair) for pair in comparison.pairs],
    }


def check_gates(loss: PictureLoss, gates: Gates) -> None:
    """Raises FidelityError that names each gate the pictures stay under; pictures that are all equal pass any."""
    missed = missed_gates(loss, gates)
    if missed:
        raise FidelityError(f"{'; '.join(missed)}; keep more layers in float, or lower the gate")


def missed_gates(loss: PictureLoss, gates: Gates) -> list[str]:
    """What was got and what was expected, for each gate that the pictures stay under."""
    asked = (("mean PSNR", loss.psnr_db, gates.mean_db), ("worst PSNR", loss.worst_psnr_db, gates.worst_db))
    return [
        f"{name}: got {got:.2f} dB, expected at least {least:g} dB"
        for name, got, least in asked
        if got is not None and least is not None and not got >= least
    ]
