"""Output streams of commands: closed ones, encodings that lack characters, objects in place of a stream."""

import errno
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from latentrt.cli.output import echo, note, on_terminal, print_json, progress_bar, progress_to
from latentrt.errors import OutputError
from tests.sweep import rest_swept

ENCODINGS = ["cp1252", "ascii", "gbk", "iso8859-1", "utf-8", "cp1252:strict"]

BLOCKER = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "onnx", "onnx_ir", "onnxscript", "diffusers", "transformers"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
from latentrt.cli import main
main()
"""


def shell(line: str, folder: Path, **environment: str) -> "subprocess.CompletedProcess[bytes]":
    command = f"{sys.executable} -m latentrt {line}"
    return subprocess.run(command, shell=True, cwd=folder, env={**os.environ, **environment}, capture_output=True)


@pytest.mark.parametrize("closed", ["2>&-", ">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_picture_is_drawn_whatever_is_closed(tmp_path: Path, closed: str) -> None:
    done = shell(f"generate x --steps 1 --seed 1 --size 16x16 --out x.png {closed}", tmp_path)
    assert done.returncode == 0
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_an_error_with_stderr_closed_is_its_exit_status(tmp_path: Path) -> None:
    assert shell("generate x --steps 0 2>&-", tmp_path).returncode == 2
    assert shell("generate --no-such-option 2>&-", tmp_path).returncode == 2


@pytest.mark.parametrize("encoding", rest_swept(ENCODINGS, ["ascii"]))
def test_json_is_valid_in_any_encoding(tmp_path: Path, encoding: str) -> None:
    line = "generate '🍎 ü 苹' --steps 1 --seed 1 --size 16x16 --out j.png"
    done = shell(f"{line} --json", tmp_path, PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.decode(encoding.partition(":")[0]))["settings"]["prompt"] == "🍎 ü 苹"
    text = shell("inspect j.png", tmp_path, PYTHONIOENCODING=encoding)
    assert text.returncode == 0 and not text.stderr
    assert b"prompt" in text.stdout and text.stdout.decode(encoding.partition(":")[0])


def test_text_has_question_marks_for_what_the_encoding_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, "cp1252"))
    echo("ü 🍎 \udcff")
    assert raw.getvalue().decode("cp1252").strip() == "ü ? ?"


def test_json_keeps_lone_surrogates_as_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"file": "a\udcff"})
    assert json.loads(capsys.readouterr().out) == {"file": "a\udcff"}


class Logger:
    """An object in place of a stream, which has only `write`."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)


@pytest.mark.parametrize("stream", [None, Logger(), io.StringIO()])
def test_streams_without_a_terminal_get_no_bar(monkeypatch: pytest.MonkeyPatch, stream: object) -> None:
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr("sys.stdout", stream)
    assert not on_terminal()
    with progress_bar("drawing", 2) as advance:
        advance()
    echo("done")
    print_json({"a": 1})


def test_progress_of_a_total_that_is_known_later_is_one_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    bars: list[tuple[str, int, list[int]]] = []

    @contextmanager
    def bar(label: str, total: int) -> Iterator[Callable[[], None]]:
        bars.append((label, total, []))
        yield lambda: bars[-1][2].append(1)
        bars[-1][2].append(0)

    monkeypatch.setattr("latentrt.cli.output.progress_bar", bar)
    with progress_to("photo.jpg") as progress:
        assert not bars
        progress(1, 2)
        progress(2, 2)
    assert bars == [("photo.jpg", 2, [1, 1, 0])]


def test_a_closed_object_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    stream.close()
    monkeypatch.setattr("sys.stderr", stream)
    assert not on_terminal()
    echo("done", err=True)


@pytest.mark.parametrize("words", ["doctor --json", "--help", "generate --help", "--version"])
def test_a_full_disk_behind_stdout_is_one_line(tmp_path: Path, words: str) -> None:
    done = shell(f"{words} > /dev/full", tmp_path)
    assert (done.returncode, done.stderr.count(b"\n")) == (OutputError.exit_status, 1), done.stderr


@pytest.mark.parametrize(
    "arguments",
    [("build", "emoji", "--target", "cpu"), ("build", "emoji", "--target", "tensorrt"), ("calibrate", "emoji", "out")]
    + [("estimate", "emoji"), ("export", "checkpoint", "out")],
    ids=" ".join,
)
def test_a_command_without_its_extra_says_what_to_install(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    (tmp_path / "checkpoint").mkdir()  # paths are looked at first
    command = [sys.executable, "-c", BLOCKER, *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 4
    assert "pip install 'latentrt[cpu,export]'" in done.stderr and done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


@pytest.mark.parametrize(
    ("typed", "meant"), [("genrate", "generate"), ("Inspect", "inspect"), ("calibrat", "calibrate")]
)
def test_a_slip_of_a_command_is_told(tmp_path: Path, typed: str, meant: str) -> None:
    done = shell(f"{typed} x", tmp_path)
    assert done.returncode == 2 and f"Did you mean '{meant}'?" in done.stderr.decode()


def test_without_a_terminal_a_line_is_printed_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr, clock = io.StringIO(), iter([0.0, 4.0, 11.0, 11.0, 20.0, 40.0])
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setattr("latentrt.cli.output.time.monotonic", lambda: next(clock))
    with progress_bar("drawing", 4) as advance:
        for _ in range(4):
            advance()
    assert stderr.getvalue() == "drawing: 2 of 4\n"


def test_a_note_that_cannot_be_written_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(sys, "stderr", Broken())
    note("seed 7")
    with pytest.raises(BrokenPipeError):
        echo("seed 7", err=True)
