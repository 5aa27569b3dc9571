import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from latentrt.errors import OutputError
from latentrt.storage.atomic import REMEDIES, check_writable, new_file, new_folder


@pytest.fixture
def mask() -> Iterator[int]:
    """An uncommon file mode mask, for one test."""
    before = os.umask(0o027)
    yield 0o027
    os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    with new_file(tmp_path / "a.txt") as temporary:
        temporary.write_text("whole")
        assert not (tmp_path / "a.txt").exists()
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".txt"
    assert (tmp_path / "a.txt").read_text() == "whole"
    assert list(tmp_path.iterdir()) == [tmp_path / "a.txt"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failed_block_leaves_no_file(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), new_file(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_a_failed_block_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(RuntimeError), new_file(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert (tmp_path / "a.txt").read_text() == "old"
    assert list(tmp_path.iterdir()) == [tmp_path / "a.txt"]


def test_a_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")
    with new_file(tmp_path / "a.txt") as temporary:
        temporary.write_text("new")
        assert (tmp_path / "a.txt").read_text() == "old"
    assert (tmp_path / "a.txt").read_text() == "new"


def test_a_file_whose_temporary_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), new_file(tmp_path / "a.txt") as temporary:
        temporary.unlink()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_cannot_be_replaced_by_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(OSError), new_file(tmp_path / "a") as temporary:
        temporary.write_text("new")
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


@pytest.mark.parametrize("name", ["x" * 255, "x" * 251 + ".png", "\u732b" * 85, ".hidden", "no suffix"])
def test_any_name_that_the_file_system_takes(tmp_path: Path, name: str) -> None:
    with new_file(tmp_path / name) as temporary:
        temporary.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    with new_file(tmp_path / "a.txt") as first, new_file(tmp_path / "a.txt") as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "a.txt").read_text() == "first"


def test_a_folder_appears_when_the_block_ends(tmp_path: Path) -> None:
    with new_folder(tmp_path / "deep" / "a") as temporary:
        (temporary / "sub").mkdir()
        (temporary / "sub" / "b.txt").write_text("whole")
        assert not (tmp_path / "deep" / "a").exists()
    assert (tmp_path / "deep" / "a" / "sub" / "b.txt").read_text() == "whole"
    assert list((tmp_path / "deep").iterdir()) == [tmp_path / "deep" / "a"]


def test_a_failed_block_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), new_folder(tmp_path / "a") as temporary:
        (temporary / "b.txt").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["file", "folder", "dangling link"])
def test_a_folder_replaces_nothing(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a"
    {"file": path.touch, "folder": path.mkdir, "dangling link": lambda: path.symlink_to("nowhere")}[kind]()
    with pytest.raises(OutputError, match="a exists; name another, or remove it first"), new_folder(path):
        pytest.fail("the block ran")
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_came_up_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(OutputError), new_folder(tmp_path / "a"):
        (tmp_path / "a").mkdir()
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_modes_follow_the_mask(tmp_path: Path, mask: int) -> None:
    with new_file(tmp_path / "a.txt") as temporary:
        temporary.write_text("whole")
    with new_folder(tmp_path / "b") as temporary:
        (temporary / "c.txt").write_text("whole")
    assert mode(tmp_path / "a.txt") == 0o666 & ~mask
    assert mode(tmp_path / "b") == 0o777 & ~mask
    assert mode(tmp_path / "b" / "c.txt") == 0o666 & ~mask


KILLED = """
import os, signal, sys
from pathlib import Path
from latentrt.storage import atomic

kind, path = sys.argv[1], Path(sys.argv[2])
with getattr(atomic, kind)(path) as temporary:
    half = temporary / "half" if kind == "new_folder" else temporary
    half.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("kind", ["new_file", "new_folder"])
def test_a_killed_writer_leaves_nothing_of_that_name(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.png"
    done = subprocess.run([sys.executable, "-c", KILLED, kind, str(path)])
    assert done.returncode == -9
    assert not path.exists()
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".a.")


def test_a_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("old")
    done = subprocess.run([sys.executable, "-c", KILLED, "new_file", str(tmp_path / "a.png")])
    assert done.returncode == -9
    assert (tmp_path / "a.png").read_text() == "old"


def leave(tmp_path: Path, name: str, *, age: float = 1000) -> Path:
    """A temporary folder with a file, of some seconds of age."""
    folder = tmp_path / name
    folder.mkdir()
    (folder / "half").write_bytes(b"half")
    os.utime(folder, times=(time.time() - age,) * 2)
    return folder


def test_the_next_writer_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    path = tmp_path / "a[1].b"
    subprocess.run([sys.executable, "-c", KILLED, "new_folder", str(path)])
    (left,) = tmp_path.iterdir()
    os.utime(left, times=(time.time() - 1000,) * 2)
    with new_folder(path) as temporary:
        assert [*tmp_path.iterdir()] == [temporary]
    assert [*tmp_path.iterdir()] == [path] and not [*path.iterdir()]


def test_what_a_living_writer_fills_stays(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="exists"), new_folder(tmp_path / "a") as first:
        os.utime(first, times=(time.time() - 1000,) * 2)
        with new_folder(tmp_path / "a"):
            assert first.is_dir()
    assert [*tmp_path.iterdir()] == [tmp_path / "a"]


def test_folders_of_other_names_and_new_ones_stay(tmp_path: Path) -> None:
    digits = "0123456789abcdef"
    others = {leave(tmp_path, name) for name in (f".b.{digits}", f".a.{digits}.png", f".a.{digits}0", ".a.x", "a.b")}
    others.add(leave(tmp_path, f".a.{digits}", age=0))
    with new_folder(tmp_path / "a"):
        pass
    assert {*tmp_path.iterdir()} == {*others, tmp_path / "a"}


FULL_DISK = """
import resource, sys
from pathlib import Path
from latentrt.storage import atomic
from latentrt.errors import EngineError, OutputError

kind, path = sys.argv[1], Path(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))


