"""Hostile paths in bundles: 24 kinds, given to this package's loader, to onnx and to ONNX Runtime.

Each kind is a path of external weights that leads out of the model's folder, or to something that is no plain file of
it. latentrt must refuse all but a hard link, whose content it checks by its hash.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from latentrt.bundle.catalog import folder_of
from latentrt.bundle.folder import MANIFEST, open_bundle
from latentrt.bundle.manifest_hash import KEY
from latentrt.errors import BundleError
from torture.tally import Given, Tally

WEIGHTS = bytes(64)
Maker = Callable[[Path, Path], str]  # of the model's folder and the secret file; returns the path to write down


def linked(target: str, name: str = "w.bin") -> Maker:
    """A symbolic link in the folder."""

    def make(folder: Path, secret: Path) -> str:
        (folder / name).symlink_to(target.format(secret=secret, folder=folder))
        return name

    return make


def fixed(path: str) -> Maker:
    """A path that needs nothing in the folder."""
    return lambda folder, secret: path.format(secret=secret, outside=secret.parent)


def hard_link(folder: Path, secret: Path) -> str:
    """A second name of the secret file."""
    (folder / "w.bin").hardlink_to(secret)
    return "w.bin"


def linked_folder(folder: Path, secret: Path) -> str:
    """A path through a linked folder."""
    (folder / "d").symlink_to(secret.parent)
    return f"d/{secret.name}"


def inner_link(folder: Path, secret: Path) -> str:
    """A link to another file of the folder."""
    (folder / "real.bin").write_bytes(WEIGHTS)
    (folder / "w.bin").symlink_to("real.bin")
    return "w.bin"


def pipe(folder: Path, secret: Path) -> str:
    """A named pipe that nobody writes to."""
    os.mkfifo(folder / "w.bin")
    return "w.bin"


def inner_folder(folder: Path, secret: Path) -> str:
    """A folder in place of the file."""
    (folder / "w.bin").mkdir()
    return "w.bin"


def other_case(folder: Path, secret: Path) -> str:
    """A name that differs from the file's in case."""
    (folder / "W.BIN").write_bytes(WEIGHTS)
    return "w.bin"


PATHS: dict[str, Maker] = {
    "../ above the folder": fixed("../secret.bin"),
    "../../ twice": fixed("../../outside/secret.bin"),
    "a/../../ through a folder": fixed("a/../../secret.bin"),
    "./ before the name": fixed("./../secret.bin"),
    "absolute": fixed("{secret}"),
    "absolute with //": fixed("/{secret}"),
    "a link to the outside": linked("{secret}"),
    "a relative link to the outside": linked("../secret.bin"),
    "a link to another file inside": inner_link,
    "a link to nothing": linked("nothing.bin"),
    "a link to itself": linked("w.bin"),
    "a linked folder": linked_folder,
    "a hard link": hard_link,
    "a named pipe": pipe,
    "a link to a device": linked("/dev/zero"),
    "a device": fixed("/dev/zero"),
    "a folder": inner_folder,
    "an empty name": fixed(""),
    "NUL in the name": fixed("w.bin\0.txt"),
    "a name of 5,000 letters": fixed("w" * 5000),
    "a backslash": fixed("..\\secret.bin"),
    "a drive": fixed("C:w.bin"),
    "a URL": fixed("file://{secret}"),
    "another case": other_case,
}
KNOWN_GOOD = "a hard link"
CHILD = """
import sys
from pathlib import Path
tool, model = sys.argv[1:]
if tool == "onnx":
    import onnx
    onnx.load(model)
else:
    import onnxruntime
    onnxruntime.set_default_logger_severity(4)
    onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
"""


def run(asked: Given) -> Tally:
    """Every kind once; the count is not used."""
    tally, theirs = Tally(), {"onnx": 0, "onnxruntime": 0}
    (plain := asked.scratch / "plain").mkdir()
    (plain / "w.bin").write_bytes(WEIGHTS)
    assert not ours_refuses(plain, "w.bin") and all(child_takes(tool, model_with(plain, "w.bin")) for tool in theirs)
    for number, (kind, make) in enumerate(PATHS.items()):
        outside = asked.scratch / str(number) / "outside"
        folder = outside / "model"
        folder.mkdir(parents=True)
        secret = outside / "secret.bin"
        secret.write_bytes(WEIGHTS)
        path = make(folder, secret)
        refused = ours_refuses(folder, path)
        wrong = "" if refused or kind == KNOWN_GOOD else f"{kind}: was taken"
        tally.add("refused" if refused else "taken, content checked", fault=wrong)
        for tool in theirs:
            theirs[tool] += not child_takes(tool, model_with(folder, path))
    others = ", ".join(f"{tool} {count}" for tool, count in theirs.items())
    tally.note = f"refused by others, of {len(PATHS)}: {others}"
    return tally


def ours_refuses(folder: Path, path: str) -> bool:
    """Whether the built-in bundle is refused if one component has its weights at the path."""
    source = folder_of("emoji")
    document = json.loads((source / MANIFEST).read_bytes())
    del document[KEY]
    for file in document["files"]:
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).hardlink_to(source / file)
    document["components"]["time_bias"]["data"] = [path]
    document["files"][path] = {"bytes": len(WEIGHTS), "sha256": hashlib.sha256(WEIGHTS).hexdigest()}
    (folder / MANIFEST).write_text(json.dumps(document))
    try:
        open_bundle(folder)
    except BundleError:
        return True
    return False


def model_with(folder: Path, path: str) -> Path:
    """An ONNX model in the folder whose weights lie at the path."""
    import onnx
    from onnx import TensorProto, helper

    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[16], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": path, "offset": "0", "length": str(len(WEIGHTS))}.items():
        tensor.external_data.add(key=key, value=value)
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [16]) for name in "xy"]
    made = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", info[:1], info[1:], [tensor])
    model = folder / "model.onnx"
    model.write_bytes(
        helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()
    )
    assert onnx.__version__
    return model


def child_takes(tool: str, model: Path) -> bool:
    """Whether a tool loads a model; a hang counts as a refusal, since nothing was read."""
    command = [sys.executable, "-c", CHILD, tool, str(model)]
    try:
        return subprocess.run(command, cwd=model.parent, capture_output=True, timeout=20).returncode == 0
    except subprocess.TimeoutExpired:
        return False
