"""`kill -9` at any moment of a write: what others see is whole or not there, and the next start works.

Beside it, writers of other packages, and one that opens the file and writes, as most programs do.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from latentrt.bundle import folder as bundles
from latentrt.bundle.catalog import folder_of
from latentrt.bundle.folder import MANIFEST, open_bundle, parsed
from latentrt.bundle.manifest_hash import KEY
from latentrt.bundle.upgrade import upgrade
from latentrt.engines import openvino_cache
from latentrt.engines.artifacts import check_files, read_signed
from latentrt.engines.nvidia import lowered
from latentrt.engines.nvidia.plans import PlanStore
from latentrt.engines.onnx import optimised
from latentrt.errors import LatentError
from latentrt.storage.atomic import new_file, new_folder
from torture.races import key_of
from torture.tally import Given, Tally

CONTENTS = tuple(bytes([number]) * (1 << 20) for number in range(4))
LONGEST_S = 0.03
# Of the count, by kind. Whole commands take seconds.
SHARES = {
    "file": 0.28,
    "folder": 0.28,
    "plan": 0.18,
    "OpenVINO's cache": 0.1,
    "upgrade": 0.05,
    "step cache": 0.03,
    "export": 0.02,
    "calibrate": 0.02,
    "build for a CPU": 0.02,
    "build for a GPU": 0.02,
}
COMMAND = [sys.executable, "-m", "latentrt"]
ONE_PICTURE = ["--images", "1", "--evaluations", "1", "--steps", "1", "--budget", "0"]


@dataclass(frozen=True)
class Writer:
    """write: writes again and again, until it is killed. check: raises AssertionError for what must not be seen."""

    write: Callable[[], None]
    check: Callable[[], None]
    longest: float = LONGEST_S


def run(asked: Given) -> Tally:
    """The count of kills, over all kinds, and a write to the end of each; a fifth of it for others' writers."""
    os.environ["XDG_STATE_HOME"] = str(asked.scratch / "state")
    tally, chance = Tally(), asked.random
    for kind, share in SHARES.items():
        writer = WRITERS[kind](empty(folder := asked.scratch / kind.replace(" ", "-")))
        for number in range(max(1, round(asked.count * share))):
            kill(writer, chance)
            if seen(tally, writer.check, f"{kind}, kill {number}"):
                writer = WRITERS[kind](empty(folder))  # or what it left would be found again
        seen(tally, writer.write, f"{kind}, to its end after all kills")
    others = ", ".join(f"{name} {damaged(other(asked.scratch), asked)}" for name, other in OTHERS.items())
    tally.note = f"damaged by others' writers, of {asked.count // 5} each: {others}"
    return tally


def damaged(writer: Writer, asked: Given) -> int:
    """How many of a fifth of the kills leave a file that must not be seen."""
    chance, found = asked.random, 0
    for _ in range(asked.count // 5):
        kill(writer, chance)
        try:
            writer.check()
        except AssertionError:
            found += 1
    return found


def seen(tally: Tally, look: Callable[[], None], what: str) -> bool:
    """Counts what a killed writer has left; returns whether it is a fault."""
    try:
        look()
    except (AssertionError, LatentError, ValueError, OSError, subprocess.CalledProcessError) as error:
        told = getattr(error, "stderr", None) or repr(error)
        tally.add("damaged", fault=f"{what}: {told}"[-300:])
        return True
    tally.add("whole")
    return False


def empty(folder: Path) -> Path:
    """Makes the folder, without what it had."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def kill(writer: Writer, chance: random.Random) -> None:
    """Lets a child write, and kills it after a random time."""
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        try:
            while True:
                writer.write()
        finally:
            os._exit(1)
    os.setpgid(child, child)  # in both, because either may be first
    time.sleep(chance.random() * writer.longest)
    os.killpg(child, signal.SIGKILL)  # with the command that it runs
    os.waitpid(child, 0)


def replaced(file: Path, contents: Collection[bytes], put: Callable[[Path, bytes], object]) -> Writer:
    """Puts the contents into one file, each over the one before. A file that is none of them is damaged."""

    def write() -> None:
        for content in contents:
            put(file, content)

    def check() -> None:
        assert not file.exists() or file.read_bytes() in contents, "neither the old nor the new content"

    return Writer(write, check)


def plain(folder: Path) -> Writer:
    """Opens the file and writes."""
    return replaced(folder / "plain", CONTENTS, lambda file, content: file.write_bytes(content))


def safetensors(folder: Path) -> Writer:
    """The writer of .safetensors files of the format's own package."""
    from safetensors.numpy import save, save_file

    tensors = [{"a": np.frombuffer(content, np.uint8)} for content in CONTENTS]
    files = {save(one): one for one in tensors}
    return replaced(folder / "a.safetensors", files, lambda file, content: save_file(files[content], file))


def onnx(folder: Path) -> Writer:
    """The writer of graphs of the package onnx."""
    from onnx import helper, numpy_helper, save

    weights = [numpy_helper.from_array(np.frombuffer(content, np.uint8), "a") for content in CONTENTS]
    models = [helper.make_model(helper.make_graph([], "a", [], [], initializer=[one])) for one in weights]
    files = {one.SerializeToString(): one for one in models}
    return replaced(folder / "a.onnx", files, lambda file, content: save(files[content], file))


OTHERS = {"open and write": plain, "safetensors": safetensors, "onnx": onnx}


def files(folder: Path) -> Writer:
    """One file that is replaced again and again."""

    def put(file: Path, content: bytes) -> None:
        with new_file(file) as temporary:
            temporary.write_bytes(content)

    return replaced(folder / "file", CONTENTS, put)


def folders(folder: Path) -> Writer:
    """A folder of two files, made and removed."""
    path = folder / "folder"

    def write() -> None:
        shutil.rmtree(path, ignore_errors=True)
        with new_folder(path) as temporary:
            for number, content in enumerate(CONTENTS[:2]):
                (temporary / str(number)).write_bytes(content)

    def check() -> None:
        names = sorted(one.name for one in path.iterdir()) if path.is_dir() else []
        # `rmtree` of the writer may have been killed in its middle: what is left must be whole.
        assert all((path / name).read_bytes() == CONTENTS[int(name)] for name in names), "a file cut short"
        shutil.rmtree(path, ignore_errors=True)

    return Writer(write, check)


def plans(folder: Path) -> Writer:
    """A plan and its signed record."""
    numbers = iter(range(10**9))

    def write() -> None:
        PlanStore(folder).build(key_of(next(numbers)), lambda path: None if path.write_bytes(CONTENTS[1]) else None)

    def check() -> None:
        store = PlanStore(folder)
        for key in store.keys():
            opened = store.open(key)
            assert opened is not None, "a record without its plan"
            with opened:
                assert opened.read() == CONTENTS[1], "a plan cut short"
        store.build(key_of(-1), lambda path: None if path.write_bytes(CONTENTS[1]) else None)
        left = [one.name for one in folder.iterdir() if one.name.startswith(".") and one.suffix in (".plan", ".json")]
        assert not left, f"left after the next build: {left}"
        shutil.rmtree(folder)
        folder.mkdir()

    return Writer(write, check)


def compiled(folder: Path) -> Writer:
    """OpenVINO's cache: the record is written after what OpenVINO wrote."""
    cache = folder / ("0" * 16)

    def write() -> None:
        with openvino_cache.cache_settings(cache) as settings:
            assert settings
            for number, content in enumerate(CONTENTS):
                (cache / f"{number}.blob").write_bytes(content)
        shutil.rmtree(cache)

    def check() -> None:
        with openvino_cache.cache_settings(cache):
            for blob in cache.glob("*.blob"):
                assert blob.read_bytes() == CONTENTS[int(blob.stem)], "a compiled graph cut short"

    return Writer(write, check)


def upgraded(folder: Path) -> Writer:
    """bundle.json, rewritten from an older form."""
    source = folder_of("emoji")
    older = json.loads((source / MANIFEST).read_bytes())
    del older[KEY]
    texts = (json.dumps(older).encode(), (source / MANIFEST).read_bytes())
    for file in older["files"]:
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).hardlink_to(source / file)
    (folder / MANIFEST).write_bytes(texts[0])

    def write() -> None:
        upgrade(folder)
        with new_file(folder / MANIFEST) as temporary:
            temporary.write_bytes(texts[0])

    def check() -> None:
        assert (folder / MANIFEST).read_bytes() in texts, "bundle.json is neither the old nor the new one"
        parsed(folder, (folder / MANIFEST).read_bytes())

    return Writer(write, check, longest=0.3)


