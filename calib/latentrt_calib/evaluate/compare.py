"""Comparison of two bundles: both run the same requests; final pictures and the latents of each step are compared.

The reference generates all its pictures before the other bundle is loaded. Memory holds one bundle, and the pixels and
the latents after each step of the reference's pictures (2 MB per picture of 512x512 in 20 steps).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
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
from latentrt_calib.recording.subjects import subject_text

EVALUATION = Path(__file__).parent / "evaluation.txt"
SHOWN_WORST, SHOWN_FIRST = 3, 3


@dataclass(frozen=True)
class ComponentSize:
    """A component's precision, and the bytes of its graph and weights."""

    precision: Precision
    bytes: int


@dataclass(frozen=True)
class BundleSummary:
    """One of two bundles. sha256: of its manifest. bytes: of all its files. parts: its components by name."""

    name: str
    sha256: str
    bytes: int
    parts: Mapping[str, ComponentSize]


@dataclass(frozen=True)
class Pair:
    """Similarity of the two pictures of a request. prompt: its subject. psnr_db: None when they are equal.

    latents_error: after each step, the norm of the latents' difference over the norm of the reference's latents.
    """

    prompt: str
    seed: int
    psnr_db: float | None
    ssim: float
    latents_error: tuple[float, ...]

    @property
    def title(self) -> str:
        """The subject, if there is one, and the seed."""
        return f"\u201c{self.prompt}\u201d, seed {self.seed}" if self.prompt else f"seed {self.seed}"


@dataclass(frozen=True)
class PicturePair:
    """Two pictures to show, (height, width, 3) uint8 each. pair: their index among the pairs."""

    pair: int
    reference: Array = field(repr=False)
    other: Array = field(repr=False)


@dataclass(frozen=True)
class FewerSteps:
    """Steps that cost as much as a shortcut. share: of the work without it, 0 to 1. loss: of pictures of so many."""

    share: float
    steps: int
    loss: PictureLoss


@dataclass(frozen=True)
class Comparison:
    """Comparison of two bundles on the same requests.

    settings: settings that all requests share. samples: the pictures that differ most, then the first ones. shortcut:
    fields of the other bundle's requests alone, which compute less. fewer: fewer steps in their place.
    """

    reference: BundleSummary
    other: BundleSummary
    engine: str
    settings: Mapping[str, Any]
    pairs: tuple[Pair, ...]
    samples: tuple[PicturePair, ...] = field(repr=False, compare=False)
    shortcut: Mapping[str, Any] = field(default_factory=dict)
    fewer: FewerSteps | None = None

    @property
    def loss(self) -> PictureLoss:
        """Means and extremes over the pairs."""
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
        """The pair of lowest PSNR."""
        return min(self.pairs, key=likeness)

    def share_from(self, psnr_db: float) -> float:
        """The share of pictures, 0 to 1, whose PSNR is at least `psnr_db`."""
        return float(np.mean([likeness(pair) >= psnr_db for pair in self.pairs]))


@dataclass(frozen=True)
class Gates:
    """Least mean PSNR and least PSNR of any picture, in dB. None is no gate."""

    mean_db: float | None = None
    worst_db: float | None = None


def compare_bundles(
    reference: str | Path,
    other: str | Path,
    subjects: Sequence[str],
    *,
    images: int,
    seed: int = 0,
    engine: str = "onnxruntime",
    shortcut: Mapping[str, Any] | None = None,
    advance: Advance = lambda: None,
    **options: Any,
) -> Comparison:
    """Returns the comparison of the pictures of two bundles, each a folder or a built-in model's name.

    subjects, images, seed, options: as in `requests_of`. Options that are not given take the reference's defaults, for
    both bundles. shortcut: fields that the other bundle's requests have besides. advance: called after every picture.

    Raises RequestError for an invalid request, BundleError for bundles whose latents have different shapes.
    """
    with load(reference, engine=engine) as first, load(other, engine=engine) as second:
        requests = requests_of(subjects, first.bundle, images=images, seed=seed, **options)
        check_comparable(first.bundle, second.bundle)
        shortened = [replace(request, **(shortcut or {})) for request in requests]
        check_requests(second, shortened)
        references = tuple(generate_samples(first, requests, advance))
        first.close()
        summaries = bundle_summary(first.bundle), bundle_summary(second.bundle)
        found = compare(*summaries, references, generate_samples(second, shortened, advance), engine)
        if not shortcut:
            return found
        from latentrt_calib.evaluate.work import Work, fewer_steps  # here: it needs the package onnx-ir

        share = Work(second.bundle).share(shortened[0], requests[0])
        steps = fewer_steps(share, references[0].settings.steps)
        fewer = generate_samples(second, [replace(request, steps=steps) for request in requests], advance)
        loss = compare(*summaries, ends(references), ends(fewer), engine).loss
        return replace(found, shortcut=shortcut, fewer=FewerSteps(share, steps, loss))


