"""Riffusion's spectrograms and sounds of a note and a beat, and the tolerances to them."""

from functools import cache
from pathlib import Path

import numpy as np

from latentrt.audio import picture_from_sound, sound_from_picture
from latentrt.audio.parameters import HOP, Parameters
from latentrt.audio.wav import read_wav
from latentrt.images.load import open_image
from tests.runtime.audio.sounds import duet
from tests.runtime.fake import psnr

HERE = Path(__file__).parent
MONO, STEREO = Parameters(), Parameters(stereo=True)


@cache
def riffusion():
    """The picture that Riffusion made of a note and a beat."""
    return open_image("picture", HERE / "riffusion.png")


def picture_db():
    """The PSNR in dB of our picture of the same sound against it, in 8 bits."""
    return psnr(picture_from_sound(duet(0.25), STEREO), riffusion())


def sound_db():
    """The signal-to-noise ratio in dB of our sound of that picture against Riffusion's, the lower of two channels."""
    sound, expected = sound_from_picture(riffusion(), STEREO, seed=0), read_wav(HERE / "riffusion.wav")
    assert sound.shape == (25 * HOP, 2) and sound.dtype == np.int16
    return float(np.min(10 * np.log10((expected**2).sum(axis=0) / ((sound - expected) ** 2).sum(axis=0))))
