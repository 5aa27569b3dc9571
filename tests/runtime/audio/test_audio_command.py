"""`latentrt audio` as a user meets it, and files that are no sound or no spectrogram."""

import json
import struct
import wave
import zlib
from dataclasses import replace

import click
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import latentrt
from latentrt.audio import sound_from_picture
from latentrt.audio.parameters import Parameters
from latentrt.audio.picture import joined
from latentrt.audio.wav import read_wav, write_wav
from latentrt.cli import main
from latentrt.cli.audio import audio
from latentrt.cli.generate import finished
from latentrt.errors import OutputError
from latentrt.request.interpolation import between
from tests.runtime.audio.sounds import duet


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Runs the command line in an empty folder; returns its exit status."""
    monkeypatch.chdir(tmp_path)

    def main_of(*arguments):
        monkeypatch.setattr("sys.argv", ["latentrt", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code or 0

    return main_of


def wav(path, frames=9000, *, rate=44100, width=2, channels=1, cut=0):
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, width, rate, 0, "NONE", ""))
        file.writeframes(bytes(frames * width * channels))
    path.write_bytes(path.read_bytes()[: -cut or None])


def bomb(path):
    """A PNG of 60000 x 60000 pixels in a few bytes."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)


def tagged(path, tag, value):
    image = Image.new("RGB", (30, 512), "white")
    exif = image.getexif()
    exif.update({11040: 512, tag: value})
    image.save(path, exif=exif)


