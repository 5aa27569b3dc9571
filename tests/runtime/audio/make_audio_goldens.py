"""Writes riffusion.json, .png and .wav, from riffusion 0.0.5 with torchaudio 2.11.

The tests that read them run where neither is installed. torchaudio's wheels want CUDA's libraries; what is used of it
is Python alone, so it goes into a folder of its own, without its compiled part:

pip install --no-deps --target build/riffusion riffusion==0.0.5 torchaudio==2.11.0 pydub==0.25.1
rm build/riffusion/torchaudio/lib/*.so
PYTHONPATH=build/riffusion python -m tests.runtime.audio.make_audio_goldens
"""

import json
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pydub
import torch
import torchaudio
from PIL import Image
from riffusion.spectrogram_converter import SpectrogramConverter
from riffusion.spectrogram_image_converter import SpectrogramImageConverter
from riffusion.spectrogram_params import SpectrogramParams

from tests.runtime.audio.sounds import A_MINOR_SCALE, beat, duet, melody

HERE = Path(__file__).parent
BANKS = [(512, 0, 10000), (512, 20, 20000), (128, 0, 10000)]
SOUNDS = {"melody": melody(A_MINOR_SCALE[::2], 0.25), "beat": beat(1.0)}


def inverse_mel_scale(**options: object) -> torch.nn.Module:
    """Returns torchaudio's InverseMelScale, without the options of the gradient descent that it once was."""
    gone = ("max_iter", "tolerance_loss", "tolerance_change", "sgdargs")
    return InverseMelScale(**{name: value for name, value in options.items() if name not in gone})


InverseMelScale = torchaudio.transforms.InverseMelScale


def converter(kind: type, **parameters: object) -> object:
    """Returns one of Riffusion's two converters, on a CPU."""
    with patch("torchaudio.transforms.InverseMelScale", inverse_mel_scale):
        return kind(SpectrogramParams(**parameters), device="cpu")


def bank(bands: int, low: int, high: int) -> dict[str, list[float]]:
    """Returns what a bank of triangles is known by: the first bin, the number of bins, the peak and the sum of each."""
    scale = converter(SpectrogramConverter, num_frequencies=bands, min_frequency=low, max_frequency=high).mel_scaler
    weights = scale.fb.numpy().T.astype(float)
    return {
        "first": (weights > 0).argmax(axis=1).tolist(),
        "count": (weights > 0).sum(axis=1).tolist(),
        "peak": weights.max(axis=1).round(5).tolist(),
        "sum": weights.sum(axis=1).round(5).tolist(),
    }


def segment(samples: np.ndarray) -> pydub.AudioSegment:
    """Returns samples (samples, channels), in units of 16 bits, as pydub holds them."""
    data = samples.astype("<i2").tobytes()
    return pydub.AudioSegment(data, sample_width=2, frame_rate=44100, channels=samples.shape[1])


def convergence(samples: np.ndarray, seed: int) -> float:
    """Returns how far the amplitudes of Griffin and Lim's signal are from those that it was asked for, in dB."""
    parts = converter(SpectrogramConverter)
    asked = parts.inverse_mel_scaler(parts.mel_amplitudes_from_waveform(torch.from_numpy(samples.T.copy())))
    torch.manual_seed(seed)
    got = parts.spectrogram_func(parts.inverse_spectrogram_func(asked)).abs()
    return 20 * float(torch.log10((got - asked).norm() / asked.norm()))


def main() -> None:
    """Writes the three files."""
    both = converter(SpectrogramImageConverter, stereo=True)
    picture = both.spectrogram_image_from_audio(segment(duet(0.25)))
    picture.save(HERE / "riffusion.png", exif=picture.getexif())
    torch.manual_seed(0)
    with Image.open(HERE / "riffusion.png") as image:
        both.audio_from_spectrogram_image(image).export(HERE / "riffusion.wav", format="wav")
    goldens = {
        "made_with": {"riffusion": "0.0.5", "torchaudio": torchaudio.__version__, "torch": torch.__version__},
        "banks": {" ".join(map(str, sizes)): bank(*sizes) for sizes in BANKS},
        "convergence_db": {
            name: [round(convergence(sound, seed), 4) for seed in range(2)] for name, sound in SOUNDS.items()
        },
    }
    (HERE / "riffusion.json").write_text(json.dumps(goldens) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