def command(words: list[str], longest: float) -> Callable[[Path], Writer]:
    """A whole command that writes a bundle, or goes on with one."""

    def writer(folder: Path) -> Writer:
        out = folder / "out"

        def write() -> None:
            run_command([word.format(folder=folder, out=out) for word in words])
            check()

        def check() -> None:
            if out.is_dir():
                bundle = open_bundle(out, verify=False)
                bundles.check_files(out, bundle.manifest)
                bundles.check_hashes(out, bundle.manifest)
                discard(out)

        return Writer(write, check, longest)

    return writer


def exported(folder: Path) -> Writer:
    """`latentrt export` of a small checkpoint."""
    from tests.export import tiny

    tiny.save_diffusers_folder(folder / "checkpoint")
    return command(["export", "{folder}/checkpoint", "{out}"], 14.0)(folder)


def build(words: list[str], longest: float) -> Callable[[Path], Writer]:
    """`latentrt build`, which goes on with what a killed one has finished."""

    def writer(folder: Path) -> Writer:
        bundle = folder / "bundle"
        shutil.copytree(folder_of("emoji"), bundle, ignore=shutil.ignore_patterns("targets"))
        targets = bundle / "targets"

        def write() -> None:
            run_command(["build", str(bundle), *words])
            check()
            discard(targets)

        def check() -> None:
            store = PlanStore(targets)
            for key in store.keys():
                opened = store.open(key)
                assert opened is not None, "a record without its plan"
                opened.close()
            for made in targets.glob("lowered/[!.]*"):
                lowered.read(made)
            for made in targets.glob("cpu/[!.]*"):
                record = read_signed(optimised.Optimised, made / optimised.RECORD)
                assert record is not None, "an optimised graph without its record"
                check_files(made, record, verify=True)

        return Writer(write, check, longest)

    return writer


def run_command(words: list[str]) -> None:
    """Runs a command of latentrt to its end."""
    subprocess.run([*COMMAND, *words], check=True, capture_output=True, text=True)


def discard(folder: Path) -> None:
    """Removes a folder, which is under its name whole or not at all."""
    shutil.rmtree(folder.rename(folder.with_name(f".gone.{secrets.token_hex(8)}")))


WRITERS: dict[str, Callable[[Path], Writer]] = {
    "file": files,
    "folder": folders,
    "plan": plans,
    "OpenVINO's cache": compiled,
    "upgrade": upgraded,
    "step cache": command(["step-cache", "emoji", "{out}", "--boundary", "1"], 6.0),
    "export": exported,
    "calibrate": command(["calibrate", "emoji", "{out}", *ONE_PICTURE], 16.0),
    "build for a CPU": build(["--target", "cpu"], 5.0),
    "build for a GPU": build(["--target", "tensorrt-rtx", "--gpu", "sm86", "--size", "64x64"], 14.0),
}
