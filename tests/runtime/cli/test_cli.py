"""The command line: processes, exit statuses, data on stdout, messages on stderr."""

import errno
import io
import json
import os
import re
import subprocess
import sys
from dataclasses import fields
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from latentrt.cli import main
from latentrt.cli.parsing import control_of
from latentrt.request.control import Control
from latentrt.request.request import Request
from tests.runtime.fake import named, pipeline_of

SMALL = ("--json", "--size", "32x24", "--out", "x.png")
COMMANDS = ("generate", "upscale", "audio", "export", "inspect", "compare", "estimate", "verify", "doctor", "models")


def run(*arguments, cwd, **environment):
    command = [sys.executable, "-m", "latentrt", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True)


@pytest.fixture
def here(tmp_path, monkeypatch, bundle, calls):
    """Runs the command line in this process, on fake engines and in an empty folder; returns its exit status."""
    monkeypatch.chdir(tmp_path)
    fake = partial(pipeline_of, bundle, calls)
    monkeypatch.setattr(
        "latentrt.pipeline.load.load", lambda _bundle, engine, memory_budget, lora_dir, **options: fake(**options)
    )

    def main_of(*arguments):
        monkeypatch.setattr("sys.argv", ["latentrt", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code or 0

    return main_of


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
    assert {"text_encoder", "cross_kv", "time_bias", "unet", "vae_decoder"} < report["seconds"].keys()
    with Image.open(folder / "a.png") as picture:
        assert picture.size == (96, 64)
    assert [path.name for path in folder.iterdir()] == ["a.png"]


@pytest.mark.parametrize(("words", "begins"), [(["--show", "kitty"], "\x1b_G"), (["--show"], "\x1b[38;2;")])
def test_show_draws_on_stderr(here, capsys, monkeypatch, words, begins):
    for name in ("KITTY_WINDOW_ID", "TERM_PROGRAM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert here("generate", "a red apple", *words, "--steps", "1", "--size", "64x64", "--out", "a.png") == 0
    told = capsys.readouterr()
    assert told.out == "a.png\n" and begins in told.err


def test_inspect_tells_how_a_picture_was_made(drawn):
    folder, _ = drawn
    record = json.loads(run("inspect", "a.png", "--json", cwd=folder).stdout)
    assert (record["prompt"], record["seed"], record["steps"], record["width"]) == ("a red apple", 0, 2, 96)
    assert "a red apple" in run("inspect", "a.png", cwd=folder).stdout


def test_a_batch_is_numbered_and_without_out_named_by_seed(here, capsys, tmp_path):
    one = ("generate", "a tree", "--steps", "1", "--batch", "2", "--seed", "5", "--size", "32x24")
    assert here(*one, "--out", "t.png") == 0
    assert capsys.readouterr().out.split() == ["t-0.png", "t-1.png"]
    assert here(*one) == 0
    assert capsys.readouterr().out.split() == ["5.png", "6.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["5.png", "6.png", "t-0.png", "t-1.png"]


@pytest.mark.parametrize("seed", [(), ("--seed", "-1")])
def test_a_random_seed_is_told_and_noted(here, capsys, seed):
    one = ("generate", "a tree", "--steps", "1", "--size", "32x24", *seed)
    assert here(*one, "--out", "t.webp") == 0
    out, err = capsys.readouterr()
    assert here("inspect", "t.webp", "--json") == 0
    assert out == "t.webp\n"
    assert re.fullmatch(rf"seed {json.loads(capsys.readouterr().out)['seed']}, 1 step, \d+\.\d s\n", err)
    assert here(*one) == 0
    out, err = capsys.readouterr()
    assert out.removesuffix(".png\n").isdecimal() and re.fullmatch(r"1 step, \d+\.\d s\n", err)
    assert here(*one, "--json", "--out", "t.png") == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["settings"]["seeds"][0] >= 0 and err == ""


def test_prompts_come_from_stdin(here, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a tree\n# no\na palm\n")))
    assert here("generate", "--prompts", "-", "--steps", "1", "--size", "32x24", "--seed", "5") == 0
    assert capsys.readouterr().out.split() == ["0-5.png", "1-5.png"]


@pytest.mark.parametrize("name", ["canny:v2.png", "edges.png:0.8", "a:0.5:0:1"])
def test_images_of_controls_may_have_colons(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path(name).touch()
    assert control_of(f"canny={name}") == Control("canny", name)
    assert control_of(f"canny={name}:0.25") == Control("canny", name, 0.25)
    assert control_of(f"canny={name}:0.25:0:0.5") == Control("canny", name, 0.25, 0.0, 0.5)


def test_variations_of_one_seed_do_not_overwrite_each_other(here, capsys, tmp_path):
    varied = ("--seed", "5", "--variation-seed", "9", "--variation-strength", "0.5")
    assert here("generate", "a tree", "--steps", "1", "--batch", "3", "--size", "32x24", *varied) == 0
    assert capsys.readouterr().out.split() == ["5-9.png", "5-10.png", "5-11.png"]
    assert len(list(tmp_path.iterdir())) == 3


def test_no_metadata_leaves_the_picture_without_any(here, capsys, tmp_path):
    assert here("generate", "x", *SMALL, "--steps", "1", "--no-metadata", "--no-mark") == 0
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.text == {}
    assert here("inspect", "x.png") == 2
    assert "no generation data" in capsys.readouterr().err


def test_fast_decode_needs_a_bundle_with_a_tiny_decoder(here, capsys):
    assert here("generate", "x", *SMALL, "--fast-decode") == 2
    assert "latentrt export --tiny-decoder" in capsys.readouterr().err


def test_every_option_reaches_the_request(tmp_path):
    options = """--negative blue --sigmas 14.6,7,3,1 --guidance 7,7,1,2.5 --guidance-rescale 0.5 --sampler euler_a
        --guidance-interval 0.3,inf --split-guidance --seed 5 --noise cuda --variation-seed 9 --variation-strength 0.25
        --eta 0.5 --clip-skip 2 --syntax lenient --spacing leading --size 32x24 --batch 2 --json
        --window 16 --stride 8 --seamless x --blend blue --blend-strength 0.5"""
    done = run("generate", "a (red:1.2) [apple|pear", *options.split(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout, parse_constant=pytest.fail)
    assert report["settings"] == {
        "prompt": "a (red:1.2) [apple|pear",
        "negative": "blue",
        "steps": 4,
        "guidance": [7.0, 7.0, 1.0, 2.5],
        "seeds": [5, 5],
        "width": 32,
        "height": 24,
        "sampler": "euler_a",
        "sigmas": [14.6, 7.0, 3.0, 1.0],
        "spacing": "leading",
        "syntax": "lenient",
        "guidance_rescale": 0.5,
        "guidance_interval": [0.3, None],
        "image_guidance": None,
        "clip_skip": 2,
        "noise": "cuda",
        "variation_seeds": [9, 10],
        "variation_strength": 0.25,
        "blend": "blue",
        "blend_strength": 0.5,
        "original_size": None,
        "crop": None,
        "target_size": None,
        "aesthetic_score": None,
        "negative_aesthetic_score": None,
        "options": {"eta": 0.5},
        "window": 16,
        "stride": 8,
        "fast_decode": False,
        "lora_tags": "a1111",
        "seamless": "x",
    }


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ("--steps 1 --guidance 7.5", {"guidance": 7.5, "options": {"eta": 0.0}}),
        ("--steps 2 --guidance=-1,2", {"guidance": [-1.0, 2.0]}),
        ("--steps 1 --guidance-interval 0.3,3", {"guidance_interval": [0.3, 3.0]}),
        ("--steps 1 --sampler dpm2 --sigmas karras", {"sigmas": "karras", "sampler": "dpm2"}),
        ("--sigmas 3", {"sigmas": [3.0], "steps": 1}),
        ("--steps 1 --sampler dpmpp_2m --order 3 --solver heun", {"options": {"order": 3, "solver": "heun"}}),
        ("--steps 1 --sampler unipc --order 1 --solver bh1", {"options": {"order": 1, "solver": "bh1"}}),
        ("--steps 1 --sampler tcd --gamma 0.5", {"options": {"gamma": 0.5}}),
        ("--steps 1 --sampler lms --order 2", {"options": {"order": 2}}),
    ],
)
def test_options_are_read_as_they_are_written(here, capsys, options, settings):
    assert here("generate", "x", *SMALL, *options.split()) == 0
    report = json.loads(capsys.readouterr().out)
    assert {key: report["settings"][key] for key in settings} == settings
    assert [path.name for path in Path().iterdir()] == ["x.png"]


def test_a_picture_made_from_an_image_has_its_size(here, capsys):
    assert here("generate", "x", *SMALL, "--steps", "1") == 0
    capsys.readouterr()
    options = ["--init", "x.png", "--strength", "0.5", "--posterior", "sample", "--steps", "2", "--out", "y.png"]
    assert here("generate", "x", *options, "--json") == 0
    settings = json.loads(capsys.readouterr().out)["settings"]
    assert [settings[key] for key in ("width", "height", "strength", "posterior")] == [32, 24, 0.5, "sample"]


FRAMES = ("--steps", "1", "--size", "32x24", "--seed", "5", "--frames", "3", "--to-prompt", "a cat", "--to-seed", "6")


@pytest.mark.parametrize("ending", ["gif", "webp", "apng"])
def test_frames_become_an_animation(here, capsys, tmp_path, ending):
    assert here("generate", "a tree", *FRAMES, "--out", f"x.{ending}", "--per-second", "4") == 0
    assert capsys.readouterr().out.split() == [f"x.{ending}"] and len(list(tmp_path.iterdir())) == 1
    with Image.open(tmp_path / f"x.{ending}") as animation:
        assert (animation.n_frames, animation.size) == (3, (32, 24))
        animation.seek(1)
        animation.load()
        assert animation.info["duration"] == 250


def test_frames_become_files(here, capsys, tmp_path):
    assert here("generate", "a tree", *FRAMES, "--out", "x.png", "--json") == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert [run["files"] for run in runs] == [["x-0.png"], ["x-1.png"], ["x-2.png"]]
    assert [run["settings"]["blend_strength"] for run in runs] == [0.0, 0.5, 1.0]
    assert len(list(tmp_path.iterdir())) == 3


def test_a_file_of_prompts_is_a_batch(here, capsys, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("# trees\na tree\n\na palm\n")
    options = ("--steps", "1", "--size", "32x24", "--seed", "5", "--batch", "2")
    assert here("generate", "--prompts", "prompts.txt", *options, "--json") == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert [run["settings"]["prompt"] for run in runs] == ["a tree", "a palm"]
    assert [run["files"] for run in runs] == [["0-5.png", "0-6.png"], ["1-5.png", "1-6.png"]]
    prompts.write_text("a tree\na (palm")
    assert here("generate", "--prompts", "prompts.txt", *options, "--out", "bad.png") == 2
    assert here("generate", "--prompts", "nowhere.txt") == here("generate", "x", "--prompts", "prompts.txt") == 2
    assert not [*tmp_path.glob("bad*")]


@pytest.mark.parametrize(("options", "split"), [((), False), (("--split-guidance",), True)])
def test_split_guidance_is_the_pipeline_s(here, calls, options, split):
    assert here("generate", "x", *SMALL, "--steps", "1", "--guidance", "4", *options) == 0
    assert len(named(calls, "unet")) == (2 if split else 1)


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_malformed_prompt_is_shown_with_the_place(here, capsys, more):
    assert here("generate", "a (red apple", *more) == 2
    out, err = capsys.readouterr()
    said, shown, pointed = err.splitlines()
    assert said.startswith("error: prompt: character 3: got '(' that is never closed") and "--syntax lenient" in said
    assert (out, shown, pointed) == ("", "  a (red apple", "    ^")
    assert here("generate", "a", "--negative", "b ]", *more) == 2
    said, *place = capsys.readouterr().err.splitlines()
    assert said.startswith("error: negative prompt: character 3: ") and place == ["  b ]", "    ^"]


BAD = [
    ("--steps 0", "from 1 to 1000"),
    ("--sampler magic", "expected one of ddim"),
    ("--sampler flow_euler", "the model's is v_prediction; use ddim"),
    ("--guidance strong", "expected numbers with commas between them"),
    ("--guidance 7, --steps 2", "expected numbers with commas between them"),
    ("--guidance nan", "expected a finite number"),
    ("--guidance 7,1 --steps 3", "expected one per step, or one for all"),
    ("--guidance-interval 3,0.3", "expected the lower sigma first"),
    ("--guidance-interval 3", "expected two sigmas, for example (0.3, 3.0)"),
    ("--guidance-rescale 2", "expected a number from 0 to 1"),
    ("--sigmas linear", "expected one of normal, karras"),
    ("--sigmas 1,3", "expected numbers that fall"),
    ("--sigmas 3,x", "expected numbers with commas between them"),
    ("--sigmas nan,1", "expected one of normal, karras"),
    ("--sigmas 3,1 --steps 4", "expected 2 or nothing"),
    ("--spacing even", "expected one of leading, trailing, linspace"),
    ("--noise gpu", "expected one of cpu, cuda"),
    ("--syntax loose", "expected one of strict, lenient, plain"),
    ("--clip-skip 4", "from 1 to 3"),
    ("--variation-strength 0.5", "give one to turn towards"),
    ("--variation-seed -2 --variation-strength 0.5", "variation_seed: got -2"),
    ("--eta 0.5 --sampler euler", "euler has none; it is for ddim, euler_a"),
    ("--gamma 0.5", "it is for tcd"),
    ("--order 5 --sampler lms", "expected one of 1, 2, 3, 4"),
    ("--solver bh1 --sampler dpmpp_2m", "expected one of midpoint, heun"),
    ("--sampler lcm --steps 60", "at most 50"),
    ("--init nowhere.png", "init: nowhere.png is not a readable image (No such file or directory)"),
    ("--extend 8,wide", "expected whole numbers with commas between them"),
    ("--to-seed 3", "--to-seed: got 3 without --frames"),
    ("--frames 3 --out x.bmp", "expected a name that ends in .png or .jpg or .jpeg or .webp or .gif or .apng"),
    ("--frames 3 --batch 2", "batch: got 2 with frames, expected 1"),
    ("--out x.gif", "expected a name that ends in .png"),
    ("--strength 0.5", "without init; give init too"),
    (f"--seed {2**64 - 1} --batch 2", f"to {2**64 - 2}"),
]


@pytest.mark.parametrize(("options", "said"), BAD, ids=[options for options, _ in BAD])
def test_a_bad_option_is_one_line(here, capsys, options, said):
    assert here("generate", "x", *options.split()) == 2
    out, err = capsys.readouterr()
    *usage, last = err.splitlines()
    assert out == "" and said in last and last.lower().startswith("error: ")
    assert not usage or usage[0].startswith("Usage: ")  # what click itself refuses
    assert not [*Path().iterdir()]


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["generate", "x", "--size", "100x64"], 2, "the nearest are 96 or 104"),
        (["generate", "x", "--bundle", "nowhere"], 3, "latentrt export"),
        (["generate", "x", "--engine", "warp"], 4, "expected one of auto, cpu"),
        (["generate"], 2, "Missing argument"),
    ],
)
def test_mistakes_are_one_message_a_status_and_no_file(tmp_path, arguments, status, said):
    done = run(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (status, "")
    assert said in done.stderr and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["generate", "x", "--size", "wide"], 2, "768x512"),
        (["generate", "x", "--out", "x.bmp"], 2, "ends in .png or .jpg or .jpeg or .webp"),
        (["generate", "x", "--out", "no/x.png"], 7, "mkdir -p no"),
        (["verify", "nowhere"], 3, "latentrt export"),
        (["inspect", "nowhere.png"], 2, "nowhere.png"),
        (["upscale", "x.png", "--out", "y.png"], 2, "Missing option '--bundle'"),
        (["upscale", "x.png", "--out", "y.png", "--bundle", "nowhere"], 3, "latentrt export"),
        (["upscale", "x.png", "--out", "y.png", "--bundle", "emoji"], 2, "expected super-resolution"),
        (["upscale", "x.png", "--out", "y.gif", "--bundle", "emoji"], 2, "ends in .png or .jpg or .jpeg or .webp"),
        (["upscale", "x.png", "--out", "no/y.png", "--bundle", "emoji"], 7, "mkdir -p no"),
    ],
)
def test_other_mistakes_too(here, capsys, arguments, status, said):
    assert here(*arguments) == status
    out, err = capsys.readouterr()
    assert out == "" and said in err and "Traceback" not in err
    assert not [*Path().iterdir()]


@pytest.mark.parametrize(
    "command",
    [
        ("generate", "x", "--out", "x.png"),
        ("inpaint", "a.png", "b.png", "--out", "x.png", "--bundle", "emoji"),
        ("upscale", "a.png", "--out", "x.png", "--bundle", "emoji"),
        ("encode", "a.png", "--out", "x.npy", "--bundle", "emoji"),
        ("decode", "a.npy", "--out", "x.png", "--bundle", "emoji"),
    ],
)
def test_a_folder_that_may_not_be_written_is_refused_first(here, capsys, monkeypatch, command):
    def refused(path, **_):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "touch", refused)
    assert here(*command) == 7
    assert "cannot be written (Permission denied); name a place that you may write to" in capsys.readouterr().err


