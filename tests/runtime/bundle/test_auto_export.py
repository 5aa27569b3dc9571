"""A checkpoint in place of a bundle: exported once, whole or not at all, and found again by its content."""

import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

import latentrt
from latentrt.bundle.auto_export import exported
from latentrt.bundle.cached import bundle_in, store
from latentrt.bundle.catalog import folder_of
from latentrt.bundle.checkpoint import files_of, is_checkpoint, name_of
from latentrt.bundle.content import content_of
from latentrt.errors import (
    BundleError,
    CheckpointError,
    EngineError,
    FidelityError,
    OutOfMemoryError,
    OutputError,
)
from tests.runtime.checkpoints import exports, stand_in, weights


def hidden():
    return [path.name for path in store().glob("*/.*") if path.name != ".lock"]


def folder(path):
    for name in ("model_index.json", "unet/config.json", "unet/model.safetensors", "unet/model.bin", "README.md"):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        weights(path / name) if name.endswith(".safetensors") else (path / name).write_text(name)
    weights(path / "all-in-one.safetensors")
    return path


def test_a_checkpoint_draws_after_one_export(home, monkeypatch, caplog, emoji):
    stand_in(monkeypatch)
    caplog.set_level(logging.INFO, "latentrt")
    file = weights(home / "my-model.safetensors")
    with latentrt.load(file) as pipe:
        picture = pipe.generate("a tree", steps=1, seed=3, width=32, height=32)
    assert picture.images == emoji.generate("a tree", steps=1, seed=3, width=32, height=32).images
    folder = folder_of(str(file))
    assert folder.name == "my-model" and folder.parents[1] == store()
    assert exports(home) == [f"export {file} {folder} --precision w16 --name my-model"]
    lines = [record.getMessage() for record in caplog.records]
    assert "w16" in lines[0] and str(folder) in lines[0] and "`latentrt export`" in lines[0]
    assert lines[1:3] == ["unet: tracing", f"{file}: exported"]


def test_content_is_the_key(home, monkeypatch):
    stand_in(monkeypatch, "")
    file, same = weights(home / "a.safetensors"), weights(home / "b.safetensors")
    assert exported(file) == exported(same) == folder_of("a")
    weights(file, 2.0)
    os.utime(file, ns=(0, 0))
    assert exported(file) != exported(same)
    assert len(exports(home)) == 2


def test_content_is_remembered_by_size_and_time(home, monkeypatch):
    file = weights(home / "a.safetensors")
    content = content_of(file)
    monkeypatch.setattr("latentrt.bundle.content.sha256_of", lambda path: "0" * 64)
    assert content_of(file) == content
    os.utime(file, ns=(1, 1))
    assert content_of(file) != content


def test_content_is_read_again_where_it_cannot_be_remembered(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", os.devnull)
    file = weights(tmp_path / "a.safetensors")
    assert content_of(file) == content_of(file)


def test_files_of_a_folder_that_count(home):
    whole = folder(home / "whole")
    names = [path.relative_to(whole).as_posix() for path in files_of(whole)]
    assert names == ["model_index.json", "unet/config.json", "unet/model.safetensors"]
    content = content_of(whole)
    (whole / "README.md").write_text("changed")
    assert content_of(shutil.copytree(whole, home / "copy")) == content
    (whole / "unet" / "config.json").rename(whole / "unet" / "other.json")
    assert content_of(whole) != content


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("v1-5.SAFETENSORS", "v1-5"),
        ("tiny-sd", "tiny-sd"),
        ("hub/models--segmind--tiny-sd/snapshots/0ab1", "tiny-sd"),
        ("a/.safetensors", "safetensors"),
    ],
)
def test_name(tmp_path, path, name):
    assert name_of(tmp_path / path) == name


def test_kinds_of_paths(home, bundle):
    alone = home / "vae"
    alone.mkdir()
    (alone / "config.json").write_text("{}")
    assert not is_checkpoint(alone)
    weights(alone / "model.safetensors")
    assert is_checkpoint(alone) and is_checkpoint(folder(home / "whole")) and is_checkpoint(alone / "model.safetensors")
    assert not is_checkpoint(bundle.folder) and not is_checkpoint(home / "missing.safetensors")


