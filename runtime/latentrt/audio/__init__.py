"""Riffusion's spectrograms: a picture from a sound and a sound from a picture, with NumPy alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from latentrt.audio.griffin_lim import ITERATIONS, griffin_lim
from latentrt.audio.loudness import levelled
from latentrt.audio.mel import linear_from_mel, mel_from_linear
from latentrt.audio.parameters import Parameters, exif_from_parameters
from latentrt.audio.picture import amplitudes_from_picture, picture_from_amplitudes
from latentrt.audio.stft import amplitudes
from latentrt.sampling.noise.torch_cpu import TorchGenerator
from latentrt.tensors import Array
from latentrt.validate import whole

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["parameters", "picture", "picture_from_sound", "sound_from_picture", "wav"]

MOST_ITERATIONS = 1000


def picture_from_sound(samples: Array, parameters: Parameters) -> Image:
    """The spectrogram of a sound: RGB, one row per mel band, one column per 10 ms, parameters in its EXIF.

    samples: (samples, channels), scaled as 16-bit integers. A mono picture has the mean of two channels; a stereo
    picture of one channel has it twice.
    """
    channels = samples.T if parameters.stereo else samples.mean(axis=1, keepdims=True).T
    bands = np.stack([mel_from_linear(amplitudes(channel, parameters.bins), parameters) for channel in channels])
    picture = picture_from_amplitudes(np.repeat(bands, parameters.channels // len(bands), axis=0))
    picture.getexif().update(exif_from_parameters(parameters, float(bands.max())))
    return picture


def sound_from_picture(
    picture: Image,
    parameters: Parameters,
    *,
    seed: int = 0,
    iterations: int = ITERATIONS,
    advance: Callable[[], None] = lambda: None,
) -> Array:
    """The sound of an RGB spectrogram: (441 * (columns - 1), channels) int16 at 44.1 kHz.

    seed: for the initial phases, as torch.manual_seed. iterations: of the Griffin-Lim algorithm. advance: called after
    every iteration of every channel. Raises RequestError for a picture that does not fit the parameters.
    """
    whole("iterations", iterations, 0, MOST_ITERATIONS)
    channels = amplitudes_from_picture(picture, parameters)
    generator = TorchGenerator(seed)
    return levelled(
        np.stack(
            [
                griffin_lim(linear_from_mel(bands, parameters), generator, iterations, advance=advance)
                for bands in channels
            ]
        )
    )
