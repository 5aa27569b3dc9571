"""The command line as a user meets it: processes, exit statuses, stdout as data, stderr as talk."""

import json
import os
import subprocess
import sys

import pytest
from PIL import Image

COMMANDS = ("generate", "export", "inspect", "verify", "doctor")


def run(*arguments, cwd, **environment):
    command = [sys.executable, "-m", "latentrt", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    done = run(
        "generate", "a red apple", "--seed", 0, "--steps", 2, "--size", "96x64", "--out", "a.png", "--json", cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return folder, done


def test_generate_prints_json_on_stdout_and_writes_the_picture(drawn):
    folder, done = drawn
    report = json.loads(done.stdout)
    assert report["files"] == ["a.png"]
    assert report["settings"]["seeds"] == [0]
    assert report["seconds"].keys() == {"text_encoder", "steps", "vae_decoder"}
    with Image.open(folder / "a.png") as picture:
        assert picture.size == (96, 64)
    assert [path.name for path in folder.iterdir()] == ["a.png"]


def test_inspect_tells_how_a_picture_was_made(drawn):
    folder, _ = drawn
    record = json.loads(run("inspect", "a.png", "--json", cwd=folder).stdout)
    assert (record["prompt"], record["seed"], record["steps"], record["width"]) == ("a red apple", 0, 2, 96)
    assert "a red apple" in run("inspect", "a.png", cwd=folder).stdout


def test_a_batch_is_numbered_and_without_out_named_by_seed(tmp_path):
    one = ("generate", "a tree", "--steps", 1, "--batch", 2, "--seed", 5)
    assert run(*one, "--out", "t.png", cwd=tmp_path).stdout.split() == ["t-0.png", "t-1.png"]
    assert run(*one, cwd=tmp_path).stdout.split() == ["5.png", "6.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["5.png", "6.png", "t-0.png", "t-1.png"]


def test_no_metadata_leaves_the_picture_without_any(tmp_path):
    assert run("generate", "x", "--steps", 1, "--out", "x.png", "--no-metadata", cwd=tmp_path).returncode == 0
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.text == {}
    done = run("inspect", "x.png", cwd=tmp_path)
    assert done.returncode == 2 and "no generation data" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["generate", "x", "--size", "100x64"], 2, "the nearest are 96 or 104"),
        (["generate", "x", "--size", "wide"], 2, "768x512"),
        (["generate", "x", "--steps", "0"], 2, "from 1 to 1000"),
        (["generate", "x", "--sampler", "magic"], 2, "expected one of ddim"),
        (["generate", "x", "--out", "x.jpg"], 2, "ends in .png"),
        (["generate", "x", "--out", "no/x.png"], 2, "mkdir -p no"),
        (["generate", "x", "--bundle", "nowhere"], 3, "latentrt export"),
        (["generate", "x", "--engine", "warp"], 4, "expected one of cpu"),
        (["generate"], 2, "Missing argument"),
        (["verify", "nowhere"], 3, "latentrt export"),
        (["inspect", "nowhere.png"], 2, "nowhere.png"),
    ],
)
def test_mistakes_are_one_message_a_status_and_no_file(tmp_path, arguments, status, said):
    done = run(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (status, "")
    assert said in done.stderr and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_verify_and_inspect_know_the_built_in_model(tmp_path):
    assert "all as exported" in run("verify", "emoji", cwd=tmp_path).stdout
    report = json.loads(run("verify", "emoji", "--json", cwd=tmp_path).stdout)
    manifest = json.loads(run("inspect", "emoji", "--json", cwd=tmp_path).stdout)
    assert report["sha256"] == manifest["sha256"] and report["files"] == len(manifest["files"])
    assert "zero terminal SNR" in run("inspect", "emoji", cwd=tmp_path).stdout


def test_doctor_reports_what_is_installed(tmp_path):
    found = json.loads(run("doctor", "--json", cwd=tmp_path).stdout)
    assert found["engines"]["cpu"]["installed"] and found["models"] == ["emoji"]
    assert "onnxruntime" in run("doctor", cwd=tmp_path).stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_every_option_and_needs_no_numpy(tmp_path, command):
    blocked = "import sys; sys.modules['numpy'] = None; from latentrt.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", blocked, command, "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "--json" in done.stdout


def test_ctrl_c_ends_with_130_and_no_file(tmp_path):
    interrupt = (
        "import latentrt.request as r, latentrt.cli as c\n"
        "def settle(*_): raise KeyboardInterrupt\n"
        "import latentrt.pipeline as p; p.settle = settle; c.main()"
    )
    command = [sys.executable, "-c", interrupt, "generate", "x", "--out", "x.png"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 130 and "cancelled" in done.stderr
    assert list(tmp_path.iterdir()) == []
