"""Output of commands: results as text or JSON on stdout, messages and progress bars on stderr.

A stream may be closed, a terminal, any object in its place, or have an encoding that lacks characters.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, TextIO

import click

from latentrt.errors import EngineError, OutputError

# Logs of a container or of CI show that something goes on, and stay short.
SILENT_SECONDS = 10.0

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")


def open_streams() -> None:
    """Opens closed standard streams on the null device, so that no file opened later gets their numbers.

    Otherwise an engine's messages to stderr could end up in the picture's file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
        elif hasattr(getattr(sys, name), "reconfigure"):
            getattr(sys, name).reconfigure(errors="replace" if name == "stdout" else "backslashreplace")


def echo(text: object, *, err: bool = False) -> None:
    """Prints a text on stdout, or on stderr; characters that the stream's encoding lacks are replaced.

    Raises OutputError if the stream cannot be written.
    """
    stream: TextIO | None = sys.stderr if err else sys.stdout
    if stream is None or getattr(stream, "closed", False):
        return
    encoding = encoding_of(stream)
    try:
        stream.write(str(text).encode(encoding, "replace").decode(encoding, "replace") + "\n")
        getattr(stream, "flush", lambda: None)()
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise
        silence(stream)
        raise OutputError(f"{'stderr' if err else 'stdout'}: cannot be written ({error.strerror or error})") from error


def note(text: str) -> None:
    """Prints a text on stderr, if it can be written: nothing is lost without it."""
    with suppress(OSError):
        echo(text, err=True)


def encoding_of(stream: TextIO) -> str:
    """The encoding of a stream; UTF-8 if it has none."""
    return getattr(stream, "encoding", None) or "utf-8"


def silence(stream: TextIO) -> None:
    """Redirects a stream to the null device, or Python would fail again when it flushes the stream at exit."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    except (OSError, ValueError, AttributeError):
        return


class Echo(logging.Handler):
    """Prints messages of the library on stderr, without their level."""

    def emit(self, record: logging.LogRecord) -> None:
        """Prints one message, if stderr can be written."""
        note(self.format(record))


def show_messages() -> None:
    """Prints the library's messages on stderr from now on: what takes long, and what is out of the ordinary."""
    logger = logging.getLogger("latentrt")
    if not logger.handlers:
        logger.addHandler(Echo())
        logger.setLevel(logging.INFO)


def print_json(value: Any) -> None:
    """Prints `value` as JSON on stdout, with escapes if the encoding lacks a character."""
    import json

    text = json.dumps(value, indent=2, ensure_ascii=False)
    try:
        text.encode(encoding_of(sys.stdout))
    except UnicodeEncodeError:
        text = json.dumps(value, indent=2)
    echo(text)


def on_terminal() -> bool:
    """True if stderr is a terminal; False for an object without `isatty`."""
    try:
        return bool(sys.stderr.isatty())
    except (AttributeError, ValueError):
        return False


@contextmanager
def progress_bar(label: str, total: int) -> Iterator[Callable[[], None]]:
    """Yields a function that advances a bar on stderr by one; where stderr is no terminal, it prints a few lines."""
    if not on_terminal():
        yield lines_now_and_then(label, total)
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(label, total=total)
        yield lambda: progress.advance(task)


def lines_now_and_then(label: str, total: int) -> Callable[[], None]:
    """A function to be called for each of `total`; it prints how many are done, every SILENT_SECONDS at most."""
    done, last = 0, time.monotonic()

    def advance() -> None:
        nonlocal done, last
        done += 1
        if done < total and time.monotonic() - last >= SILENT_SECONDS:
            last = time.monotonic()
            note(f"{label}: {done} of {total}")

    return advance


@contextmanager
def progress_to(label: str) -> Iterator[Callable[[int, int], None]]:
    """Yields a function of how much is done, and of how much: as `progress_bar`, where the total is known later."""
    with ExitStack() as stack:
        bars: list[Callable[[], None]] = []

        def progress(_done: int, total: int) -> None:
            if not bars:
                bars.append(stack.enter_context(progress_bar(label, total)))
            bars[0]()

        yield progress


@contextmanager
def extra_of(command: str, extra: str = "export") -> Iterator[None]:
    """A block that imports packages of an extra. Raises EngineError that names a missing one."""
    try:
        yield
    except ImportError as error:
        raise EngineError(
            f"{command} needs {error.name or error}: run `pip install 'latentrt[cpu,{extra}]'`"
        ) from error
