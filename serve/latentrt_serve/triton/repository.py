"""Model repositories of the Triton Inference Server: a folder per model, with its configuration and a version.

Batching is off: requests differ in steps and sizes, and a model answers one after the other. Layout and fields are
those of Triton's documents "Model Repository" and "Model Configuration".
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from latentrt.bundle.catalog import built_in, folder_of
from latentrt.bundle.folder import open_bundle
from latentrt.engines import engine_kind
from latentrt.engines.kinds import ALIASES, AUTO, CPU_ENGINES
from latentrt.errors import OutputError, RequestError

MODEL = Path(__file__).with_name("model.py")
VERSION, COPY = "1", "bundle"
NAMES = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# Fields of `latentrt.Request`, and Triton's type of each; all may be left out.
INPUTS: Mapping[str, str] = {
    "prompt": "TYPE_STRING",
    "negative": "TYPE_STRING",
    "seed": "TYPE_INT64",
    "steps": "TYPE_INT32",
    "guidance": "TYPE_FP32",
    "width": "TYPE_INT32",
    "height": "TYPE_INT32",
    "sampler": "TYPE_STRING",
    "class_label": "TYPE_INT32",
}
INPUT = '  {{ name: "{name}", data_type: {kind}, dims: [ 1 ], optional: true }}'
CONFIG = """# Written by `latentrt triton`.
name: "{name}"
backend: "python"
max_batch_size: 0
input [
{inputs}
]
output [
  {{ name: "image", data_type: TYPE_UINT8, dims: [ -1, -1, 3 ] }},
  {{ name: "png", data_type: TYPE_STRING, dims: [ 1 ] }}
]
instance_group [ {{ kind: {kind}, count: 1 }} ]
parameters {{ key: "bundle" value: {{ string_value: "{bundle}" }} }}
parameters {{ key: "engine" value: {{ string_value: "{engine}" }} }}
"""


def write_repository(
    bundle: str, repository: Path, *, name: str | None = None, engine: str = AUTO, copy: bool = False
) -> Path:
    """Adds a bundle to a model repository. Returns the model's folder.

    name: of the model; default: that of the bundle's folder. copy: put the bundle into the repository, so that it may
    be moved; otherwise Triton reads it where it is now. Raises BundleError for what is no bundle, EngineError and
    RequestError for a wrong engine or name, OutputError for a model that is there already or cannot be written.
    """
    engine_kind(engine)
    folder = folder_of(bundle).resolve()
    open_bundle(folder)
    name = name or folder.name
    if not NAMES.fullmatch(name):
        raise RequestError(f"--name: got {name!r}, expected letters, digits, and . _ -")
    place = repository / name
    try:
        (place / VERSION).mkdir(parents=True)
        (place / "config.pbtxt").write_text(config_of(name, place_of(bundle, folder, copy), engine), encoding="utf-8")
        shutil.copyfile(MODEL, place / VERSION / MODEL.name)
        if copy:
            shutil.copytree(folder, place / VERSION / COPY)
    except FileExistsError as error:
        raise OutputError(f"{place}: there is a model already; give --name, or remove it") from error
    except OSError as error:
        raise OutputError(f"{place}: cannot be written ({error.strerror or error})") from error
    return place


def place_of(bundle: str, folder: Path, copy: bool) -> str:
    """How the configuration names the bundle: in the version's folder, by a built-in model's name, or by its path."""
    if copy:
        return COPY
    return bundle if bundle in built_in() else str(folder)


def config_of(name: str, bundle: str, engine: str) -> str:
    """The text of config.pbtxt."""
    kind = "KIND_CPU" if engine in (AUTO, *ALIASES, *CPU_ENGINES) else "KIND_GPU"
    inputs = ",\n".join(INPUT.format(name=one, kind=type_of) for one, type_of in INPUTS.items())
    quoted = bundle.replace("\\", "\\\\").replace('"', '\\"')
    return CONFIG.format(name=name, inputs=inputs, kind=kind, bundle=quoted, engine=engine)
