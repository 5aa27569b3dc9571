"""Plans and graphs in caches that somebody changed: none is loaded, whatever was changed, the record included."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from latentrt.bundle.catalog import folder_of
from latentrt.bundle.folder import Bundle, open_bundle, record_files
from latentrt.bundle.manifest import Fidelity
from latentrt.engines import openvino_cache
from latentrt.engines.artifacts import signed
from latentrt.engines.nvidia.plans import PlanStore, record_of
from latentrt.engines.onnx import optimised
from latentrt.errors import BundleError
from torture.corruption import flipped
from torture.races import key_of
from torture.tally import Given, Tally

CONTENT = bytes(range(256)) * 64


def run(asked: Given) -> Tally:
    """The count, for each of plans, optimised graphs and OpenVINO's compiled graphs."""
    os.environ["XDG_STATE_HOME"] = str(asked.scratch / "state")
    tally, chance = Tally(), asked.random
    for kind, (make, used) in {
        "plan": plans(asked),
        "optimised graph": graphs(asked),
        "compiled": blobs(asked),
    }.items():
        for _ in range(asked.count):
            folder, files = make()
            assert used() == CONTENT, f"{kind}: refused as it was written"
            what = tamper(files, chance)
            content = used()
            wrong = content is not None and content != CONTENT
            outcome = "loaded changed" if wrong else "not loaded" if content is None else "loaded, unchanged in meaning"
            tally.add(outcome, fault=f"{kind}: {what}" if wrong else "")
            shutil.rmtree(folder, ignore_errors=True)
    return tally


def tamper(files: list[Path], chance: random.Random) -> str:
    """Changes the content, the record, or both so that they agree but for the signature."""
    content, record = files
    way = chance.choice(["bit", "cut", "longer", "record bit", "record field", "both", "no record", "no signature"])
    data, text = content.read_bytes(), record.read_bytes()
    content.chmod(0o600)
    if way == "bit":
        content.write_bytes(flipped(data, chance))
    elif way == "cut":
        content.write_bytes(data[: chance.randrange(len(data))])
    elif way == "longer":
        content.write_bytes(data + chance.randbytes(chance.randrange(1, 9)))
    elif way == "record bit":
        record.write_bytes(flipped(text, chance))
    elif way == "no record":
        record.unlink()
    else:
        change_record(way, content, record, chance)
    return way


def change_record(way: str, content: Path, record: Path, chance: random.Random) -> None:
    """Changes a field of the record; "both": with a content that the record then describes."""
    document = json.loads(record.read_bytes())
    if way == "both":
        content.write_bytes(flipped(content.read_bytes(), chance))
        if "files" in document:
            measured = record_files(content.parent, [content.name])[content.name]
            document["files"][content.name] = {"bytes": measured.bytes, "sha256": measured.sha256}
    elif way == "no signature":
        document.pop("hmac", None)
    else:
        document[chance.choice(list(document))] = chance.choice(["", None, 0, {}, "0" * 64])
    record.write_text(json.dumps(document))


Made = tuple[Callable[[], tuple[Path, list[Path]]], Callable[[], "bytes | None"]]


def plans(asked: Given) -> Made:
    """A plan of TensorRT, and how the engine reads it."""
    folder = asked.scratch / "plans"

    def make() -> tuple[Path, list[Path]]:
        path = PlanStore(folder).build(key_of(0), lambda to: None if to.write_bytes(CONTENT) else None)
        return folder, [path, record_of(path)]

    def used() -> bytes | None:
        opened = PlanStore(folder).open(key_of(0))
        if opened is None:
            return None
        with opened:
            return opened.read()

    return make, used


def graphs(asked: Given) -> Made:
    """A graph that is optimised for this processor, and how the engine finds it."""
    manifest = open_bundle(folder_of("emoji"), verify=False).manifest
    bundle = Bundle(asked.scratch / "bundle", manifest, "")

    def make() -> tuple[Path, list[Path]]:
        key = optimised.key_of(bundle, "time_bias")
        folder = optimised.folder_in(bundle.folder / "targets", "time_bias", key)
        folder.mkdir(parents=True)
        (folder / "time_bias.onnx").write_bytes(CONTENT)
        files = record_files(folder, ["time_bias.onnx"])
        optimised.write_record(folder, optimised.Optimised("time_bias", key, Fidelity(0.0, None, ""), files))
        return folder, [folder / "time_bias.onnx", folder / optimised.RECORD]

    def used() -> bytes | None:
        try:
            graph = optimised.graph_of(bundle, "time_bias")
        except BundleError:
            return None
        return None if graph is None else graph.read_bytes()

    return make, used


def blobs(asked: Given) -> Made:
    """A graph that OpenVINO compiled, and what of the folder it may read."""
    folder = asked.scratch / "openvino" / ("0" * 16)

    def make() -> tuple[Path, list[Path]]:
        folder.mkdir(parents=True)
        (folder / "1.blob").write_bytes(CONTENT)
        compiled = openvino_cache.Compiled(folder.name, record_files(folder, ["1.blob"]))
        (folder / openvino_cache.RECORD).write_text(signed(compiled))
        return folder, [folder / "1.blob", folder / openvino_cache.RECORD]

    def used() -> bytes | None:
        return (folder / "1.blob").read_bytes() if "1.blob" in openvino_cache.intact_files(folder) else None

    return make, used