def written_by_a_library(path):
    try:
        path.write_bytes(bytes(2000))
    except OSError:
        raise RuntimeError("writing failed") from None


def written_by_another(path):
    try:
        path.write_bytes(bytes(2000))
    except OSError as error:
        raise EngineError("the engine failed") from error


def written_in_words(path):
    raise Exception("File too large (os error 27)")


WRITERS = {"library": written_by_a_library, "engine": written_by_another, "words": written_in_words}
try:
    if kind == "text":
        atomic.write_text(path, "x" * 2000)
    else:
        with atomic.new_folder(path) as temporary:
            WRITERS.get(kind, lambda file: file.write_bytes(bytes(2000)))(temporary / "a")
except OutputError as error:
    print(error)
"""


@pytest.mark.parametrize("kind", ["text", "folder", "library", "engine", "words"])
def test_what_a_full_disk_fails_is_one_error_and_leaves_nothing(tmp_path: Path, kind: str) -> None:
    """Whoever wrote, and whatever error of its own it made of the system's."""
    path = tmp_path / "a"
    command = [sys.executable, "-c", FULL_DISK, kind, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == (
        f"{path}: cannot be written (File too large); allow larger files (`ulimit -f`), or name a place on a disk that "
        "takes them"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG])
def test_what_to_do_is_said_by_what_failed(tmp_path: Path, code: int) -> None:
    with pytest.raises(OutputError) as caught, new_folder(tmp_path / "a"):
        raise OSError(code, os.strerror(code), "elsewhere")
    assert str(caught.value) == f"{tmp_path / 'a'}: cannot be written ({os.strerror(code)}); {REMEDIES[code]}"
    assert "folder that exists" not in str(caught.value)


@pytest.mark.parametrize(
    "error", [FileNotFoundError(errno.ENOENT, "none", "b"), PermissionError(errno.EACCES, "no", "b"), ValueError("x")]
)
def test_other_errors_are_their_own(tmp_path: Path, error: Exception) -> None:
    """Those of files that are read, among them."""
    with pytest.raises(type(error)) as caught, new_folder(tmp_path / "a"):
        raise error
    assert caught.value is error
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_folder_that_may_not_be_written(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match="name a place that you may write to"),
        new_folder(tmp_path / "a") as temporary,
    ):
        raise PermissionError(errno.EACCES, "Permission denied", str(temporary / "b"))


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(OutputError, match="cannot be made .*; name another folder"),
        new_folder(tmp_path / "file" / "a"),
    ):
        pytest.fail("the block ran")
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_a_path_is_tried_before_the_work_and_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kept.png").write_text("before")
    for name in ("new.png", "kept.png"):
        check_writable(tmp_path / name, option="--out")
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("kept.png", "before")]
    with pytest.raises(OutputError, match=r"^--out: there is no folder .*/no; make it with `mkdir -p .*/no`"):
        check_writable(tmp_path / "no" / "x.png", option="--out")

    def refused(path: Path, **_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "touch", refused)
    with pytest.raises(OutputError, match=r"x\.png: cannot be written \(Permission denied\); name a place that"):
        check_writable(tmp_path / "x.png", option="--out")
