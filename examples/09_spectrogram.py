"""A melody as a spectrogram, which `latentrt audio` converts to sound: python examples/09_spectrogram.py [FOLDER]."""

import sys
from pathlib import Path

import numpy as np

from latentrt.audio import picture_from_sound
from latentrt.audio.parameters import SAMPLE_RATE, Parameters

folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
t = np.arange(SAMPLE_RATE // 2) / SAMPLE_RATE
notes = []
for hertz in (440, 523.25, 659.26, 880, 659.26, 523.25, 440, 329.63):
    harmonics = sum(np.sin(2 * np.pi * hertz * k * t) / k**2 for k in range(1, 7))
    notes.append(8000 * harmonics * np.exp(-5 * t))

picture = picture_from_sound(np.concatenate(notes)[:, None], Parameters())
picture.save(folder / "spectrogram.png", exif=picture.getexif())  # the EXIF holds the parameters
