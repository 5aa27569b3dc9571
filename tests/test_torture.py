"""Rows of the torture suite with few cases, so that the suite itself stays whole; `make torture` runs all of them."""

import importlib
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from torture.__main__ import ROWS
from torture.corruption import flipped
from torture.tally import Given, Tally

SMALL = {
    "malformed": 240,
    "paths": 1,
    "corruption": 3,
    "disk": 1,
    "races": 3,
    "trust": 20,
    "bombs": 1,
    "infotext": 40,
    "audit": 1,
}


@pytest.mark.sweep
@pytest.mark.parametrize("name", SMALL)
def test_a_row_finds_no_fault(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own, as it is run by hand."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    part, told = SMALL[name] / max(1, ROWS[name].count), tmp_path / "found.json"
    command = [sys.executable, "-m", "torture", name, "--part", str(part), "--seed", "1", "--json", str(told)]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(told.read_text())[name]
    assert found["cases"] >= SMALL[name] and found["faults"] == []


def test_every_row_has_its_function() -> None:
    for row in ROWS.values():
        module, function = row.run.split(":")
        assert callable(getattr(importlib.import_module(f"torture.{module}"), function))


def test_a_tally_tells_a_crash_from_a_refusal() -> None:
    tally = Tally()
    assert tally.attempt("fine", lambda: 1)
    assert not tally.attempt("a bug", lambda: {}["missing"])
    assert tally.outcomes == {"read": 1, "crashed": 1}
    assert tally.faults == ["a bug: KeyError: 'missing'"]


def test_computing_counts_and_waiting_does_not() -> None:
    tally = Tally()
    assert tally.attempt("waits", lambda: time.sleep(0.1), longest=0.05)
    assert tally.faults == []
    assert tally.attempt("computes", lambda: sum(range(5_000_000)), longest=0.01)
    (fault,) = tally.faults
    assert fault.startswith("computes: computed for ")


def test_a_tally_is_json() -> None:
    tally = Tally(note="of three")
    tally.add("read", fault="")
    tally.add("refused", fault="refused without a reason")
    told = json.loads(json.dumps(tally.record()))
    assert told == {
        "cases": 2,
        "outcomes": {"read": 1, "refused": 1},
        "faults": ["refused without a reason"],
        "note": "of three",
    }


def test_one_bit_is_flipped() -> None:
    content = bytes(range(64))
    changed = flipped(content, Given(0, 1, Path()).random)
    assert sum((a ^ b).bit_count() for a, b in zip(content, changed, strict=True)) == 1
