"""Parameters of a Riffusion spectrogram: the numbers of riffusion 0.0.5's SpectrogramParams, and their EXIF tags.

Sample rate and windows are constants, the same for every Riffusion model; bands and frequencies differ between models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from latentrt.errors import RequestError
from latentrt.validate import whole

SAMPLE_RATE = 44100
HOP = 441  # samples between columns: 10 ms
WINDOW = 4410  # samples per column: 100 ms
FFT = 17640  # samples per column, padded with zeros: 400 ms
BIN_HZ = SAMPLE_RATE / FFT
HIGHEST_HZ = SAMPLE_RATE // 2
POWER = 0.25  # exponent of the curve from amplitudes to grey values
FEWEST_COLUMNS = FFT // 2 // HOP + 2  # torch's limit: the samples mirrored at an end must exist
MOST_COLUMNS = 12000  # two minutes, about 0.6 GB of memory

TAG_STEREO, TAG_BANDS, TAG_LOW, TAG_HIGH, TAG_LARGEST = 11005, 11040, 11050, 11060, 11080
CONSTANTS = {11000: SAMPLE_RATE, 11010: 10, 11020: 100, 11030: 400, 11070: POWER}
TRIPLE = {11007: 0}  # later Riffusion can put three rows into a pixel's colours: not supported here


@dataclass(frozen=True)
class Parameters:
    """The rows of a spectrogram: mel bands, lowest and highest frequency in Hz, mono or stereo.

    The defaults are those of riffusion-model-v1. Raises RequestError for values out of range.
    """

    stereo: bool = False
    bands: int = 512
    low_hz: int = 0
    high_hz: int = 10000

    def __post_init__(self) -> None:
        whole("bands", self.bands, 16, 2048)
        whole("lowest frequency", self.low_hz, 0, HIGHEST_HZ - 1000)
        whole("highest frequency", self.high_hz, self.low_hz + 1000, HIGHEST_HZ)

    @property
    def channels(self) -> int:
        """Number of channels, 1 or 2."""
        return 2 if self.stereo else 1

    @property
    def bins(self) -> int:
        """Number of FFT bins, from 0 Hz up, that can be nonzero."""
        return int(self.high_hz / BIN_HZ) + 1


def exif_from_parameters(parameters: Parameters, largest: float) -> dict[int, Any]:
    """The EXIF tags that Riffusion writes: the parameters, and the amplitude of a black pixel (of 16-bit samples)."""
    return {
        **CONSTANTS,
        TAG_STEREO: int(parameters.stereo),
        TAG_BANDS: parameters.bands,
        TAG_LOW: parameters.low_hz,
        TAG_HIGH: parameters.high_hz,
        TAG_LARGEST: largest,
    }


def parameters_from_exif(exif: Mapping[int, Any]) -> Parameters | None:
    """The parameters in a picture's EXIF tags; None if there are none.

    Raises RequestError for another sample rate, window or curve, and for values out of range.
    """
    if TAG_BANDS not in exif:
        return None
    for tag, expected in (CONSTANTS | TRIPLE).items():
        if (got := exif.get(tag, expected)) != expected:
            raise RequestError(f"picture: EXIF tag {tag} is {got!r}, expected {expected}, the only supported value")
    return Parameters(
        stereo=bool(exif.get(TAG_STEREO, 0)),
        bands=exif[TAG_BANDS],
        low_hz=exif.get(TAG_LOW, 0),
        high_hz=exif.get(TAG_HIGH, 10000),
    )
