"""Help texts of the commands that export, build and estimate: every option in a group, every device by its name."""

import click
import pytest
from click.testing import CliRunner

from latentrt_calib.cli.calibrate import calibrate
from latentrt_calib.cli.compare import compare
from latentrt_export.cli.build import build
from latentrt_export.cli.estimate import estimate
from latentrt_export.cli.export import export
from latentrt_export.estimate.devices import DEVICES


def help_of(command):
    return CliRunner().invoke(command, ["--help"], terminal_width=100).output


@pytest.mark.parametrize("command", [export, build, calibrate, compare], ids=lambda command: command.name)
def test_every_option_is_in_one_group(command):
    options = [param.name for param in command.params if isinstance(param, click.Option)]
    grouped = [name for names in command.groups.values() for name in names]
    assert sorted(grouped) == sorted({*grouped})
    assert {*options} - {*grouped} <= {"as_json"}
    text = help_of(command)
    assert all(f"{title}:" in text for title in command.groups)
    assert all(option in text for param in command.params for option in param.opts if option.startswith("--"))


def test_estimate_lists_every_device():
    text = help_of(estimate)
    assert [name for name in DEVICES if f"{name}," not in text and f"{name}\n" not in text] == []
