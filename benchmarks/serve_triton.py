"""A bundle in a real Triton server, asked over HTTP; every picture is compared with the library's own.

    python -m venv build/triton
    build/triton/bin/pip install 'nvidia-pytriton>=0.7' '.[cpu]'
    python -m benchmarks.serve_triton [--python build/triton/bin/python] [--pictures 20]

PyTriton brings Triton's server with its Python backend, and wants NumPy 1; so it has an environment of its own, of the
same version of ONNX Runtime. Only the server is used, not PyTriton. It needs glibc 2.35.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from benchmarks.export_sd15 import ROOT
from benchmarks.machine import machine, one_line
from benchmarks.serve import ENGINE, SEEDS, SMALL, digest, expected, free_port
from latentrt_serve.triton.repository import write_repository

READY_S = 60
TYPES = {"prompt": "BYTES", "seed": "INT64", "steps": "INT32", "width": "INT32", "height": "INT32"}
# Where the environment has the server, its Python's version, and the folder of that Python's library: Triton would load
# the system's.
ASK = """import pathlib, pytriton, sys, sysconfig
print(pathlib.Path(pytriton.__file__).parent, "%d.%d" % sys.version_info[:2], sysconfig.get_config_var("LIBDIR"))"""


@contextmanager
def triton(python: Path, folder: Path) -> Iterator[str]:
    """The address of a Triton server of the built-in model."""
    write_repository("emoji", folder / "models", engine=ENGINE, copy=True)
    package, version, library_folder = subprocess.check_output([python, "-c", ASK], text=True).split()
    server = folder / "tritonserver"
    shutil.copytree(Path(package) / "tritonserver", server, ignore=shutil.ignore_patterns("python_backend_stubs"))
    stub = Path(package) / "tritonserver" / "python_backend_stubs" / version / "triton_python_backend_stub"
    shutil.copy(stub, server / "backends" / "python")
    libraries = f"{library_folder}:{Path(package).parent / 'nvidia_pytriton.libs'}"
    environment = {**os.environ, "LD_LIBRARY_PATH": libraries, "PATH": f"{python.parent}:{os.environ['PATH']}"}
    port = free_port()
    options = {"model-repository": folder / "models", "backend-directory": server / "backends", "http-port": port}
    more = ["--http-address=127.0.0.1", "--allow-grpc=false", "--allow-metrics=false"]
    command = [str(server / "bin" / "tritonserver"), *(f"--{name}={value}" for name, value in options.items()), *more]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        model = f"http://127.0.0.1:{port}/v2/models/emoji"
        wait_until_ready(model, process, folder / "log")
        yield f"{model}/infer"
    finally:
        process.terminate()
        process.wait(60)


def wait_until_ready(model: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Waits until the model is ready. Raises RuntimeError with the end of the log."""
    deadline = time.monotonic() + READY_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(f"{model}/ready").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise RuntimeError(f"Triton is not ready:\n{log.read_text()[-3000:]}")


def ask(client: httpx.Client, url: str, output: str, **fields: Any) -> httpx.Response:
    """Asks by Triton's protocol, with the output in binary after the JSON."""
    inputs = [{"name": name, "shape": [1], "datatype": TYPES[name], "data": [value]} for name, value in fields.items()]
    wanted = [{"name": output, "parameters": {"binary_data": True}}]
    return client.post(url, json={"inputs": inputs, "outputs": wanted}, timeout=300)


def binary_of(answer: httpx.Response) -> bytes:
    """The binary part of an answer. Raises RuntimeError for an error."""
    if answer.status_code != 200:
        raise RuntimeError(answer.text)
    return answer.content[int(answer.headers["inference-header-content-length"]) :]


def picture(client: httpx.Client, url: str, seed: int, output: str) -> str:
    """The hash of a seed's picture, from either output."""
    data = binary_of(ask(client, url, output, prompt="a red apple", seed=seed, **SMALL))
    if output == "png":  # a text: its length in four bytes, then itself
        return digest(Image.open(io.BytesIO(data[4:])))
    return digest(Image.fromarray(np.frombuffer(data, np.uint8).reshape(SMALL["height"], SMALL["width"], 3)))


def main() -> None:
    """Prints what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, default=ROOT / "build" / "triton" / "bin" / "python")
    parser.add_argument("--pictures", type=int, default=20)
    given = parser.parse_args()
    same = {"image": 0, "png": 0}
    with (
        tempfile.TemporaryDirectory() as folder,
        triton(given.python.absolute(), Path(folder)) as url,
        httpx.Client() as client,
    ):
        for output in same:
            same[output] = sum(
                picture(client, url, number % SEEDS, output) == expected(number % SEEDS)
                for number in range(given.pictures)
            )
        refused = ask(client, url, "image", prompt="a", steps=0)
    print(one_line(machine()))
    print(
        f"{given.pictures} pictures of each output: {same['image']} images and {same['png']} PNGs are the library's. "
        f"0 steps: status {refused.status_code}, {refused.json()['error']!r}."
    )


if __name__ == "__main__":
    main()
