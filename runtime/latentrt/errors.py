"""The tree of errors, each with the exit status of the command line.

LatentError                 any error that this package raises on purpose (1)
├── RequestError            a request that cannot be run: size, sampler, steps, prompt (2)
├── BundleError             a bundle that is damaged, unsafe or of another version (3)
├── EngineError             an engine that is missing, or that failed (4)
│   ├── ShapeError          a tensor whose name, type or shape is not what the graph declares (4)
│   ├── NotFiniteError      numbers that overflowed: of a picture, or of the latents of an image (4)
│   └── OutOfMemoryError    a run that needs more memory than there is, or than its budget (4)
├── CheckpointError         a checkpoint that cannot be read or is of no known family (5)
├── FidelityError           an export that lost more than its gate allows (6)
└── OutputError             a file or folder that cannot be written at its path (7)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class LatentError(Exception):
    """Base of every error that latentrt raises on purpose."""

    exit_status = 1


class RequestError(LatentError, ValueError):
    """The request cannot be run: its size, sampler, steps, prompt or another value is invalid."""

    exit_status = 2


class BundleError(LatentError):
    """The bundle is damaged, unsafe, or of a format that this version cannot read."""

    exit_status = 3


class EngineError(LatentError):
    """The engine is not installed, cannot load a graph, or failed while running one."""

    exit_status = 4


class ShapeError(EngineError, ValueError):
    """A tensor's name, type or shape differs from what the component declares."""


class NotFiniteError(EngineError):
    """A picture, or the latents of an image, have numbers that are not finite."""


class OutOfMemoryError(EngineError, MemoryError):
    """The run needs more memory than there is, or than its budget."""


class CheckpointError(LatentError):
    """The checkpoint cannot be read, or belongs to no family that can be exported."""

    exit_status = 5


class FidelityError(LatentError):
    """The exported graph differs from the original by more than its gate."""

    exit_status = 6


class OutputError(LatentError, OSError):
    """A file or folder cannot be written at its path."""

    exit_status = 7


def first_few(names: Sequence[str]) -> str:
    """Returns the names for a message, cut after four.

    >>> first_few("abcdef")
    'a, b, c, d, … (6 in all)'
    """
    return ", ".join(names[:4]) + (f", … ({len(names)} in all)" if len(names) > 4 else "")
