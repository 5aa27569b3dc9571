"""Parameters of a Riffusion spectrogram: the numbers of riffusion 0.0.5's SpectrogramParams, and their EXIF tags.

Rate and windows are constants: every Riffusion model was trained on them. Bands and frequencies differ between models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from latentrt.errors import RequestError
from latentrt.validate import whole

SAMPLE_RATE = 44100
HOP = 441  # samples between columns: 10 ms
WINDOW = 4410  # samples that a column sees: 100 ms
FFT = 17640  # samples of a column once padded with zeros: 400 ms
BIN_HZ = SAMPLE_RATE / FFT
HIGHEST_HZ = SAMPLE_RATE // 2
POWER = 0.25  # of the curve from amplitudes to grey values
FEWEST_COLUMNS = FFT // 2 // HOP + 2  # as torch: what is mirrored at an end has to be there
MOST_COLUMNS = 12000  # two minutes, which take about 0.6 GB

TAG_STEREO, TAG_BANDS, TAG_LOW, TAG_HIGH, TAG_LARGEST = 11005, 11040, 11050, 11060, 11080
CONSTANTS = {11000: SAMPLE_RATE, 11010: 10, 11020: 100, 11030: 400, 11070: POWER}
TRIPLE = {11007: 0}  # three rows in a pixel's colours, which later versions of Riffusion can do: not read here


@dataclass(frozen=True)
class Parameters:
    """The rows of a spectrogram: how many mel bands, between which frequencies, and whether in one channel or two.

    The defaults are those of riffusion-model-v1. Raises RequestError for what no spectrogram has.
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
        """1 or 2."""
        return 2 if self.stereo else 1

    @property
    def bins(self) -> int:
        """Number of FFT bins, from 0 Hz up, that can be nonzero."""
        return int(self.high_hz / BIN_HZ) + 1


def exif_from_parameters(parameters: Parameters, largest: float) -> dict[int, Any]:
    """The tags that Riffusion writes: the parameters, and the amplitude (of 16-bit samples) that is drawn black."""
    return {
        **CONSTANTS,
        TAG_STEREO: int(parameters.stereo),
        TAG_BANDS: parameters.bands,
        TAG_LOW: parameters.low_hz,
        TAG_HIGH: parameters.high_hz,
        TAG_LARGEST: largest,
    }


def parameters_from_exif(exif: Mapping[int, Any]) -> Parameters | None:
    """The parameters in a picture's tags, or None where it has none.

    Raises RequestError for tags of another sample rate, window or curve, and for values that make no sense.
    """
    if TAG_BANDS not in exif:
        return None
    for tag, expected in (CONSTANTS | TRIPLE).items():
        if (got := exif.get(tag, expected)) != expected:
            raise RequestError(f"picture: EXIF tag {tag} is {got!r}, expected {expected}, which is all that is read")
    return Parameters(
        stereo=bool(exif.get(TAG_STEREO, 0)),
        bands=exif[TAG_BANDS],
        low_hz=exif.get(TAG_LOW, 0),
        high_hz=exif.get(TAG_HIGH, 10000),
    )
