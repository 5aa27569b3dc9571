"""A program that reads a pickle of torch and writes its tensors as .safetensors, run as a file in a separate process.

`python -I unpickle.py IN OUT IN OUT ...`; it imports nothing of latentrt. It unpickles what `torch.load` allows with
`weights_only`: tensors and plain containers. Classes of training frameworks in published checkpoints become inert
objects. No other name is looked up, so no code of the file runs. Against a fault in torch, the process has no network,
cannot start another process, and has only as much memory as the files explain.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

# Prefixes of inert classes. The first one holds the vectors of the oldest embeddings.
INERT = re.compile(
    r"torch\.nn\.modules\.container\.ParameterDict$"
    r"|(pytorch_lightning|lightning|lightning_fabric|omegaconf|typing|argparse|pathlib|numpy|_codecs)\."
)
NEW_USER, NEW_NETWORK = 0x10000000, 0x40000000
NO_NEW_PRIVILEGES = 38
FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "subprocess.", "socket.", "ctypes.")
ROOM_BYTES = 1 << 29


class Held:
    """An inert object in place of one whose class is not looked up."""

    values: Any = ()  # of one that is made without arguments, in a way that passes by __init__

    def __init__(self, *values: Any, **_named: Any) -> None:
        self.values = values

    def __setstate__(self, state: Any) -> None:
        self.values = state


def isolate() -> None:
    """Removes network access and new privileges from this process. If the system refuses, the audit hook remains.

    Must run before torch starts threads.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    if libc.unshare(NEW_NETWORK) != 0:
        libc.unshare(NEW_USER | NEW_NETWORK)


def forbid() -> None:
    """Refuses every later call that would start a process or open a socket."""

    def refuse(event: str, _arguments: Any) -> None:
        if event.startswith(FORBIDDEN):
            raise PermissionError(f"{event} is not allowed here")

    sys.addaudithook(refuse)


def bound(sizes: Sequence[int]) -> None:
    """Limits memory to the present use plus three times the largest file, and the processor time."""
    import resource  # not on Windows, where this module is imported all the same

    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    limit = used + 3 * max(sizes) + ROOM_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    seconds = 60 + sum(sizes) // 10_000_000
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))


def loaded(path: str) -> Any:
    """The content of the pickle. Raises torch's error for a name that is not allowed."""
    import torch

    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except ValueError:  # an old file is no archive: its names are found one by one
        names = []
    while True:
        known: list[Any] = [(type("Held", (Held,), {}), name) for name in names if INERT.match(name)]
        try:
            with torch.serialization.safe_globals(known):
                return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            met = re.search(r"GLOBAL (\S+) was not an allowed global", str(error))
            if met is None or not INERT.match(met[1]) or met[1] in names:
                raise
            names.append(met[1])


def tensors_in(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Yields every tensor with its path: the names that lead to it, without `state_dict`."""
    import torch

    if isinstance(value, Held):
        state = value.values if isinstance(value.values, dict) else {}
        value = state.get("_parameters") or state.get("_data") or {}
    if isinstance(value, torch.Tensor):
        yield place, value.detach()
    elif isinstance(value, dict):
        for name, inner in value.items():
            dropped = name in ("state_dict", "_parameters") and isinstance(inner, dict)
            yield from tensors_in(inner, place if dropped else f"{place}.{name}" if place else str(name))


def write(source: str, target: str) -> None:
    """Reads one file and writes the other."""
    import torch
    from safetensors.torch import save_file

    if not os.path.getsize(source):
        raise ValueError("it is empty")
    tensors = dict(tensors_in(loaded(source)))
    if not tensors:
        raise ValueError("it holds no tensors")
    # The format does not allow shared memory: each tensor is copied.
    save_file({key: torch.clone(one, memory_format=torch.contiguous_format) for key, one in tensors.items()}, target)


def main(places: Sequence[str]) -> None:
    """Converts pairs of files: input, output."""
    isolate()
    import torch  # noqa: F401 - before the limits, which count from here

    pairs = list(zip(places[::2], places[1::2], strict=True))
    bound([os.path.getsize(source) for source, _ in pairs])
    forbid()
    for source, target in pairs:
        write(source, target)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(1)
