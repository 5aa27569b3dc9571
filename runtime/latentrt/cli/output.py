"""What commands share: text and JSON on stdout, talk and a bar on stderr, whatever these are connected to.

A stream may be closed, of an encoding that lacks characters, a terminal, or any object that a program put in its place.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import click

from latentrt.errors import EngineError, OutputError

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")


def open_streams() -> None:
    """Gives closed streams a place that takes anything, so that no file opened later gets their numbers.

    Without it, what an engine writes to stderr would end in the picture.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
        elif hasattr(getattr(sys, name), "reconfigure"):
            getattr(sys, name).reconfigure(errors="replace" if name == "stdout" else "backslashreplace")


def echo(text: object, *, err: bool = False) -> None:
    """Prints a text on stdout, or on stderr; what the stream's encoding lacks is replaced.

    Raises OutputError when it cannot be written there.
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


def encoding_of(stream: TextIO) -> str:
    """The encoding of a stream, UTF-8 where it does not say."""
    return getattr(stream, "encoding", None) or "utf-8"


def silence(stream: TextIO) -> None:
    """Has what a stream still holds go nowhere: Python writes it once more when it ends, and would fail again."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    except (OSError, ValueError, AttributeError):
        return


def print_json(value: Any) -> None:
    """Prints `value` as JSON on stdout, with escapes where the encoding lacks a character."""
    import json

    text = json.dumps(value, indent=2, ensure_ascii=False)
    try:
        text.encode(encoding_of(sys.stdout))
    except UnicodeEncodeError:
        text = json.dumps(value, indent=2)
    echo(text)


def on_terminal() -> bool:
    """Whether stderr is a terminal; what has no such question is none."""
    try:
        return bool(sys.stderr.isatty())
    except (AttributeError, ValueError):
        return False


@contextmanager
def progress_bar(label: str, total: int) -> Iterator[Callable[[], None]]:
    """Gives a function that moves a bar on stderr by one; where stderr is no terminal, it does nothing."""
    if not on_terminal():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(label, total=total)
        yield lambda: progress.advance(task)


@contextmanager
def extra_of(command: str) -> Iterator[None]:
    """Imports what a command needs of the extra "export". Raises EngineError that names what is not installed."""
    try:
        yield
    except ImportError as error:
        raise EngineError(f"{command} needs {error.name or error}: run `pip install 'latentrt[cpu,export]'`") from error
