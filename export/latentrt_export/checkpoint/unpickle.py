"""A program: reads a pickle of torch and writes its tensors as .safetensors. Run as a file, in a process of its own.

`python -I unpickle.py IN OUT IN OUT ...`; it imports nothing of latentrt. What is unpickled is what `torch.load` allows
with `weights_only`: tensors and plain containers. Classes of training frameworks, which published checkpoints name
beside their weights, become objects that hold what they are given and do nothing. No other name is looked up, and so
nothing is run; what a fault in torch would let through meets a process that has no network, cannot start another one,
and has no more memory than the files ask for.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

# What the names of inert classes begin with. The first is how the first embeddings hold their vectors.
INERT = re.compile(
    r"torch\.nn\.modules\.container\.ParameterDict$"
    r"|(pytorch_lightning|lightning|lightning_fabric|omegaconf|typing|argparse|pathlib|numpy|_codecs)\."
)
NEW_USER, NEW_NETWORK = 0x10000000, 0x40000000
NO_NEW_PRIVILEGES = 38
FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "subprocess.", "socket.", "ctypes.")
ROOM_BYTES = 1 << 29


class Held:
    """What stands for an object of a class that is not looked up."""

    values: Any = ()  # of one that is made without arguments, in a way that passes by __init__

    def __init__(self, *values: Any, **_named: Any) -> None:
        self.values = values

    def __setstate__(self, state: Any) -> None:
        self.values = state


def isolate() -> None:
    """Takes the network from this process, and the way to get rights. Where the system does not let it, the hook holds.

    Has to run before there are threads, which torch makes.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    if libc.unshare(NEW_NETWORK) != 0:
        libc.unshare(NEW_USER | NEW_NETWORK)


def forbid() -> None:
    """Ends every later call that would start a process or open a socket."""

    def refuse(event: str, _arguments: Any) -> None:
        if event.startswith(FORBIDDEN):
            raise PermissionError(f"{event} is not allowed here")

    sys.addaudithook(refuse)


def bound(sizes: Sequence[int]) -> None:
    """Bounds memory to what is used now and three times the largest file, and the time on a processor."""
    import resource  # not on Windows, where this module is imported all the same

    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    limit = used + 3 * max(sizes) + ROOM_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    seconds = 60 + sum(sizes) // 10_000_000
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))


def loaded(path: str) -> Any:
    """What the pickle holds. Raises an error of torch for one that names what is not allowed."""
    import torch

    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except ValueError:  # an old file, which is no archive, is not looked into: names come up one by one
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
    """Yields every tensor with its place: the names on the way to it, but for `state_dict`."""
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
    # Of tensors that share memory each becomes one of its own, which the format asks for.
    save_file({key: torch.clone(one, memory_format=torch.contiguous_format) for key, one in tensors.items()}, target)


def main(places: Sequence[str]) -> None:
    """Reads every second file and writes the one that follows it."""
    isolate()
    import torch  # noqa: F401 - before the bounds, which are of what is read

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
