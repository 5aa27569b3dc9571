"""Systems without POSIX: no module needs what Windows lacks, neither when it is imported nor when it draws."""

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from latentrt.engines import secret
from latentrt.engines.nvidia.plans import PlanStore
from latentrt.storage import atomic
from tests.runtime.engines.plans import KEY, PLAN, make
from tests.runtime.modules import MODULES

WITHOUT_POSIX = """
import os, sys

BLOCKED = ("fcntl", "resource", "pwd", "grp", "termios")

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refuse())
for name in BLOCKED:
    sys.modules.pop(name, None)
import filelock, platformdirs  # which may ask by the system's name, and this one's stays
for name in ("sched_getaffinity", "posix_fadvise", "getuid", "getloadavg", "sysconf", "mkfifo", "link"):
    delattr(os, name)
os.process_cpu_count = os.cpu_count  # as Python has it where there is no affinity
"""
IMPORT = """
import importlib
for name in sys.argv[1:]:
    importlib.import_module(name)
print(*[name for name in BLOCKED if name in sys.modules])
"""
DRAW = """
import latentrt
pipe = latentrt.load("emoji", engine=sys.argv[1])
pipe.generate("a red apple", steps=2, seed=0, width=32, height=32).save(sys.argv[2])
from latentrt.bench.diagnosis import diagnose
diagnose()
"""
HELP = """
from latentrt.cli import main
sys.argv = ["latentrt", *sys.argv[1:]]
main()
"""


def run(code, *arguments, **environment):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_POSIX + code, *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_module_can_be_imported():
    assert run(IMPORT, *MODULES) == "\n"


def test_the_command_line_answers():
    assert "Make pictures and sound" in run(HELP, "--help")
    assert "--sampler" in run(HELP, "generate", "--help")


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_both_engines_draw(emoji, engine, tmp_path):
    homes = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"), str(tmp_path))
    run(DRAW, engine, tmp_path / "a.png", **homes)
    (expected,) = emoji.generate("a red apple", steps=2, seed=0, width=32, height=32).images
    got = np.asarray(Image.open(tmp_path / "a.png"), np.int16)
    assert np.abs(got - np.asarray(expected)).max() <= (0 if engine == "onnxruntime" else 2)
    assert any(tmp_path.rglob("*.blob")) == (engine == "openvino")


def test_plans_are_kept_where_files_have_no_owner_s_bits(tmp_path, monkeypatch):
    """Of Windows: all files can be read by all, as far as their mode says, and no folder can be opened."""
    opened = os.open

    def no_folders(path, flags, *arguments, **options):
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied")
        return opened(path, flags, *arguments, **options)

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    secret.user_secret()
    secret.secret_path().chmod(0o666)
    monkeypatch.setattr(os, "open", no_folders)
    monkeypatch.setattr("latentrt.storage.atomic.WINDOWS", True)
    monkeypatch.setattr("latentrt.engines.secret.WINDOWS", True)
    store = PlanStore(tmp_path / "plans")
    assert store.build(KEY, make).read_bytes() == PLAN and store.find(KEY)
    with atomic.new_folder(tmp_path / "new") as folder:
        (folder / "inside").mkdir()
        (folder / "inside" / "file").write_text("x")
    assert (tmp_path / "new" / "inside" / "file").read_text() == "x"
