"""The command `latentrt bench`; it needs no packages beyond those of the runtime."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from latentrt.cli import main
from latentrt.engines import ENGINES
from latentrt.pipeline.memory import Budget
from tests.runtime.fake import pipeline_of
from tests.runtime.report.pages import check_stands_alone

# RuntimeError, which no `except ImportError` catches.
BENCH_WITHOUT = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "diffusers", "transformers", "onnx", "onnx_ir", "onnxscript"):
            raise RuntimeError(f"{name} is imported by bench")

sys.meta_path.insert(0, Refuse())
sys.argv = "latentrt bench emoji --steps 1 --size 64x64 --runs 2 --warmups 1 --out a.json --out a.html".split()
from latentrt.bench import measure
from latentrt.cli import main
measure.WARM_LOADS = 1
main()
"""


@pytest.fixture
def here(tmp_path, monkeypatch, bundle):
    """Runs the command in this process, in an empty folder, with a fake "emoji"."""
    monkeypatch.chdir(tmp_path)

    def opened(_name, *, engine, split_guidance, memory_budget, verify=True):
        pipeline = pipeline_of(bundle, [], split_guidance=split_guidance)
        if memory_budget is not None:
            pipeline.budget = Budget(memory_budget, dict.fromkeys(pipeline.engines, ENGINES["onnxruntime"].memory))
        return pipeline

    monkeypatch.setattr("latentrt.bench.benchmark.load", opened)

    def main_of(*arguments):
        monkeypatch.setattr("sys.argv", ["latentrt", "bench", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code or 0

    return main_of


SMALL = ("--runs", 2, "--warmups", 1)


def test_a_sweep_is_every_combination(here, capsys):
    assert here("emoji", *SMALL, "--steps", "1,2", "--batch", "1,2", "--size", "16x16,24x16", "--json") == 0
    report = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    settings = [case["settings"] for case in report["cases"]]
    found = [(one["width"], one["batch"], one["steps"]) for one in settings]
    assert found == [(16, 1, 1), (16, 1, 2), (16, 2, 1), (16, 2, 2), (24, 1, 1), (24, 1, 2), (24, 2, 1), (24, 2, 2)]
    assert all(len(case["samples"]) == 2 for case in report["cases"])
    assert not [*Path().iterdir()]


def test_options_reach_the_requests(here, capsys):
    assert here("emoji", *SMALL, "--steps", 2, "--size", "16x16", "--sampler", "heun", "--guidance", 1, "--json") == 0
    (case,) = json.loads(capsys.readouterr().out)["cases"]
    assert (case["settings"]["sampler"], case["settings"]["unet_rows"]) == ("heun", 1)


@pytest.mark.parametrize(("split", "rows"), [((), 4), (("--split-guidance",), 2)])
def test_a_guided_call_has_two_rows_a_picture_unless_they_are_split(here, capsys, split, rows):
    assert here("emoji", *SMALL, "--steps", 1, "--size", "16x16", "--batch", 2, *split, "--json") == 0
    assert json.loads(capsys.readouterr().out)["cases"][0]["settings"]["unet_rows"] == rows


def test_a_budget_is_kept_to_and_shown_beside_what_was_reckoned(here, capsys):
    options = ("emoji", *SMALL, "--steps", 1, "--size", "16x16", "--json", "--memory-budget")
    assert here(*options, 100) == 0
    (case,) = json.loads(capsys.readouterr().out)["cases"]
    assert (case["settings"]["memory_budget"], case["settings"]["in_turn"]) == (100_000_000_000, False)
    most = case["memory"]["reckoned"]
    assert here(*options, (most - 1) / 1e9) == 0
    (case,) = json.loads(capsys.readouterr().out)["cases"]
    assert (case["settings"]["unet_rows"], case["settings"]["in_turn"]) != (2, False)
    assert case["memory"]["reckoned"] < most


def test_files_are_written_beside_the_table(here, capsys):
    names = ["a.json", "a.jsonl", "a.csv", "a.md", "a.html"]
    assert here("emoji", *SMALL, "--size", "16x16", *(word for name in names for word in ("--out", name))) == 0
    out = capsys.readouterr().out
    assert out == Path("a.md").read_text() and "| total " in out
    check_stands_alone(Path("a.html").read_text(encoding="utf-8"))
    assert sorted(path.name for path in Path().iterdir()) == sorted(names)


def test_compare_refuses_what_is_not_valid_and_shows_it_when_forced(here, capsys):
    assert here("emoji", *SMALL, "--size", "16x16", "--out", "a.json") == 0
    capsys.readouterr()
    assert here("compare", "a.json", "a.json") == 2
    out, err = capsys.readouterr()
    assert out == "" and "the first is INVALID: few" in err and "--force" in err
    assert here("compare", "a.json", "a.json", "--force") == 0
    assert "| total" in capsys.readouterr().out
    assert here("compare", "a.json", "a.json", "--force", "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["phases"]["total"]["ratio"] == 1


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (("emoji", "--runs", "0"), 2, "runs: got 0"),
        (("emoji", "--warmups", "0"), 2, "warmups: got 0"),
        (("emoji", "--steps", "4,x"), 2, "whole numbers with commas"),
        (("emoji", "--size", "512"), 2, "768x512"),
        (("emoji", "--steps", "4,0"), 2, "steps: got 0"),
        (("emoji", "--out", "a.png"), 7, "expected one of .json"),
        (("emoji", "--out", "no/a.json"), 7, "mkdir -p no"),
        (("emoji", "--engine", "magic"), 4, "expected one of auto, cpu"),
        (("emoji", "--memory-budget", "0"), 2, "not in the range"),
        (("emoji", "--memory-budget", "0.001"), 4, "memory budget: got 0.00 GB, expected at least"),
        (("emoji", "--memory-budget", "0.5", "--size", "64x64,2048x2048"), 4, "fits"),
        (("emoji", "--prompt", "(a"), 2, "prompt"),
        (("none",), 3, "latentrt export"),
        (("compare", "a.json", "b.json"), 2, "does not exist"),
    ],
)
def test_mistakes_are_found_before_anything_is_timed(here, capsys, options, status, said):
    assert here(*options) == status
    out, err = capsys.readouterr()
    assert out == "" and said in err and "Traceback" not in err
    assert not [*Path().iterdir()]


def test_the_built_in_model_is_timed_without_torch(tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", BENCH_WITHOUT], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (case,) = json.loads((tmp_path / "a.json").read_text())["cases"]
    components = {"text_encoder", "cross_kv", "time_bias", "unet", "vae_decoder"}
    assert case["loading"]["cold"].keys() == {"bundle", *components} and components < case["first"]["phases"].keys()
    assert case["memory"]["peak"] > case["memory"]["before"] > 10_000_000
    assert case["statistics"]["unet, first step"]["min"] > 0 and "INVALID: 2 samples" in done.stdout
