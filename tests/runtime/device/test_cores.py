"""Processor cores that this process may use."""

import os
from pathlib import Path

import pytest

from latentrt.device import cores as device_cores


@pytest.mark.parametrize(
    ("affinity", "quota", "cores"), [(8, 1 << 16, 8), (8, 2, 2), (1, 4, 1), (4, 4, 4), (4, 0, 1), (4, -1, 1)]
)
def test_threads_are_the_cores_that_may_be_used(
    monkeypatch: pytest.MonkeyPatch, affinity: int, quota: int, cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(affinity)))
    monkeypatch.setattr(device_cores, "quota", lambda: quota)
    assert device_cores.usable_cores() == cores


def test_threads_where_there_is_no_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert device_cores.usable_cores() == 1


@pytest.mark.parametrize(
    ("text", "cores"),
    [("max 100000\n", 1 << 16), ("200000 100000\n", 2), ("150000 100000\n", 2), ("1000 100000\n", 1), ("", 1 << 16)],
)
def test_the_quota_of_a_control_group(monkeypatch: pytest.MonkeyPatch, text: str, cores: int) -> None:
    monkeypatch.setattr(Path, "read_text", lambda path: text)
    assert device_cores.quota() == cores


def test_no_quota_where_there_are_no_control_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: Path) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", missing)
    assert device_cores.quota() == 1 << 16
