"""What holds of every transformer: half precisions, and plans by NVIDIA's own builder, for a GPU that is not here."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from latentrt_export.build.tensorrt import BuildOptions, build

GPUS = ("sm86", "sm89", "sm120")  # GeForce RTX 30, 40 and 50


def check_half_precision(
    pair: Any, precision: str, least: float, *, wide: str = "text_encoder", **options: Any
) -> None:
    """Asserts the text encoder's and the denoiser's precision, and the PSNR in dB of a picture of these options.

    wide: the text encoder whose values leave fp16's range.
    """
    with pair.ours:
        components = pair.ours.bundle.manifest.components
        found = pair.psnr(steps=4, **options)
    print(f"{found:.1f} dB")
    assert components[wide].precision == "w16" and components["transformer"].precision == precision
    assert found >= least


def check_plans(pair: Any, bundle: Path) -> None:
    """Asserts that every component of the pair's bundle becomes a plan for every GPU."""
    with pair.ours:
        names = pair.ours.bundle.manifest.components
    plans = list(build(bundle, BuildOptions("tensorrt-rtx", GPUS, sizes=((96, 64),), batches=(2,))))
    assert [(plan.component, plan.gpu) for plan in plans] == [(name, gpu) for name in names for gpu in GPUS]


def psnr_of(got: np.ndarray, expected: np.ndarray) -> float:
    """The PSNR in dB over the range of the expected values."""
    rms = float(np.sqrt(np.mean((got.astype(np.float64) - expected) ** 2)))
    return 20 * math.log10(float(np.ptp(expected)) / max(rms, 1e-12))
