"""Headers of .safetensors files, made by libFuzzer, which looks for new paths through the reader.

Needs atheris, which has wheels for some Pythons only. The reader opens files, so each header becomes a file in memory.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from torture.tally import Given, Tally

ROOT = Path(__file__).parents[1]
PER_PROCESS = 1_000_000


def run(asked: Given) -> Tally:
    """As many runs of the reader, in processes of a million."""
    tally = Tally()
    if find_spec("atheris") is None:
        tally.note = "not run: `pip install atheris`"
        return tally
    corpus = asked.scratch / "corpus"
    corpus.mkdir()
    header = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "__metadata__": {}}).encode()
    (corpus / "first").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    left, number = asked.count, 0
    while left > 0:
        runs = min(left, PER_PROCESS)
        options = [
            f"-runs={runs}",
            f"-seed={asked.seed + number + 1}",
            "-timeout=5",
            f"-artifact_prefix={asked.scratch}/",
        ]
        command = [sys.executable, "-m", "torture.header", str(corpus), *options]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        if done.returncode:
            tally.faults.append(done.stderr[-500:])
        else:
            tally.outcomes["read or refused"] += runs
        left, number = left - runs, number + 1
    tally.note = f"{len(list(corpus.iterdir()))} kinds of header by their paths through the reader"
    return tally


def fuzz() -> None:
    """The process that libFuzzer drives."""
    import atheris

    with atheris.instrument_imports(include=["latentrt.storage"]):
        from latentrt.errors import CheckpointError
        from latentrt.storage.safetensors import open_tensors

    file = Path("/dev/shm") / f"latentrt-{sys.argv[1].replace('/', '-')}.safetensors"

    def once(content: bytes) -> None:
        file.write_bytes(content)
        try:
            for tensor in open_tensors(file).tensors.values():
                tensor.read()
        except CheckpointError:
            return

    atheris.Setup(sys.argv, once)
    try:
        atheris.Fuzz()
    finally:
        file.unlink(missing_ok=True)


if __name__ == "__main__":
    fuzz()
