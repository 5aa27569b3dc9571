"""The command: what it refuses, and how its process starts and stops."""

from __future__ import annotations

import signal
import subprocess
import sys

import httpx
import pytest
from click.testing import CliRunner

from benchmarks.serve import ask, served
from latentrt_serve.cli.serve import serve


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "which others can reach, without a key"),
        (["--host", "example.org"], "without a key"),
        (["--queue", "0"], "--queue: got 0, expected at least 1"),
        (["--max-steps", "0"], "--max-steps: got 0"),
        (["emoji", "emoji"], "two of the name 'emoji'"),
        (["nowhere"], "nowhere: got neither a folder nor the name of a built-in model"),
        (["--models", "."], "has no bundle"),
    ],
)
def test_what_cannot_be_served_is_refused(arguments, message):
    found = CliRunner().invoke(serve, arguments)
    assert found.exit_code != 0
    assert message in str(found.exception)


def test_what_a_killed_export_left_is_not_served(tmp_path):
    (tmp_path / ".one.0123456789abcdef").mkdir()
    (tmp_path / ".one.0123456789abcdef" / "bundle.json").write_text("{}")
    found = CliRunner().invoke(serve, ["--models", str(tmp_path)])
    assert "has no bundle" in str(found.exception)


def test_sigterm_finishes_what_was_begun():
    with served("--batch", "1") as server:
        with httpx.Client() as client:
            assert ask(client, server, 1).status_code == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0


def test_the_runtime_does_not_need_the_server():
    code = "import sys, latentrt.cli as _; sys.exit(any('fastapi' in name or '_serve' in name for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
