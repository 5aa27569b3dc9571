"""The version stands in one place, its section in the changelog; and what a release checks finds what is wrong."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib

from latentrt.version import VERSION
from release.aarch64 import TARGETS, command
from release.dist import differences
from release.extras import EXTRAS, as_numbers, interpreter_of

ROOT = Path(__file__).parents[1]


def test_the_version_has_its_section_below_what_is_to_come():
    titles = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert titles[0] == "Unreleased"
    assert re.fullmatch(rf"{re.escape(VERSION)} - \d{{4}}-\d\d-\d\d", titles[1])


@pytest.mark.parametrize("page", ["README.md", *sorted(str(one.relative_to(ROOT)) for one in ROOT.glob("docs/*.md"))])
def test_no_page_names_a_wheel_by_its_version(page):
    assert re.findall(r"latentrt-\d[\w.]*", (ROOT / page).read_text()) == []


def test_every_extra_of_a_user_is_installed_and_resolved_for_a_release():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(EXTRAS) == set(extras) - {"dev", "docs", "release"}
    assert {name for target in TARGETS for name in target.without} < set(EXTRAS)
    assert "jetson" in list(command(TARGETS[0], "jetson"))


def test_wheels_that_differ_are_told_apart():
    direct = {"same": b"1", "changed": b"1", "forgotten": b"1"}
    lines = list(differences(direct, {"same": b"1", "changed": b"22", "left over": b"1"}))
    assert [line.partition(":")[0] for line in lines] == ["changed", "forgotten", "left over"]
    assert list(differences(direct, dict(direct))) == []


def test_an_interpreter_is_found_that_starts():
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    found = interpreter_of(version)
    assert found is None or subprocess.check_output([found, "-V"], text=True).startswith(f"Python {version}.")
    assert interpreter_of("3.1") is None
    assert as_numbers("3.9") < as_numbers("3.10")
