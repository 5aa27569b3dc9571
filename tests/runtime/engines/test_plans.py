"""Plans on disk: built once for all processes, never partial, and only loaded if this user built them."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from latentrt.engines.artifacts import graph_digest
from latentrt.engines.nvidia.plans import PlanStore, Shapes, record_of
from latentrt.engines.secret import secret_path, user_secret
from latentrt.errors import EngineError, OutputError
from tests.runtime.engines.plans import KEY, PLAN, make


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("LATENTRT_PLAN_SECRET", raising=False)


@pytest.fixture
def store(tmp_path):
    return PlanStore(tmp_path / "plans")


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def never(path):
    pytest.fail("built again")


def test_a_plan_is_built_once_and_found(store, tmp_path):
    assert store.find(KEY) is None
    assert store.keys() == []
    path = store.build(KEY, make)
    assert path == store.find(KEY) == store.build(KEY, never)
    assert path.read_bytes() == PLAN
    assert store.keys() == [KEY]
    assert files(tmp_path / "plans") == [".lock", f"{KEY.digest}.json", f"{KEY.digest}.plan"]
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "plans").iterdir()} == {0o600}
    with store.open(KEY) as opened:
        assert opened.read() == PLAN


CHANGES = [
    {"graph": "b" * 64},
    {"profiles": KEY.profiles * 2},
    {"profiles": ((replace(KEY.profiles[0][0], largest=(2, 4, 8, 9)), KEY.profiles[0][1]),)},
    {"flags": ("level=4", "workspace=1")},
    {"flags": KEY.flags[::-1]},
    {"engine": "tensorrt-rtx"},
    {"version": "10.3.0.1"},
    {"gpu": "Orin Nano"},
    {"gpu": ""},
    {"sm": "sm86"},
]


@pytest.mark.parametrize("changes", CHANGES, ids=lambda changes: next(iter(changes)))
def test_another_key_is_another_plan(store, changes):
    store.build(KEY, make)
    other = replace(KEY, **changes)
    assert other.digest != KEY.digest
    assert store.find(other) is None


@pytest.mark.parametrize("changes", CHANGES, ids=lambda changes: next(iter(changes)))
def test_a_plan_under_another_key_is_not_that_plan(store, changes):
    """A plan and its record under the name of another key; then also with that key in the record."""
    path = store.build(KEY, make)
    other = replace(KEY, **changes)
    moved = path.with_name(f"{other.digest}.plan")
    path.rename(moved)
    record = json.loads(record_of(path).read_bytes())
    record_of(path).rename(record_of(moved))
    assert store.find(other) is None
    assert not moved.exists()
    moved.write_bytes(PLAN)
    record_of(moved).write_text(json.dumps(record | {"key": asdict(other)}))
    assert store.keys() == [other]
    assert store.find(other) is None
    assert not moved.exists() and not record_of(moved).exists()


def test_a_plan_of_another_user_is_built_anew(store, monkeypatch, tmp_path, caplog):
    store.build(KEY, make)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "other"))
    built = []
    path = store.build(KEY, lambda path: built.append(path.write_bytes(PLAN)))
    assert built and store.find(KEY) == path
    assert "not built by this user or changed since; removed" in caplog.text


def test_machines_that_share_a_secret_share_plans(store, monkeypatch, tmp_path):
    (tmp_path / "shared").write_bytes(bytes(range(32)))
    (tmp_path / "shared").chmod(0o600)
    monkeypatch.setenv("LATENTRT_PLAN_SECRET", str(tmp_path / "shared"))
    store.build(KEY, make)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "other"))
    assert store.find(KEY) is not None


def test_a_plan_without_a_record_is_not_there_yet(store):
    path = store.build(KEY, make)
    record_of(path).unlink()
    assert store.find(KEY) is None
    assert path.exists()  # another process may be about to write its record
    built = []
    store.build(KEY, lambda path: built.append(path.write_bytes(PLAN)))
    assert built


def test_a_record_under_the_name_that_a_killed_build_gave_it_is_none(store):
    record = record_of(store.build(KEY, make))
    record.rename(record.with_name(f".{record.name}"))
    assert store.keys() == []


@pytest.mark.parametrize("error", [EngineError("no luck"), KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_build_that_fails_leaves_nothing(store, tmp_path, error):
    def fail(path):
        path.write_bytes(PLAN[:1000])
        raise error

    with pytest.raises(type(error)):
        store.build(KEY, fail)
    assert files(tmp_path / "plans") == [".lock"]
    store.build(KEY, make)


def test_folders_are_searched_in_order_and_the_first_writable_is_built_in(tmp_path):
    (tmp_path / "file").write_text("no folder")
    closed, cache = tmp_path / "file/targets", tmp_path / "cache"
    store = PlanStore(closed, cache)
    assert store.find(KEY) is None
    assert store.build(KEY, make).parent == cache
    own = PlanStore(tmp_path / "own")
    shipped = own.build(KEY, make)
    assert PlanStore(tmp_path / "own", cache).find(KEY) == shipped


def test_no_folder_can_be_written(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OutputError, match="plans can be written neither to .* nor to .*; set XDG_CACHE_HOME"):
        PlanStore(tmp_path / "file/a", tmp_path / "file/b").build(KEY, never)


@pytest.mark.parametrize(
    ("shapes", "index"),
    [
        ({"sample": (1, 4, 8, 8), "bias": (1, 9)}, 0),
        ({"sample": (2, 4, 8, 8), "bias": (1, 9)}, 0),
        ({"sample": (3, 4, 8, 8), "bias": (1, 9)}, 1),
        ({"sample": (4, 4, 8, 8), "bias": (1, 9)}, None),
        ({"sample": (4, 8, 8), "bias": (1, 9)}, None),
        ({"sample": (1, 4, 8, 8)}, None),
        ({"sample": (1, 4, 8, 8), "bias": (1, 9), "mask": (1,)}, None),
    ],
)
def test_the_profile_that_takes_some_shapes(shapes, index):
    three = Shapes("sample", (3, 4, 8, 8), (3, 4, 8, 8), (3, 4, 8, 8))
    key = replace(KEY, profiles=(*KEY.profiles, (three, KEY.profiles[0][1])))
    assert key.profile_of(shapes) == index


def test_the_graphs_digest_is_of_all_its_files(bundle):
    manifest = bundle.manifest
    digests = {graph_digest(manifest, component) for component in manifest.components.values()}
    assert len(digests) == len(manifest.components)
    unet = manifest.components["unet"]
    more = replace(unet, data=(manifest.components["cross_kv"].file,))
    assert graph_digest(manifest, more) not in digests


def test_the_secret_is_made_once_and_private():
    secret = user_secret()
    assert len(secret) == 32 and user_secret() == secret
    assert secret_path().stat().st_mode & 0o777 == 0o600
    assert files(secret_path().parent) == [".lock", "plan.secret"]


@pytest.mark.parametrize(
    ("content", "mode", "says"),
    [
        (bytes(32), 0o640, "other users may read this secret; run `chmod 600"),
        (bytes(32), 0o604, "other users may read this secret; run `chmod 600"),
        (bytes(31), 0o600, "got 31 bytes, expected a secret of at least 32"),
        (b"", 0o600, "got 0 bytes, expected a secret of at least 32"),
    ],
)
def test_a_secret_that_is_none(store, content, mode, says):
    secret_path().parent.mkdir(parents=True)
    secret_path().write_bytes(content)
    secret_path().chmod(mode)
    with pytest.raises(EngineError, match=says):
        store.build(KEY, make)


def test_a_secret_that_cannot_be_read_or_made(store, tmp_path, monkeypatch):
    monkeypatch.setenv("LATENTRT_PLAN_SECRET", str(tmp_path / "missing"))
    with pytest.raises(EngineError, match=r"or written \(No such file or directory\); set XDG_STATE_HOME"):
        store.build(KEY, make)
    monkeypatch.delenv("LATENTRT_PLAN_SECRET")
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with pytest.raises(EngineError, match="cannot be read or written"):
        store.build(KEY, make)


# Processes are forked from another interpreter, which has imported everything and has one thread.
PROCESSES = """
import os, random, signal, sys, time
from dataclasses import replace
from pathlib import Path
from latentrt.engines.nvidia.plans import PlanStore
from tests.runtime.engines.plans import KEY, PLAN