def test_verify_and_inspect_know_the_built_in_model(here, capsys):
    assert here("verify", "emoji") == here("inspect", "emoji") == 0
    out = capsys.readouterr().out
    assert "all as exported" in out and "zero terminal SNR" in out
    assert here("verify", "emoji", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert here("inspect", "emoji", "--json") == 0
    manifest = json.loads(capsys.readouterr().out)
    assert report["sha256"] == manifest["sha256"] and report["files"] == len(manifest["files"])


def test_doctor_reports_what_is_installed(here, capsys):
    assert here("doctor", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["engines"]["onnxruntime"]["installed"] and found["models"] == ["emoji"]
    assert here("doctor") == 0
    assert "onnxruntime" in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_every_option_and_needs_no_numpy(tmp_path, command):
    blocked = "import sys; sys.modules['numpy'] = None; from latentrt.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", blocked, command, "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "--json" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_the_help_of_generate_has_every_field_of_a_request(tmp_path):
    help = run("generate", "--help", cwd=tmp_path).stdout
    options = {field.name.replace("_", "-") for field in fields(Request)} - {"prompt", "width", "height"}
    options = options - {"start", "end", "latents", "controls", "class-label", "references"} | {
        "class",
        "control",
        "reference",
        "size",
        "split-guidance",
        "refiner",
        "refine-from",
    }
    assert not [option for option in options if f"--{option} " not in help]


def test_ctrl_c_ends_with_130_and_no_file(tmp_path):
    interrupt = (
        "import latentrt.request.request as r, latentrt.cli as c\n"
        "def resolve(*_): raise KeyboardInterrupt\n"
        "import latentrt.pipeline.pipeline as p; p.resolve = resolve; c.main()"
    )
    command = [sys.executable, "-c", interrupt, "generate", "x", "--out", "x.png"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 130 and "cancelled" in done.stderr
    assert list(tmp_path.iterdir()) == []
