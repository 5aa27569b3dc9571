"""WAV files, through the standard library."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np

from latentrt.audio.parameters import FFT, HOP, MOST_COLUMNS, SAMPLE_RATE
from latentrt.errors import RequestError
from latentrt.storage.atomic import output_file
from latentrt.tensors import Array

CONVERT = f"convert it with `ffmpeg -i IN -ar {SAMPLE_RATE} -ac 2 -c:a pcm_s16le OUT.wav`"


def read_wav(path: Path) -> Array:
    """The samples of a WAV file, (samples, channels) float32, scaled as 16-bit integers.

    Raises RequestError for a file that is damaged, has another rate than 44.1 kHz, other samples than 16, 24 or 32 bit
    integers, or more than two channels, or is too short or too long for a spectrogram.
    """
    try:
        with wave.open(str(path), "rb") as file:
            parameters = file.getparams()
            check(path, parameters)
            data = file.readframes(parameters.nframes)
    except (OSError, EOFError, wave.Error) as error:
        reason = getattr(error, "strerror", None) or str(error) or "it is empty or cut short"
        raise RequestError(f"{path} is not a readable WAV file ({reason}); {CONVERT}") from error
    expected = parameters.nframes * parameters.nchannels * parameters.sampwidth
    if len(data) != expected:
        raise RequestError(f"{path} is cut short: got {len(data)} bytes of sound, expected {expected}")
    return samples_of(data, parameters.sampwidth).reshape(-1, parameters.nchannels)


def check(path: Path, parameters: wave._wave_params) -> None:
    """Raises RequestError for a file whose sound cannot become a spectrogram."""
    if parameters.framerate != SAMPLE_RATE:
        raise RequestError(f"{path}: got {parameters.framerate} Hz, expected {SAMPLE_RATE}; {CONVERT}")
    if parameters.sampwidth not in (2, 3, 4) or parameters.nchannels > 2:
        got = f"{8 * parameters.sampwidth} bits in {parameters.nchannels} channels"
        raise RequestError(f"{path}: got {got}, expected 16, 24 or 32 bits in 1 or 2; {CONVERT}")
    shortest, longest = FFT // 2 + 1, (MOST_COLUMNS - 1) * HOP
    if not shortest <= parameters.nframes <= longest:
        seconds, least, most = (frames / SAMPLE_RATE for frames in (parameters.nframes, shortest, longest))
        raise RequestError(
            f"{path}: got {seconds:.2f} s of sound, expected {least:.2f} to {most:.0f} s; "
            "cut it with `ffmpeg -ss START -t SECONDS -i IN OUT.wav`"
        )


def samples_of(data: bytes, width: int) -> Array:
    """Little-endian integers of `width` bytes, 2 to 4, as float32, scaled as 16-bit integers."""
    wide = np.zeros((len(data) // width, 4), np.uint8)
    wide[:, 4 - width :] = np.frombuffer(data, np.uint8).reshape(-1, width)
    return (wide.view("<i4")[:, 0] / 65536).astype(np.float32)


def write_wav(path: Path, samples: Array) -> None:
    """Writes int16 samples (samples, channels) at 44.1 kHz, whole or not at all. Raises OutputError if it cannot."""
    with output_file(path) as temporary, wave.open(str(temporary), "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(samples.astype("<i2").tobytes())
