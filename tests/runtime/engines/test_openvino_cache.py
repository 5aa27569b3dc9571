"""Derived files of a bundle, damaged in many ways: results stay right, and damaged files are replaced."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from latentrt.bundle.manifest import FileRecord
from latentrt.engines import autoselect, openvino_cache
from latentrt.engines.artifacts import check_files
from latentrt.engines.autoselect import Choice
from latentrt.engines.onnx import optimised
from latentrt.errors import BundleError
from tests.runtime.engines.compiled import drawn


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """A cache folder with a graph that OpenVINO compiled, and the output of the graph."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(home))
        (answer, was_kept), (again, is_kept) = drawn(), drawn()
    assert not was_kept and is_kept and np.array_equal(answer, again)
    return home, answer


@pytest.fixture
def caches(compiled, tmp_path, monkeypatch):
    """A copy of the cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(shutil.copytree(compiled[0], tmp_path / "caches")))
    return tmp_path / "caches"


def flipped(path):
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(path.stat().st_size * 3 // 4)
        (byte,) = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 16]))


def emptied(path):
    path.unlink()
    path.touch()


def replaced_by_a_folder(path):
    path.unlink()
    (path / "inside").mkdir(parents=True)


def linked(path):
    path.rename(path.with_suffix(".real"))
    path.symlink_to(path.with_suffix(".real"))


DAMAGES = {
    "a bit": flipped,
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "cut by a byte": lambda path: os.truncate(path, path.stat().st_size - 1),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "empty": emptied,
    "gone": lambda path: path.unlink(),
    "a folder": replaced_by_a_folder,
    "a link": linked,
}


@pytest.mark.parametrize("file", ["*.blob", openvino_cache.RECORD])
@pytest.mark.parametrize("damage", DAMAGES)
def test_what_openvino_compiled_is_compiled_anew_where_it_was_damaged(compiled, caches, file, damage):
    (path,) = caches.rglob(file)
    DAMAGES[damage](path)
    harmless = file == openvino_cache.RECORD and damage == "cut by a byte"  # the end of its last line
    answer, was_kept = drawn()
    assert np.array_equal(answer, compiled[1]) and was_kept == harmless
    answer, is_kept = drawn()
    assert np.array_equal(answer, compiled[1]) and is_kept


def test_without_the_check_openvino_takes_a_damaged_file(compiled, caches, monkeypatch):
    """Shows that the test above can fail: without the check, flipped bits in weights change the output."""
    monkeypatch.setattr(openvino_cache, "is_intact", lambda *_: True)
    (path,) = caches.rglob("*.blob")
    path.chmod(0o600)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 4096] = bytes(4096)
    path.write_bytes(content)
    answer, was_kept = drawn()
    assert was_kept and not np.array_equal(answer, compiled[1])


def test_a_file_that_nobody_wrote_down_is_not_read(compiled, caches):
    (path,) = caches.rglob("*.blob")
    (caches / "latentrt").rename(caches / "before")
    assert not drawn()[1]
    (new,) = caches.joinpath("latentrt").rglob("*.blob")
    shutil.copyfile(next((caches / "before").rglob("*.blob")), new.with_name("1.blob"))
    assert drawn()[1] and not new.with_name("1.blob").exists()


@pytest.mark.parametrize("where", ["latentrt", "latentrt/openvino"])
def test_a_file_in_place_of_the_folders(compiled, tmp_path, where, monkeypatch, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / where).parent.mkdir(exist_ok=True)
    (tmp_path / where).touch()
    answer, was_kept = drawn()
    assert np.array_equal(answer, compiled[1]) and not was_kept and "cannot be cached there" in caplog.text


def test_another_user_s_folder_is_not_used(compiled, caches, monkeypatch, caplog):
    monkeypatch.setattr("latentrt.engines.openvino_cache.owned_by_user", lambda path: False)
    answer, was_kept = drawn()
    assert np.array_equal(answer, compiled[1]) and not was_kept and "belongs to another user" in caplog.text


TWO = """
import sys, numpy as np
from tests.runtime.engines.compiled import drawn
np.save(sys.argv[1], drawn()[0])
"""


def test_two_processes_that_compile_at_once(compiled, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    files = [tmp_path / f"{number}.npy" for number in range(3)]
    running = [subprocess.Popen([sys.executable, "-c", TWO, str(file)]) for file in files]
    assert [process.wait(timeout=120) for process in running] == [0] * len(files)
    assert all(np.array_equal(np.load(file), compiled[1]) for file in files) and drawn()[1]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"null", b"[]", b"\xff", b"[" * 100_000, {"seconds": {}}, {"seconds": {"tensorrt": 1.0}}, None],
    ids=["empty", "cut", "null", "list", "no text", "deep", "no engine", "another engine", "folder"],
)
def test_what_was_measured_and_is_damaged(content, bundle, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("LATENTRT_ENGINE")
    monkeypatch.setattr(autoselect, "time_engines", lambda *_: {"onnxruntime": 2.0, "openvino": 1.0})
    assert autoselect.fastest(bundle) == "openvino"
    (path,) = tmp_path.rglob("*.json")
    whole = json.loads(path.read_text())
    path.unlink()
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(json.dumps(whole | content).encode() if isinstance(content, dict) else content)
    assert autoselect.stored_choices() == []
    # If no choice can be stored, the first engine is used: timing at every start would cost more than it gains.
    assert autoselect.fastest(bundle) == ("onnxruntime" if content is None else "openvino")
    assert ("cannot be stored" in caplog.text) == (content is None)
    assert len(autoselect.stored_choices()) == (content is not None) and all(
        isinstance(c, Choice) for c in autoselect.stored_choices()
    )


@pytest.mark.parametrize("files", [{}, {"../unet.onnx": 1}, {"/etc/passwd": 1}], ids=["none", "above", "absolute"])
def test_a_record_that_lists_no_files_of_its_folder(files, tmp_path):
    record = openvino_cache.Compiled("", {name: FileRecord(size, "") for name, size in files.items()})
    with pytest.raises(BundleError, match="lists no files|expected one inside the bundle"):
        check_files(tmp_path, record, verify=False)


@pytest.mark.parametrize("change", ["another hash", "another user", "another folder's"])
def test_what_this_user_did_not_sign_is_compiled_anew(compiled, caches, change, tmp_path, monkeypatch):
    """A file and a record that agree, as somebody would write them who may write to the cache."""
    (blob,), (path,) = caches.rglob("*.blob"), caches.rglob(openvino_cache.RECORD)
    record = json.loads(path.read_text())
    if change == "another hash":
        blob.chmod(0o600)
        blob.write_bytes(content := blob.read_bytes()[:-1] + b"\0\0")
        record["files"] = {blob.name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}}
    elif change == "another user":
        monkeypatch.setenv("LATENTRT_PLAN_SECRET", str(tmp_path / "secret"))
        (tmp_path / "secret").write_bytes(bytes(32))
        (tmp_path / "secret").chmod(0o600)
    else:
        record["folder"] = "0" * 16
    path.write_text(json.dumps(record))
    answer, was_kept = drawn()
    assert np.array_equal(answer, compiled[1]) and not was_kept
    assert drawn()[1]


def test_a_folder_of_graphs_that_this_user_may_not_see(bundle, tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.path.isdir", lambda path: False)
    monkeypatch.setattr("pathlib.Path.is_dir", refuse)
    assert optimised.folder_of(replace(bundle, folder=tmp_path), "unet") is None


def test_a_file_that_cannot_be_read_is_not_whole(tmp_path, monkeypatch):
    (tmp_path / "blob").write_bytes(b"1234")

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    assert not openvino_cache.is_intact(tmp_path / "blob", FileRecord(4, ""))