def test_processes_and_threads_export_once(home, monkeypatch):
    stand_in(monkeypatch, "time.sleep(0.5)")
    file, found = weights(home / "a.safetensors"), []
    threads = [threading.Thread(target=lambda: found.append(exported(file))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3 and len({*found}) == 1
    assert len(exports(home)) == 1


def test_ctrl_c_leaves_nothing(home, monkeypatch):
    stand_in(monkeypatch, "time.sleep(60)")

    def press():
        while not hidden():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press).start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        exported(weights(home / "a.safetensors"))
    assert time.monotonic() - started < 50
    assert hidden() == [] and list(store().glob("*/a")) == []


def test_what_a_killed_process_left_is_removed(home, monkeypatch):
    stand_in(monkeypatch, "")
    file = weights(home / "a.safetensors")
    place = exported(file).parent
    shutil.rmtree(place / "a")
    (place / ".a.0123").mkdir()
    (place / ".a.0123" / "unet.onnx").write_bytes(b"half")
    assert bundle_in(place) is None
    assert exported(file) == place / "a"
    assert hidden() == []


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        ("print('error: no vocabulary', file=sys.stderr); sys.exit(5)", CheckpointError, "no vocabulary"),
        ("print('error: needs onnx:\\nrun pip', file=sys.stderr); sys.exit(4)", EngineError, "needs onnx:\nrun pip"),
        ("print('error: too lossy', file=sys.stderr); sys.exit(6)", FidelityError, "too lossy"),
        ("print('error: disk full', file=sys.stderr); sys.exit(7)", OutputError, "disk full"),
        ("sys.exit(130)", KeyboardInterrupt, ""),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", OutOfMemoryError, "want of memory"),
    ],
)
def test_errors_of_the_export(home, monkeypatch, code, kind, words):
    stand_in(monkeypatch, code)
    with pytest.raises(kind) as raised:
        exported(weights(home / "a.safetensors"))
    assert words in str(raised.value)
    assert hidden() == [] and bundle_in(next(store().iterdir())) is None


def test_without_the_extra(home, monkeypatch):
    stand_in(monkeypatch, needed="no_such_package")
    with pytest.raises(EngineError, match=r"a\.safetensors .* needs no_such_package: run `pip install 'latentrt"):
        exported(weights(home / "a.safetensors"))
    assert not store().exists()


def test_without_the_extra_a_bundle_in_the_cache_is_found(home, monkeypatch):
    stand_in(monkeypatch, "")
    file = weights(home / "a.safetensors")
    folder = exported(file)
    stand_in(monkeypatch, needed="no_such_package")
    assert exported(file) == folder


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    stand_in(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", os.devnull)
    with pytest.raises(OutputError, match="XDG_CACHE_HOME .* `latentrt export CHECKPOINT OUT`"):
        exported(weights(tmp_path / "a.safetensors"))


@pytest.mark.parametrize(
    ("name", "content", "kind", "words"),
    [
        ("a.safetensors", b"<html>", CheckpointError, "web page"),
        ("a.safetensors", b"\x10", CheckpointError, "damaged or incomplete"),
        ("a.ckpt", b"\x80\x02", CheckpointError, "`latentrt export .*a.ckpt OUT --allow-pickle`"),
        ("a.jpg", b"", BundleError, "got a file, expected the folder of a bundle, a checkpoint"),
    ],
)
def test_wrong_files(home, monkeypatch, name, content, kind, words):
    stand_in(monkeypatch)
    (home / name).write_bytes(content)
    with pytest.raises(kind, match=words):
        folder_of(home / name)
    assert exports(home) == []


def test_a_checkpoint_that_is_only_looked_at_is_not_exported(home, monkeypatch):
    stand_in(monkeypatch, "")
    file = weights(home / "a.safetensors")
    with pytest.raises(BundleError, match="not exported yet"):
        folder_of(file, export=False)
    assert exports(home) == []
    folder = exported(file)
    assert folder_of(file, export=False) == folder


def test_the_export_of_the_package_is_found_wherever_the_process_is(home):
    """The child has the module path of this process, and nothing of the working folder."""
    (home / "latentrt.py").write_text("raise SystemExit('the working folder was imported')")
    code = (
        "import sys\nfrom pathlib import Path\nfrom latentrt.bundle import auto_export\n"
        "sys.path = [path for path in sys.path if path]\n"
        "auto_export.run(['--help'], Path('a'))\nprint('ran')"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    (home / "inner").mkdir()
    (home / "inner" / "run.py").write_text(code)
    done = subprocess.run(
        [sys.executable, str(home / "inner" / "run.py")], cwd=home, env=environment, capture_output=True, text=True
    )
    assert done.stdout == "ran\n", done.stderr
