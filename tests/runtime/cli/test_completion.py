"""Completion in a shell: click's own, asked as each shell's script asks, and the documented line in bash."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = str(Path(sys.executable).with_name("latentrt"))


def asked(shell, *words):
    """The lines that the shell's script gets for these words, the last of them incomplete."""
    place = words[-1] if shell == "fish" else str(len(words))
    environment = {"COMP_WORDS": " ".join(["latentrt", *words]), "COMP_CWORD": place, "COLUMNS": "200"}
    found = subprocess.run(
        [COMMAND],
        env={**os.environ, **environment, "_LATENTRT_COMPLETE": f"{shell}_complete"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert found.stderr == ""
    return found.stdout.splitlines()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["e"], ["encode", "export", "estimate"]),
        (["generate", "--sam"], ["--sampler"]),
        (["generate", "--engine", "open"], ["openvino"]),
        (["generate", "--syntax", "l"], ["lenient"]),
        (["serve", "--engine", "tensor"], ["tensorrt", "tensorrt-rtx"]),
    ],
)
def test_words_are_completed(words, expected):
    assert [line.removeprefix("plain,") for line in asked("bash", *words)] == expected


def test_every_shell_gets_names_in_its_own_form():
    assert asked("zsh", "verif")[:2] == ["plain", "verify"]
    assert asked("fish", "verif")[0].startswith("plain,verify")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_is_one_that_it_can_read(shell):
    script = subprocess.run(
        [COMMAND], env={**os.environ, "_LATENTRT_COMPLETE": f"{shell}_source"}, capture_output=True, text=True
    ).stdout
    assert "_LATENTRT_COMPLETE" in script and f"{shell}_complete" in script
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script, text=True, check=True, timeout=60)


def test_bash_completes():
    line = (
        f'PATH="{Path(COMMAND).parent}:$PATH"; eval "$(_LATENTRT_COMPLETE=bash_source latentrt)"; '
        "COMP_WORDS=(latentrt ver); COMP_CWORD=1; _latentrt_completion latentrt; echo ${COMPREPLY[@]}"
    )
    found = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout == "verify\n"
