"""Flipped bits, cut files and exchanged contents: each must be found before a file is used.

Beside it, the same flips in a graph and a file of weights given to ONNX's checker, ONNX Runtime and safetensors.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from latentrt.bundle.catalog import folder_of
from latentrt.bundle.folder import MANIFEST, check_files, check_hashes, open_bundle, parsed
from latentrt.bundle.manifest import Manifest
from latentrt.errors import BundleError
from torture.tally import Given, Tally

PEER_CASES = 200


def run(asked: Given) -> Tally:
    """The count, for each file of the built-in bundle."""
    tally, chance = Tally(), asked.random
    source = folder_of("emoji")
    manifest = open_bundle(source).manifest
    contents = {file: (source / file).read_bytes() for file in manifest.files}
    for file in manifest.files:
        alone = replace(manifest, files={file: manifest.files[file]})
        (asked.scratch / file).parent.mkdir(exist_ok=True)
        for _ in range(asked.count):
            what, changed = damaged(contents, file, chance)
            (asked.scratch / file).write_bytes(changed)
            found = refused(partial(check, asked.scratch, alone))
            tally.add("found" if found else "not found", fault="" if found else f"{file}: {what}")
    text = (source / MANIFEST).read_bytes()
    for _ in range(asked.count):
        what, changed = damaged({MANIFEST: text}, MANIFEST, chance)
        found = refused(partial(parsed, source, changed))
        tally.add("found" if found else "not found", fault="" if found else f"{MANIFEST}: {what}")
    tally.note = f"found by others, of {PEER_CASES} flipped bits: {peers(asked, contents['time_bias.onnx'])}"
    return tally


def check(folder: Path, manifest: Manifest) -> None:
    """What is checked before an engine reads a file."""
    check_files(folder, manifest)
    check_hashes(folder, manifest)


def damaged(contents: dict[str, bytes], file: str, chance: random.Random) -> tuple[str, bytes]:
    """A way to damage a file, and its content then; always another content."""
    content = contents[file]
    way = chance.choice(["bit", "bit", "cut", "exchanged" if len(contents) > 1 else "bit"])
    if way == "cut":
        return way, content[: chance.randrange(len(content))]
    if way == "exchanged":
        other = chance.choice([name for name in contents if name != file])
        return f"exchanged with {other}", contents[other]
    return way, flipped(content, chance)


def flipped(content: bytes, chance: random.Random) -> bytes:
    """The content with one bit changed."""
    changed = bytearray(content)
    changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def refused(check: Callable[[], object]) -> bool:
    """Whether a check finds damage."""
    try:
        check()
    except BundleError:
        return True
    return False


def peers(asked: Given, graph: bytes) -> str:
    """How many flipped bits others find in a graph, and in a file of weights."""
    import numpy as np
    import onnx
    import onnxruntime
    from safetensors.numpy import load_file, save_file

    onnxruntime.set_default_logger_severity(4)
    weights = asked.scratch / "w.safetensors"
    save_file({"w": np.arange(4096, dtype=np.float32)}, weights)
    stored = weights.read_bytes()

    def checked(path: Path) -> object:
        model = onnx.load(path)
        onnx.checker.check_model(model)
        return model

    ways: dict[str, tuple[bytes, Callable[[Path], object]]] = {
        "onnx's checker": (graph, checked),
        "ONNX Runtime": (graph, lambda path: onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])),
        "safetensors": (stored, load_file),
    }
    told = []
    for name, (content, load) in ways.items():
        chance, found, path = asked.random, 0, asked.scratch / "flipped"
        for _ in range(PEER_CASES):
            path.write_bytes(flipped(content, chance))
            try:
                load(path)
            except Exception:  # each has errors of its own
                found += 1
        told.append(f"{name} {found}")
    return ", ".join(told)