BAD = {
    "silent.wav": lambda path: wav(path, 0),
    "short.wav": lambda path: wav(path, 8820),
    "long.wav": lambda path: wav(path, 44100 * 121),
    "rate.wav": lambda path: wav(path, rate=48000),
    "bytes.wav": lambda path: wav(path, width=1),
    "many.wav": lambda path: wav(path, channels=3),
    "cut.wav": lambda path: wav(path, cut=100),
    "headless.wav": lambda path: wav(path, 0, cut=20),
    "empty.wav": lambda path: path.write_bytes(b""),
    "text.wav": lambda path: path.write_text("no sound"),
    "missing.wav": lambda path: None,
    "folder.wav": lambda path: path.mkdir(),
    "text.png": lambda path: path.write_text("no picture"),
    "empty.jpg": lambda path: path.write_bytes(b""),
    "missing.png": lambda path: None,
    "low.png": lambda path: Image.new("RGB", (64, 256)).save(path),
    "narrow.png": lambda path: Image.new("RGB", (21, 512)).save(path),
    "wide.png": lambda path: Image.new("RGB", (12001, 512)).save(path),
    "rate.png": lambda path: tagged(path, 11000, 48000),
    "bomb.png": bomb,
    "a.txt": lambda path: path.write_text("neither"),
}
SAYS = {
    "silent.wav": "got 0.00 s of sound",
    "short.wav": "got 0.20 s of sound, expected 0.20 to 120 s",
    "long.wav": "got 121.00 s",
    "rate.wav": "got 48000 Hz, expected 44100; convert it with `ffmpeg",
    "bytes.wav": "got 8 bits in 1 channels",
    "many.wav": "got 16 bits in 3 channels",
    "cut.wav": "is cut short: got 17900 bytes of sound, expected 18000",
    "headless.wav": "is not a readable WAV file",
    "empty.wav": "is not a readable WAV file (it is empty or cut short)",
    "text.wav": "is not a readable WAV file",
    "missing.wav": "No such file",
    "folder.wav": "Is a directory",
    "text.png": "is not a readable image",
    "empty.jpg": "is not a readable image",
    "missing.png": "No such file",
    "low.png": "got 256 rows, expected 512",
    "narrow.png": "got 21 columns of 10 ms, expected 22 to 12000",
    "wide.png": "got 12001 columns",
    "rate.png": "EXIF tag 11000 is 48000, expected 44100",
    "bomb.png": "it has more than 178,956,970 pixels",
    "a.txt": "expected a picture (.png, .jpg, .jpeg, .webp) or a .wav file",
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_error_and_no_file(here, capsys, tmp_path, name):
    BAD[name](tmp_path / name)
    before = sorted(tmp_path.iterdir())
    assert here("audio", name, "--out", "out.png" if name.endswith(".wav") else "out.wav") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and SAYS[name] in error and error.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_a_sound_becomes_a_picture_and_a_sound_again(here, capsys, tmp_path):
    write_wav(tmp_path / "duet.wav", duet(0.25).astype(np.int16))
    assert here("audio", "duet.wav", "--stereo", "--hz", "20,12000", "--out", "duet.png", "--json") == 0
    parameters = {"columns": 26, "seconds": 0.25, "stereo": True, "bands": 512, "low_hz": 20, "high_hz": 12000}
    assert json.loads(capsys.readouterr().out) == {"file": "duet.png", **parameters}
    again = ("audio", "duet.png", "--iterations", 1, "--json", "--out")
    assert here(*again, "a.wav") == here(*again, "b.wav") == here(*again, "c.wav", "--seed", 1) == 0
    assert json.loads(capsys.readouterr().out.split("}\n")[0] + "}") == {"file": "a.wav", **parameters}
    sounds = [(tmp_path / f"{name}.wav").read_bytes() for name in "abc"]
    assert sounds[0] == sounds[1] != sounds[2]
    assert read_wav(tmp_path / "a.wav").shape == (25 * 441, 2)
    assert here("audio", "duet.png", "--iterations", 0, "--out", "mono.wav") == 0
    assert len(list(tmp_path.iterdir())) == 6


def test_a_picture_of_other_bands_is_read_as_such(here, capsys, tmp_path):
    Image.new("L", (30, 64), 200).save(tmp_path / "small.png")
    assert here("audio", "small.png", "--bands", 64, "--iterations", 0, "--out", "small.wav") == 0
    assert capsys.readouterr().out == "small.wav\n"


def test_where_the_result_goes_is_checked_first(here, capsys, tmp_path):
    for arguments, status, says in (
        (("a.wav", "--out", "a.wav"), 2, "--out: got a.wav, expected a name that ends in .png"),
        (("a.png", "--out", "a.png"), 2, "--out: got a.png, expected a name that ends in .wav"),
        (("a.png", "--out", "no/a.wav"), 7, "there is no folder no; make it with `mkdir -p no`"),
        (("a.png", "--out", "a.wav", "--hz", "5"), 2, "got '5', expected two whole numbers"),
    ):
        assert here("audio", *arguments) == status
        assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_prompt_becomes_clips_that_are_heard_as_one(here, capsys, tmp_path):
    prompt = ("audio", "a red apple", "--bundle", "emoji", "--steps", 1, "--seed", 5, "--bands", 64, "--columns", 64)
    clips = ("--clips", 2, "--to-prompt", "a cat", "--to-seed", 6, "--iterations", 1, "--json", "--out", "a.wav")
    assert here(*prompt, *clips) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["columns"], report["bands"], report["seconds"]) == (128, 64, 1.27)
    first = latentrt.Request("a red apple", steps=1, seed=5, width=64, height=64)
    with latentrt.load("emoji") as pipe:
        requests = between(first, replace(first, prompt="a cat", seed=6), 2)
        pictures = [finished(pipe.steps(request)).images[0] for request in requests]
    picture = joined(pictures)
    assert picture.size == (128, 64) and picture.crop((64, 0, 128, 64)) == pictures[1]
    sound = sound_from_picture(picture, Parameters(bands=64), seed=5, iterations=1)
    assert (read_wav(tmp_path / "a.wav") == sound).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--to-prompt jazz", "clips: got 1, expected a whole number from 2"),
        ("--clips 0", "clips: got 0, expected a whole number from 2"),
        ("--clips 100 --to-seed 3", "got 12800 columns of 10 ms, expected 22 to 12000"),
        ("--bands 100", "height: got 100, expected a multiple of 8"),
        ("--init nowhere.png", "No such file"),
    ],
)
def test_a_prompt_that_cannot_be_heard_is_one_error(here, capsys, tmp_path, options, message):
    assert here("audio", "rock", "--bundle", "emoji", "--bands", 128, "--out", "a.wav", *options.split()) == 2
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize("iterations", [-1, 1001])
def test_iterations_are_limited(here, capsys, tmp_path, iterations):
    Image.new("RGB", (30, 512), "white").save(tmp_path / "a.png")
    assert here("audio", "a.png", "--out", "a.wav", "--iterations", iterations) == 2
    assert "iterations: got" in capsys.readouterr().err


@pytest.mark.parametrize("width", [2, 3, 4])
def test_integers_of_any_width_are_the_same_samples(tmp_path, width):
    samples = np.array([[-32768, 32767], [0, -1], [258, 1]] * 3000)
    data = (samples << 8 * (width - 2)).astype("<i4").view(np.uint8).reshape(-1, 4)[:, :width]
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((2, width, 44100, 0, "NONE", ""))
        file.writeframes(data.tobytes())
    assert (read_wav(tmp_path / "a.wav") == samples).all()


def test_a_sound_that_cannot_be_put_in_place_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(OutputError, match="No space left"):
        write_wav(tmp_path / "a.wav", np.zeros((9000, 1), np.int16))
    assert not list(tmp_path.iterdir())


def test_the_help_has_every_option_in_one_group():
    names = [param.name for param in audio.params if isinstance(param, click.Option)]
    grouped = [name for group in audio.groups.values() for name in group]
    assert sorted([*grouped, "as_json"]) == sorted(names)
    text = CliRunner().invoke(audio, ["--help"], terminal_width=80).output
    assert all(f"{title}:" in text for title in audio.groups)
    assert "Without --bundle, SOURCE is a file; with --bundle, it is a prompt." in text
