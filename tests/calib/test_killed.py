"""`latentrt calibrate` killed again and again: no bundle is to be seen before it is whole, the same in every byte."""

import os
import signal
import subprocess
import sys

import pytest

from latentrt.cli import INTERRUPTED
from tests.calib.small import OPTIONS, digests

# What it says when a stage begins, and how it is stopped there; then it is begun anew.
STOPS = (
    ("recording image 2", signal.SIGKILL),
    ("observing unet", signal.SIGINT),
    ("measuring", signal.SIGKILL),
    ("observing vae_decoder", signal.SIGKILL),
)
STATUS = {signal.SIGKILL: -signal.SIGKILL, signal.SIGINT: INTERRUPTED}


def one_core():
    """The fixture's bundle was made with one thread."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


@pytest.fixture
def begin(bundle, tmp_path):
    """Starts the command."""
    files = {"prompts": OPTIONS.calibration, "evaluation": OPTIONS.evaluation}
    options = [f"--budget={OPTIONS.budget_db}", f"--vae-gate={OPTIONS.vae_gate_db}"]
    options += [f"--{name}={getattr(OPTIONS, name)}" for name in ("images", "steps", "evaluations")]
    for name, prompts in files.items():
        (tmp_path / name).write_text("\n".join(prompts))
        options.append(f"--{name}={tmp_path / name}")
    command = [sys.executable, "-m", "latentrt", "calibrate", bundle, tmp_path / "out" / "cpu", *options]
    return lambda: subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=one_core)


def stop_at(process, stage, how):
    """Sends the signal once the process says that the stage begins; returns its exit status and what it said after."""
    with process:
        for line in process.stderr:
            if line.startswith(stage):
                process.send_signal(how)
                rest = process.stderr.read()
                return process.wait(), rest
    pytest.fail(f"it ended before {stage!r}")


def test_killed_and_interrupted_it_ends_with_the_same_bytes(begin, quantized, tmp_path):
    for stage, how in STOPS:
        status, said = stop_at(begin(), stage, how)
        assert status == STATUS[how] and "Traceback" not in said
        assert [path.name for path in (tmp_path / "out").iterdir()] == [".cpu.calibration"], stage
    with begin() as last:
        _, said = last.communicate()
    assert last.returncode == 0, said
    assert "recording image" not in said and "observing unet" not in said, "both were kept"
    assert digests(tmp_path / "out" / "cpu") == digests(quantized[0])
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["cpu"]
