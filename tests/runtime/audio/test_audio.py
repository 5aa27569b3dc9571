"""Spectrograms: against Riffusion itself, closed forms, and notes found again."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentrt.audio import picture_from_sound, sound_from_picture
from latentrt.audio.griffin_lim import griffin_lim
from latentrt.audio.loudness import levelled
from latentrt.audio.mel import filter_bank, linear_from_mel, mel_from_linear
from latentrt.audio.parameters import FFT, SAMPLE_RATE, Parameters, parameters_from_exif
from latentrt.audio.picture import amplitudes_from_picture, picture_from_amplitudes
from latentrt.audio.stft import amplitudes
from latentrt.errors import RequestError
from latentrt.sampling.noise.torch_cpu import TorchGenerator
from tests.runtime.audio.riffusion import MONO, STEREO, riffusion, sound_db
from tests.runtime.audio.sounds import A_MINOR_SCALE, beat, duet, melody

GOLDENS = json.loads(Path(__file__).with_name("riffusion.json").read_text())
NOTES = A_MINOR_SCALE[::2]


@pytest.fixture(scope="module")
def sung():
    """A melody's picture, and the sound that is made of it."""
    picture = picture_from_sound(melody(NOTES, 0.3), MONO)
    return picture, sound_from_picture(picture, MONO)


