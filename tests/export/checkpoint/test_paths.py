"""Paths that cannot be used are refused at once, before anything heavy is imported, and by the option's name."""

import errno
import os
import re
import subprocess
import sys

import pytest

from latentrt.bundle.catalog import MODELS
from latentrt.errors import CheckpointError, OutputError
from latentrt_calib import calibrate as calibration
from latentrt_calib.quantize.planning import Recipe
from latentrt_export.checkpoint.paths import KINDS, check_configs, check_there

# The command line, where nothing heavy can be imported.
LIGHT = """
import sys
sys.modules.update(dict.fromkeys(("torch", "diffusers", "transformers", "onnx", "onnx_ir", "onnxruntime")))
from latentrt.cli import main
main()
"""


@pytest.fixture
def emoji():
    return str(MODELS / "emoji")


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["export", "none", "out"], 5, "no checkpoint at none: expected a diffusers folder or"),
        (["export", "a.gguf", "out"], 5, "a.gguf is of type '.gguf', which is quantized"),
        (["export", "a.ckpt", "out"], 5, "a.ckpt is a pickle"),
        (["export", "folder", "folder"], 7, "folder exists"),
        (["export", "folder", "out", "--vae", "none"], 5, "no VAE at none"),
        (["export", "folder", "out", "--tokenizer", "none"], 5, "no tokenizer at none"),
        (["export", "folder", "out", "--configs", "none"], 5, "no configs at none: .* sd15, .*--configs DIR"),
        (["export", "folder", "out", "--lora", "none.safetensors:0.5"], 5, "no LoRA at none.safetensors"),
        (["export", "folder", "out", "--embedding", "none.pt:word", "--allow-pickle"], 5, "no embedding at none.pt"),
        (["export", "folder", "out", "--controlnet", "a=none"], 5, "no ControlNet at none"),
        (["export", "folder", "out", "--t2i-adapter", "a=a.ckpt"], 5, "no T2I-Adapter at a.ckpt"),
        (["export", "folder", "out", "--ip-adapter", "a=folder"], 5, "no IP-Adapter at folder"),
        (["export", "folder", "out", "--image-encoder", "none"], 5, "no image encoder at none"),
        (["export", "folder", "out", "--tiny-decoder", "none"], 5, "no tiny decoder at none"),
        (["build", "none", "--target", "cpu"], 3, "none: got neither a folder"),
        (["build", "folder", "--target", "tensorrt-rtx"], 3, "folder: .*expected a bundle|bundle.json"),
        (["calibrate", "none", "out"], 3, "none: got neither a folder"),
        (["calibrate", "emoji", "out", "--prompts", "none"], 2, "no prompts at none"),
        (["calibrate", "emoji", "folder"], 7, "folder exists"),
        (["compare", "emoji", "emoji", "--prompts", "none"], 2, "no prompts at none"),
        (["estimate", "none"], 3, "none: got neither a folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_path_that_cannot_be_used_ends_the_command_at_once(tmp_path, arguments, status, said):
    (tmp_path / "folder").mkdir()
    for name in ("a.ckpt", "a.gguf"):
        (tmp_path / name).write_bytes(b"x")
    command = [sys.executable, "-c", LIGHT, *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    assert re.search(said, done.stderr), done.stderr
    assert not (tmp_path / "out").exists()


def test_what_is_there_and_of_the_kind_passes(tmp_path):
    (tmp_path / "a.SAFETENSORS").touch()
    (tmp_path / "a.PT").touch()
    for kind in KINDS.values():
        if kind.folder:
            check_there(kind.name, tmp_path)
        if kind.file:
            check_there(kind.name, tmp_path / "a.SAFETENSORS")
            check_there(kind.name, tmp_path / "a.PT", allow_pickle=True)
            with pytest.raises(CheckpointError, match="a.PT is a pickle"):
                check_there(kind.name, tmp_path / "a.PT")
    check_configs(tmp_path)
    check_configs(tmp_path.__class__("sd2-base"))


def test_a_full_disk_under_a_quantization_is_one_error(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(calibration, "evaluator_of", fail)
    options = calibration.CalibrationOptions(("a",), ("a",), Recipe(), images=1, evaluations=1, steps=1)
    with pytest.raises(OutputError, match="q: cannot be written .No space left on device.; free space on that disk"):
        calibration.calibrate("emoji", tmp_path / "q", "int8", options)
    assert not (tmp_path / "q").exists()
