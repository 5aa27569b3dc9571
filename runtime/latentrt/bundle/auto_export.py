"""Export of a checkpoint into the user's cache, once, when it is given in place of a bundle.

`latentrt export` runs as a process of its own: torch's memory is free again before the first picture, and nothing here
imports what exports.
"""

from __future__ import annotations

import hashlib
import json
import logging
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from latentrt.bundle.cached import Source, bundle_in, remove_unfinished, store, write_source
from latentrt.bundle.checkpoint import WEIGHTS, files_of, name_of
from latentrt.bundle.content import content_of
from latentrt.bundle.manifest import FORMAT
from latentrt.errors import (
    CheckpointError,
    EngineError,
    FidelityError,
    LatentError,
    OutOfMemoryError,
    OutputError,
    RequestError,
)
from latentrt.storage.locks import locked
from latentrt.storage.safetensors import open_tensors
from latentrt.storage.user_dirs import writable
from latentrt.version import VERSION

log = logging.getLogger(__name__)

# Weights in half precision, computed in float: half the disk of fp32, and the precision of a CPU's pictures.
PRECISION = "w16"
# Increased with every change of the export that bundles in caches should have.
EXPORT_VERSION = 1
# What the extra of the export brings, and the runtime never imports.
NEEDED = "torch"
# The child has this process's module path, not the working folder in front of it as `python -m` would.
COMMAND = """
import sys
count = int(sys.argv[1])
sys.path[:], sys.argv[1:] = sys.argv[2 : count + 2], sys.argv[count + 2 :]
from latentrt.cli import main
main()
"""
ERRORS: dict[int, type[LatentError]] = {
    error.exit_status: error for error in (RequestError, EngineError, CheckpointError, FidelityError, OutputError)
}
INTERRUPTED = 130


def exported(checkpoint: Path) -> Path:
    """Returns the folder of the checkpoint's bundle in the user's cache, exported there if it is not yet.

    One process exports a checkpoint, and others wait for it; the bundle appears whole or not at all. The stages are
    logged. Raises CheckpointError for a checkpoint that cannot be exported, EngineError without the packages of the
    extra `export`, FidelityError for a loss beyond its gate, OutputError if the cache cannot be written.
    """
    check_headers(checkpoint)
    content = content_of(checkpoint)
    home = home_of(content)
    found = bundle_in(home)
    if found is None:
        check_extra(checkpoint)
        with alone_in(home):
            found = bundle_in(home) or export_into(home, checkpoint, content)
    return found


def already_exported(checkpoint: Path) -> Path | None:
    """The folder of the checkpoint's bundle in the user's cache; None if it was not exported."""
    check_headers(checkpoint)
    return bundle_in(home_of(content_of(checkpoint)))


def home_of(content: str) -> Path:
    """The cache's folder for a checkpoint of that content."""
    key = json.dumps([content, PRECISION, FORMAT, EXPORT_VERSION])
    return store() / hashlib.sha256(key.encode()).hexdigest()[:16]


def check_headers(checkpoint: Path) -> None:
    """Raises CheckpointError for weights that are damaged or of another kind, before gigabytes are read."""
    for file in files_of(checkpoint):
        if file.suffix.lower() == WEIGHTS:
            open_tensors(file)


def check_extra(checkpoint: Path) -> None:
    """Raises EngineError without the packages that export."""
    if find_spec(NEEDED) is None:
        raise EngineError(
            f"{checkpoint} is a checkpoint, which is exported once before pictures are drawn; that needs {NEEDED}: run "
            "`pip install 'latentrt[cpu,export]'`, or run `latentrt export` on a workstation and copy the bundle here"
        )


@contextmanager
def alone_in(home: Path) -> Iterator[None]:
    """Holds the lock of a key's folder during the block. Raises OutputError if the cache cannot be written."""
    if not writable(home):
        raise OutputError(
            f"{home}: the cache cannot be written; set XDG_CACHE_HOME to a folder that you may write to, or run "
            "`latentrt export CHECKPOINT OUT` and give OUT as the bundle"
        )
    with locked(home, wait=False) as alone:
        if alone:
            yield
            return
    log.warning("another process is exporting the same checkpoint: waiting for it")
    with locked(home):
        yield


def export_into(home: Path, checkpoint: Path, content: str) -> Path:
    """Exports into the folder of a key, whose lock the caller holds, and returns the bundle's folder."""
    remove_unfinished(home)
    name = name_of(checkpoint)
    log.warning(
        "%s is a checkpoint: exporting it once, with --precision %s, to %s; Stable Diffusion 1.5 takes 2 to 4 minutes "
        "and 7 GB of memory. For other options, use `latentrt export`.",
        checkpoint,
        PRECISION,
        home / name,
    )
    try:
        run([str(checkpoint.resolve()), str(home / name), "--precision", PRECISION, "--name", name], checkpoint)
        write_source(home, Source(str(checkpoint.resolve()), content, PRECISION, VERSION))
    finally:
        remove_unfinished(home)
    log.info("%s: exported", checkpoint)
    return home / name


def run(arguments: Sequence[str], checkpoint: Path) -> None:
    """Runs `latentrt export` and logs its lines. Raises its error; whatever interrupts this ends the export too."""
    start = [sys.executable, "-c", COMMAND, str(len(sys.path)), *sys.path, "export", *arguments]
    child = subprocess.Popen(
        start,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
    )
    assert child.stderr is not None
    error: list[str] = []
    try:
        for line in map(str.rstrip, child.stderr):
            if error or line.startswith("error: "):
                error.append(line.removeprefix("error: "))
            else:
                log.info("%s", line)
        status = child.wait()
    finally:
        child.kill()  # after Ctrl-C; what it leaves is removed under the lock
        child.wait()
        child.stderr.close()
    if status != 0:
        raise failure(checkpoint, status, "\n".join(error))


def failure(checkpoint: Path, status: int, message: str) -> BaseException:
    """The error of an export that ended with this exit status and this message."""
    if status == INTERRUPTED:
        return KeyboardInterrupt()
    if status < 0:
        return OutOfMemoryError(
            f"{checkpoint}: the system ended its export (signal {-status}), mostly for want of memory; close other "
            "programs, or run `latentrt export` on a machine with more and copy the bundle here"
        )
    return ERRORS.get(status, EngineError)(f"{checkpoint} cannot be exported: {message or f'status {status}'}")