folder = Path(sys.argv[1])
store = PlanStore(folder / "plans")
"""

CROWD = """
rounds, start = 20, time.monotonic() + 0.2

def make(path):
    with (folder / "made").open("a") as log:
        log.write(f"{round_}\\n")
    with path.open("wb") as file:
        for piece in range(4):
            file.write(PLAN[piece * len(PLAN) // 4 : (piece + 1) * len(PLAN) // 4])
            file.flush()
            time.sleep(0.002)

def look(key):
    opened = store.open(key)
    if opened is not None:
        with opened:
            assert opened.read() == PLAN, "a partial plan was read"
    return opened is not None

children = []
for child in range(8):
    if (pid := os.fork()) == 0:
        for round_ in range(rounds):
            key = replace(KEY, flags=(str(round_),))
            time.sleep(max(0, start + round_ * 0.1 - time.monotonic()))
            if child >= 6:  # these only look, until it is there
                while not look(key):
                    pass
            else:
                assert store.build(key, make).read_bytes() == PLAN
        os._exit(0)
    children.append(pid)
assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 8
"""

KILLED = """
def make(path):
    with path.open("wb") as file:
        for start in range(0, len(PLAN), 1000):
            file.write(PLAN[start : start + 1000])

def until(last):
    calls = 0
    def profile(frame, event, argument):
        nonlocal calls
        calls += 1
        if calls == last:
            os.kill(os.getpid(), signal.SIGKILL)
    sys.setprofile(profile)
    store.build(KEY, make)
    sys.setprofile(None)
    return calls

def remove():
    for path in (folder / "plans").glob(f"{KEY.digest}.*"):
        path.unlink()

until(None)  # the first build also makes the secret
remove()
calls = until(None)
(folder / "plans" / f"{KEY.digest}.plan").write_bytes(b"damaged")
for kill in range(50):
    if (pid := os.fork()) == 0:
        until(calls * kill // 50 + 1)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
    opened = store.open(KEY)
    assert opened is None or opened.read() == PLAN
    assert store.build(KEY, make).read_bytes() == PLAN
    found = sorted(path.name for path in (folder / "plans").iterdir())
    assert found == [".lock", f"{KEY.digest}.json", f"{KEY.digest}.plan"], found
    remove()
print(calls)
"""


def run(code, folder):
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", PROCESSES + code, str(folder)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.sweep
def test_eight_processes_twenty_rounds(tmp_path):
    """Six processes build and two read: each plan is built once, and no process reads a partial plan."""
    run(CROWD, tmp_path)
    assert (tmp_path / "made").read_text().split() == [str(round_) for round_ in range(20)]
    assert len(list((tmp_path / "plans").glob("*.plan"))) == 20


@pytest.mark.sweep
def test_fifty_builds_are_killed(tmp_path):
    """Killed at fifty points of a build; the next run finds no plan or a complete one, and builds if needed."""
    assert int(run(KILLED, tmp_path)) > 100
