"""Nothing phones home: no connection is tried, and the home folder holds nothing afterwards but what docs/privacy.md
names."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from latentrt.engines import telemetry
from tests.sweep import rest_swept

ROOT = Path(__file__).parents[2]
FOLDERS = ("runtime", "export", "calib", "tests", "benchmarks", "examples", "emoji", "torture")
# Audit hooks are inherited by what a process forks. Native code that asks no Python shows in the home folder, and to
# `python -m benchmarks.quiet`.
REFUSE = """
import os, sys

REACHING = ("connect", "getaddrinfo", "gethostbyname", "gethostbyaddr", "sendto", "sendmsg")

def refuse(event, arguments):
    if event in [f"socket.{name}" for name in REACHING]:
        with open(sys.argv[1], "a") as file:
            print(event, arguments, file=file)
        raise OSError(event)

sys.addaudithook(refuse)
"""
DRAW = """
import latentrt
from latentrt.engines import autoselect
autoselect.TURNS = 1
latentrt.load("emoji", engine=sys.argv[2]).generate("a red apple", steps=1, seed=0, width=16, height=16)
from latentrt.bench.diagnosis import diagnose
diagnose()
"""
CACHES = {
    "onnxruntime": set(),
    "openvino": {".cache/latentrt/openvino", ".local/state/latentrt"},
    "auto": {".cache/latentrt/openvino", ".cache/latentrt/fastest", ".local/state/latentrt"},
}


def run(code, folder, *arguments):
    """Runs a program that refuses connections, in an empty home folder; returns what it tried, and what it left."""
    home, tried = folder / "home", folder / "tried"
    home.mkdir()
    tried.touch()
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}  # nothing that tells of CI
    program = [sys.executable, "-c", REFUSE + code, str(tried), *arguments]
    done = subprocess.run(program, env=kept | {"HOME": str(home)}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    files = [path.relative_to(home) for path in home.rglob("*") if path.is_file()]
    return tried.read_text(), {"/".join(file.parts[:3]) for file in files}


@pytest.mark.parametrize("engine", rest_swept(CACHES, ["onnxruntime", "openvino"]))
def test_drawing_connects_to_nothing_and_leaves_only_its_caches(engine, tmp_path):
    assert run(DRAW, tmp_path, engine) == ("", CACHES[engine])


@pytest.mark.parametrize("package", ["latentrt_export", "latentrt_calib"])
def test_what_exports_and_calibrates_is_as_quiet(package, tmp_path):
    code = f"import {package}, onnxruntime"
    assert run(code, tmp_path) == ("", set())


def test_the_refusal_sees_connections(tmp_path):
    code = "import socket\ntry: socket.create_connection(('localhost', 9), 1)\nexcept OSError: pass"
    assert "socket.getaddrinfo" in run(code, tmp_path)[0]


def test_a_program_s_own_choice_stays(monkeypatch):
    monkeypatch.setenv(telemetry.VARIABLE, "0")
    telemetry.silence()
    assert os.environ[telemetry.VARIABLE] == "0"
    monkeypatch.delenv(telemetry.VARIABLE)
    telemetry.silence()
    assert os.environ[telemetry.VARIABLE] == "1"


def test_a_reporter_that_was_there_is_there_again(tmp_path):
    code = (
        "import types\nown = sys.modules['openvino_telemetry'] = types.ModuleType('openvino_telemetry')\n"
        "from latentrt.engines.telemetry import openvino\nopenvino()\nassert sys.modules['openvino_telemetry'] is own\n"
        "assert 'telemetry_stub' in sys.modules['openvino.tools.ovc.telemetry_utils'].tm.__name__"
    )
    assert run(code, tmp_path) == ("", set())


def test_importing_latentrt_changes_no_variable(tmp_path):
    run(
        "before = dict(os.environ)\nimport latentrt, latentrt.pipeline.pipeline\nassert dict(os.environ) == before",
        tmp_path,
    )


def test_openvino_is_imported_in_one_place():
    """Besides, by benchmarks that run without this package, each after the same line."""
    found = set()
    for path in (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(source)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.partition(".")[0] in ("openvino", "openvino_genai") for name in names):
                found.add(path.name)
                assert source.index('"openvino_telemetry"') < source.index(
                    "import openvino\n" if "call" in path.name else "import openvino_genai"
                )
    assert found == {"call_graph.py", "genai_driver.py"}
