"""The command `latentrt compare`; it needs no packages beyond those of the runtime."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from latentrt.cli import main
from tests.runtime.fake import pipeline_of

SMALL = ("--images", "2", "--steps", "2")

# RuntimeError, which no `except ImportError` catches.
COMPARE_WITHOUT = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "diffusers", "transformers", "onnx", "onnx_ir", "onnxscript"):
            raise RuntimeError(f"{name} is imported by compare")

sys.meta_path.insert(0, Refuse())
sys.argv = ["latentrt", "compare", "emoji", "emoji", "--images", "1", "--steps", "1", "--html", "page.html"]
from latentrt.cli import main
main()
"""


@pytest.fixture
def here(tmp_path, monkeypatch, bundle):
    """Runs the command in this process, in an empty folder; "emoji" and "other" are fakes that differ a little."""
    monkeypatch.chdir(tmp_path)
    schedule = replace(bundle.manifest.schedule, beta_end=bundle.manifest.schedule.beta_end * 1.1)
    other = replace(bundle, manifest=replace(bundle.manifest, name="other", schedule=schedule))
    bundles = {"emoji": bundle, "other": other}
    monkeypatch.setattr("latentrt_calib.evaluate.compare.load", lambda name, engine: pipeline_of(bundles[name], []))

    def main_of(*arguments):
        monkeypatch.setattr("sys.argv", ["latentrt", "compare", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code or 0

    return main_of


def test_json_is_the_comparison(here, capsys):
    assert here("emoji", "other", *SMALL, "--seed", "5", "--json") == 0
    report = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert (report["reference"]["name"], report["other"]["name"]) == ("emoji", "other")
    assert [pair["seed"] for pair in report["pairs"]] == [5, 6]
    assert report["loss"]["pictures"] == 2 and len(report["loss"]["latents_error"]) == 2
    assert report["loss"]["worst_psnr_db"] <= report["loss"]["psnr_db"]
    assert not [*Path().iterdir()]


def test_options_reach_the_requests(here, capsys):
    assert here("emoji", "other", *SMALL, "--guidance", "2", "--sampler", "euler", "--json") == 0
    settings = json.loads(capsys.readouterr().out)["settings"]
    assert (settings["steps"], settings["guidance"], settings["sampler"]) == (2, 2.0, "euler")


def test_the_figures_are_lines_and_the_page_is_a_file(here, capsys):
    assert here("emoji", "other", *SMALL, "--html", "page.html") == 0
    out = capsys.readouterr().out
    assert "PSNR" in out and "worst" in out and out.endswith("page.html\n")
    assert Path("page.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert [path.name for path in Path().iterdir()] == ["page.html"]


def test_equal_bundles_are_said_to_be_equal_and_pass_every_gate(here, capsys):
    assert here("emoji", "emoji", *SMALL, "--min-psnr", "100", "--min-worst", "100") == 0
    assert "all pictures are equal" in capsys.readouterr().out


@pytest.mark.parametrize(("option", "name"), [("--min-psnr", "mean"), ("--min-worst", "worst")])
def test_under_a_gate_the_report_is_still_printed(here, capsys, option, name):
    assert here("emoji", "other", *SMALL, option, "0", "--json") == 0
    capsys.readouterr()
    assert here("emoji", "other", *SMALL, option, "200", "--json", "--html", "page.html") == 6
    out, err = capsys.readouterr()
    assert json.loads(out)["loss"]["pictures"] == 2
    assert err.startswith(f"error: {name} PSNR: got ") and "expected at least 200 dB" in err
    assert "Under the gate" in Path("page.html").read_text(encoding="utf-8")


def test_own_prompts(here, capsys):
    Path("own.txt").write_text("# mine\n\na blue door\n", encoding="utf-8")
    assert here("emoji", "other", *SMALL, "--prompts", "own.txt", "--json") == 0
    assert [pair["prompt"] for pair in json.loads(capsys.readouterr().out)["pairs"]] == ["a blue door"] * 2


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (("--images", "0"), 2, "images: got 0, expected at least 1"),
        (("--steps", "0"), 2, "steps: got 0"),
        (("--prompts", "none.txt"), 2, "none.txt"),
        (("--sampler", "magic"), 2, "expected one of ddim"),
        (("--html", "no/page.html"), 7, "mkdir -p no"),
        (("--min-psnr", "high"), 2, "not a valid float"),
    ],
)
def test_mistakes_are_found_before_anything_is_drawn(here, capsys, options, status, said):
    assert here("emoji", "other", *options) == status
    out, err = capsys.readouterr()
    assert out == "" and said in err and "Traceback" not in err
    assert not [*Path().iterdir()]


def test_no_bundle_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["latentrt", "compare", "emoji", str(tmp_path / "none")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 3 and "latentrt export" in capsys.readouterr().err


def test_compare_needs_no_more_than_running_does(tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", COMPARE_WITHOUT], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "all pictures are equal" in done.stdout and (tmp_path / "page.html").is_file()