def ends(samples: Iterable[Sample]) -> list[Sample]:
    """The samples with the latents of their last step alone: those before it are of other levels in fewer steps."""
    return [replace(one, latents=one.latents[-1:]) for one in samples]


def check_comparable(reference: Bundle, other: Bundle) -> None:
    """Raises BundleError unless the latents of both bundles have the same shape for the same request."""
    spaces = [(bundle.manifest.latents.channels, bundle.manifest.latents.factor) for bundle in (reference, other)]
    if spaces[0] != spaces[1]:
        (channels, factor), (expected, expected_factor) = spaces[1], spaces[0]
        raise BundleError(
            f"{other.folder}: got latents of {channels} channels and {factor} pixels per side; expected {expected} and "
            f"{expected_factor} as in {reference.folder}; compare two bundles of one model"
        )


def compare(
    reference: BundleSummary,
    other: BundleSummary,
    references: Iterable[Sample],
    others: Iterable[Sample],
    engine: str = "onnxruntime",
) -> Comparison:
    """Returns the comparison of two bundles' samples of the same requests, in the same order; at least one of each."""
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
    """Similarity of two samples of one request."""
    ratio = psnr_db(other.image, reference.image)
    return Pair(
        prompt=subject_text(reference.settings),
        seed=reference.settings.seeds[0],
        psnr_db=None if ratio == math.inf else ratio,
        ssim=ssim(other.image, reference.image),
        latents_error=tuple(map(relative_error, other.latents, reference.latents)),
    )


def mean_psnr_db(pairs: Iterable[Pair]) -> float | None:
    """The mean PSNR in dB of the pairs that differ; None if all are equal."""
    psnrs = psnrs_of(pairs)
    return float(np.mean(psnrs)) if psnrs else None


def psnrs_of(pairs: Iterable[Pair]) -> list[float]:
    """The PSNR in dB of each pair that differs."""
    return [pair.psnr_db for pair in pairs if pair.psnr_db is not None]


def likeness(pair: Pair) -> float:
    """The PSNR in dB, infinite for equal pictures."""
    return math.inf if pair.psnr_db is None else pair.psnr_db


def common_settings(settings: Settings) -> dict[str, Any]:
    """The settings that all pictures share, as JSON."""
    return {name: value for name, value in settings.record().items() if name not in ("prompt", "seeds")}


def bundle_summary(bundle: Bundle) -> BundleSummary:
    """Name, hash, bytes and components of a bundle."""
    manifest = bundle.manifest
    parts = {
        name: ComponentSize(
            component.precision, sum(manifest.files[file].bytes for file in (component.file, *component.data))
        )
        for name, component in manifest.components.items()
    }
    return BundleSummary(manifest.name, bundle.sha256, sum(record.bytes for record in manifest.files.values()), parts)


def document(comparison: Comparison) -> dict[str, Any]:
    """The comparison as JSON: all figures, no pictures."""
    return {
        "reference": asdict(comparison.reference),
        "other": asdict(comparison.other),
        "engine": comparison.engine,
        "settings": dict(comparison.settings),
        "shortcut": dict(comparison.shortcut),
        "fewer_steps": comparison.fewer and asdict(comparison.fewer),
        "loss": asdict(comparison.loss),
        "worst": asdict(comparison.worst),
        "pairs": [asdict(pair) for pair in comparison.pairs],
    }


def check_gates(loss: PictureLoss, gates: Gates) -> None:
    """Raises FidelityError that names each missed gate. Equal pictures pass any gate."""
    missed = missed_gates(loss, gates)
    if missed:
        raise FidelityError(f"{'; '.join(missed)}; keep more layers in float, or lower the gate")


def missed_gates(loss: PictureLoss, gates: Gates) -> list[str]:
    """One message per missed gate: the PSNR reached and the PSNR expected."""
    checks = (("mean PSNR", loss.psnr_db, gates.mean_db), ("worst PSNR", loss.worst_psnr_db, gates.worst_db))
    return [
        f"{name}: got {got:.2f} dB, expected at least {least:g} dB"
        for name, got, least in checks
        if got is not None and least is not None and not got >= least
    ]