def pitch(samples):
    """The frequency at which a sound repeats itself, by autocorrelation, from 150 to 1000 Hz."""
    padded = np.fft.rfft(samples.astype(float) * np.hanning(len(samples)), 2 * len(samples))
    likeness = np.fft.irfft(np.abs(padded) ** 2)
    lags = slice(SAMPLE_RATE // 1000, SAMPLE_RATE // 150)
    lag = lags.start + int(likeness[lags].argmax())
    below, at, above = likeness[lag - 1 : lag + 2]
    return SAMPLE_RATE / (lag + (below - above) / (2 * (below - 2 * at + above)))


def pitches(sound, count):
    """The pitch of each of `count` notes of one length, in the middle half of each."""
    length = len(sound) // count
    return [pitch(sound[i * length + length // 4 : (i + 1) * length - length // 4]) for i in range(count)]


def cents(hertz, expected):
    return np.abs(1200 * np.log2(np.divide(hertz, expected)))


@pytest.mark.parametrize("sizes", GOLDENS["banks"])
def test_bands_are_those_of_torchaudio(sizes):
    bands, low, high = map(int, sizes.split())
    bank, golden = filter_bank(Parameters(bands=bands, low_hz=low, high_hz=high)), GOLDENS["banks"][sizes]
    assert bank.shape == (bands, int(high * FFT / SAMPLE_RATE) + 1)
    np.testing.assert_allclose(bank.max(axis=1), golden["peak"], atol=1e-4)
    np.testing.assert_allclose(bank.sum(axis=1), golden["sum"], atol=1e-3)
    # A bin that is a band's very corner is in it or not by a rounding.
    assert np.abs((bank > 0).argmax(axis=1) - golden["first"]).max() <= 1
    assert np.abs((bank > 0).sum(axis=1) - golden["count"]).max() <= 1


def test_bins_of_bands_have_those_bands_where_none_is_negative():
    bins = filter_bank(MONO).sum(axis=0)[None].astype(np.float32)
    bands = mel_from_linear(bins, MONO)
    np.testing.assert_allclose(mel_from_linear(linear_from_mel(bands, MONO), MONO), bands, rtol=1e-4)


def test_the_picture_is_riffusions():
    picture = picture_from_sound(duet(0.25), STEREO)
    difference = np.abs(np.asarray(picture, int) - np.asarray(riffusion(), int))
    assert difference.max() <= 1 and (difference > 0).mean() < 0.001
    ours, theirs = picture.getexif(), riffusion().getexif()
    assert ours.keys() == theirs.keys()
    np.testing.assert_allclose([ours[tag] for tag in theirs], list(theirs.values()), rtol=1e-5)


def test_the_sound_is_riffusions():
    assert parameters_from_exif(riffusion().getexif()) == STEREO
    assert sound_db() > 45


@pytest.mark.parametrize("name", ["melody", "beat"])
def test_amplitudes_come_as_near_as_torchaudios(name):
    sound = {"melody": melody(NOTES, 0.25), "beat": beat(1.0)}[name]
    bins = linear_from_mel(mel_from_linear(amplitudes(sound[:, 0], MONO.bins), MONO), MONO)
    heard = amplitudes(griffin_lim(bins, TorchGenerator(0)), FFT // 2 + 1)
    heard[:, : MONO.bins] -= bins
    convergence_db = 20 * np.log10(np.linalg.norm(heard) / np.linalg.norm(bins))
    assert abs(convergence_db - GOLDENS["convergence_db"][name][0]) < 1


def test_notes_are_found_again_in_the_sound_of_a_melodys_picture(sung):
    _, sound = sung
    assert sound.shape[1] == 1
    assert cents(pitches(melody(NOTES, 0.3)[:, 0], 4), NOTES).max() < 5
    assert cents(pitches(sound[:, 0], 4), NOTES).max() < 25


def test_the_picture_of_a_pictures_sound_is_that_picture(sung):
    picture, sound = sung
    again = np.asarray(picture_from_sound(sound.astype(np.float32), MONO), float)[..., 0]
    assert again.shape == (512, picture.width)
    loud = np.asarray(picture, float)[..., 0] < 128
    assert np.abs(again - np.asarray(picture)[..., 0])[loud].mean() < 8


def test_notes_are_found_again_in_the_sound_of_a_painted_picture():
    picture = np.full((512, 121, 3), 255, np.uint8)
    mels = [2595 * np.log10(1 + hertz / 700) / (2595 * np.log10(1 + 10000 / 700)) * 513 for hertz in NOTES]
    for place, mel in enumerate(mels):
        for row in range(int(mel) - 3, int(mel) + 4):  # band 0 is centred one step above 0 Hz
            picture[511 - (row - 1), 30 * place : 30 * place + 31] = round(30 * abs(row - mel))
    sound = sound_from_picture(Image.fromarray(picture), MONO, iterations=8)
    assert cents(pitches(sound[:, 0], 4), NOTES).max() < 25


def test_grey_is_a_fourth_root():
    grey = np.arange(255)
    shares = ((254.5 - grey) / 255) ** 4  # midway between two greys, where no rounding matters
    drawn = np.concatenate([[1.0], shares])[None, :, None].repeat(3, axis=2)
    assert np.asarray(picture_from_amplitudes(drawn))[0, :, 0].tolist() == [0, *grey]


def test_amplitudes_are_fourth_powers():
    picture = Image.fromarray(np.tile(np.arange(256, dtype=np.uint8)[None, :, None], (512, 1, 3)))
    (read,) = amplitudes_from_picture(picture, MONO)
    np.testing.assert_allclose(read[:, 7], 30e6 * ((255 - np.arange(256)) / 255) ** 4, rtol=1e-5)


def test_high_is_up_and_channels_have_their_colours():
    bands = np.zeros((2, 30, 512), np.float32)
    bands[0, 4, 0], bands[1, 9, 511] = 1, 1
    pixels = np.asarray(picture_from_amplitudes(bands))
    assert pixels[511, 4].tolist() == [0, 0, 255] and pixels[0, 9].tolist() == [0, 255, 0]
    assert (pixels[..., 1:] == 0).sum() == 2 and not pixels[..., 0].any()
    np.testing.assert_array_equal(amplitudes_from_picture(Image.fromarray(pixels), STEREO), 30e6 * bands)
    mono = np.asarray(picture_from_amplitudes(bands[:1]))
    assert (mono == mono[..., :1]).all() and mono[511, 4, 0] == 0


def test_channels_are_mixed_or_doubled():
    left = melody(NOTES[:1], 0.25)
    both = np.concatenate([left, left], axis=1)
    mono = picture_from_sound(left, MONO)
    assert picture_from_sound(both, MONO) == mono
    stereo = np.asarray(picture_from_sound(left, STEREO))
    assert (stereo[..., 1] == stereo[..., 2]).all() and (stereo[..., 1] == np.asarray(mono)[..., 0]).all()


def test_levels_are_those_of_riffusion():
    t = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    sine = levelled(np.sin(2 * np.pi * 441 * t)[None])
    assert abs(np.abs(sine.astype(int)).max() - 32768 * 10 ** (-0.1 / 20)) < 1
    spike = np.sin(2 * np.pi * 441 * t)
    spike[5000] = 100
    # -12 dBFS leaves 12 dB for peaks: the spike is cut there.
    rms = np.sqrt(np.mean(spike**2))
    expected = 10 ** (-12.1 / 20) * 32768 / rms
    assert abs(np.abs(levelled(spike[None]).astype(int))[6000:].max() - expected) < 1.5


def test_silence_is_white_and_stays_silent():
    picture = picture_from_sound(np.zeros((FFT, 1), np.float32), MONO)
    assert picture.getextrema() == ((255, 255),) * 3
    assert not sound_from_picture(picture, MONO, iterations=1).any()


def test_a_seed_is_a_sound():
    picture = picture_from_sound(melody(NOTES[:1], 0.25), MONO)
    one, same, other = (sound_from_picture(picture, MONO, seed=seed, iterations=1) for seed in (3, 3, 4))
    assert (one == same).all() and (one != other).any()


def test_parameters_of_no_spectrogram_are_refused():
    for wrong in ({"bands": 15}, {"bands": 10**9}, {"low_hz": -1}, {"high_hz": 22051}, {"low_hz": 9500}):
        with pytest.raises(RequestError, match="expected a whole number"):
            Parameters(**wrong)


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({11000: 48000}, "EXIF tag 11000 is 48000, expected 44100"),
        ({11007: 1}, "EXIF tag 11007 is 1, expected 0"),
        ({11040: "many"}, "bands: got 'many'"),
        ({11060: 10**9}, "highest frequency: got 1000000000"),
    ],
)
def test_tags_of_other_spectrograms_are_refused(tags, message):
    with pytest.raises(RequestError, match=message):
        parameters_from_exif({11040: 512, **tags})


def test_a_picture_without_tags_has_no_parameters():
    assert parameters_from_exif({}) is None
