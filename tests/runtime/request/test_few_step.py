"""LoRAs distilled for few steps: which files are known, and the settings that they bring."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import latentrt
from latentrt.bundle.catalog import MODELS
from latentrt.bundle.manifest import Manifest
from latentrt.bundle.manifest_json import read
from latentrt.cli import cli
from latentrt.errors import RequestError
from latentrt.pipeline.pipeline import Pipeline
from latentrt.request.few_step import FEW_STEP, few_step_name
from latentrt.request.request import Request
from latentrt.request.settings import Settings, resolve
from tests.runtime.kohya import save_lora

HYPER = "Hyper-SD15-4steps-lora.safetensors"
SMALL: dict[str, Any] = {"seed": 3, "width": 32, "height": 24}


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    found = read((MODELS / "emoji" / "bundle.json").read_bytes())
    return replace(found, defaults=replace(found.defaults, sampler="euler", sigmas="karras"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("loras")
    save_lora(found / HYPER, 0)
    save_lora(found / "lcm-lora-sdv1-5" / "pytorch_lora_weights.safetensors", 1)
    return found


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> Iterator[Pipeline]:
    with latentrt.load("emoji", verify=False, engine="onnxruntime", lora_dir=folder) as opened:
        yield opened


def schedule(settings: Settings) -> tuple[str, Any, int, float, str]:
    found = settings.schedule
    return found.sampler, found.sigmas, found.steps, settings.guidance.scale, found.spacing


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("Hyper-SD15-1step-lora.safetensors", "hyper-sd-1"),
        ("Hyper-SDXL-2steps-lora.safetensors", "hyper-sd-2"),
        ("loras/Hyper-SDXL-8steps-lora.safetensors", "hyper-sd-8"),
        ("Hyper-SD15-12steps-CFG-lora.safetensors", "hyper-sd-cfg-12"),
        ("sdxl_lightning_4step_lora.safetensors", "lightning-4"),
        ("dmd2_sdxl_4step_lora_fp16.safetensors", "dmd2"),
        ("dmd2_sdxl_4step_lora", "dmd2"),
        ("pcm_sdxl_smallcfg_2step_converted.safetensors", "pcm-2"),
        ("pcm_sd15_normalcfg_16step_converted.safetensors", "pcm-cfg-16"),
        ("pcm_sd15_lcmlike_lora_converted.safetensors", "lcm"),
        ("sdxl_lcm_lora.safetensors", "lcm"),
        ("/models/lcm-lora-sdxl/pytorch_lora_weights.safetensors", "lcm"),
        (r"C:\models\TCD-SDXL-LoRA\pytorch_lora_weights.safetensors", "tcd"),
        ("/lcm-lora-sdxl/styles/ink.safetensors", None),  # a folder further up says nothing of the file
        ("Hyper-SDXL-3steps-lora.safetensors", None),  # no such file was published
        ("Hyper-FLUX.1-dev-8steps-lora.safetensors", None),
        ("my-lcm-lora-sdxl.safetensors", None),
        ("lcm-lora-sdxl2.safetensors", None),
        ("", None),
    ],
)
def test_published_files_are_known_by_their_names(file: str, name: str | None) -> None:
    assert few_step_name(file) == name


@pytest.mark.parametrize("name", FEW_STEP)
def test_a_preset_sets_what_the_request_leaves_open(manifest: Manifest, name: str) -> None:
    known = FEW_STEP[name]
    assert schedule(resolve(Request("a", preset=name), manifest)) == (
        *(known.sampler, "normal", known.steps, known.guidance),
        known.spacing or manifest.schedule.spacing,  # type: ignore[union-attr]
    )
    steps = resolve(Request("a", preset=name, steps=6, guidance=1.5), manifest)
    assert (steps.schedule.steps, steps.guidance.scale, steps.schedule.sampler) == (6, 1.5, known.sampler)
    euler = resolve(Request("a", preset=name, sampler="euler_a"), manifest)
    assert schedule(euler) == ("euler_a", "karras", known.steps, known.guidance, "trailing")


def test_a_file_brings_its_settings_by_option_and_by_tag(manifest: Manifest) -> None:
    usual = schedule(resolve(Request("a"), manifest))
    hyper = ("ddim", "normal", 4, 1.0, "trailing")
    assert usual == ("euler", "karras", 20, 2.0, "trailing")
    assert schedule(resolve(Request("a"), manifest, [f"x/{HYPER}", "ink.safetensors"])) == hyper
    assert schedule(resolve(Request("a <lora:Hyper-SD15-4steps-lora:0.8>"), manifest)) == hyper
    for request in (
        Request("a <lora:Hyper-SD15-4steps-lora:0>"),
        Request("a <lora:Hyper-SD15-4steps-lora:1>", preset="none"),
        Request("a <lora:Hyper-SD15-4steps-lora:1>", syntax="plain"),
        Request("a <lora:Hyper-SD15-4steps-lora:x>", syntax="lenient"),
    ):
        assert schedule(resolve(request, manifest)) == usual


def test_files_of_different_settings_are_refused(manifest: Manifest) -> None:
    files = [HYPER, "lcm-lora-sdv1-5.safetensors"]
    with pytest.raises(RequestError, match="got LoRAs made for different settings, hyper-sd-4 and lcm; expected one"):
        resolve(Request("a"), manifest, files)
    assert resolve(Request("a", preset="lcm"), manifest, files).schedule.sampler == "lcm"
    with pytest.raises(RequestError, match="preset: got 'hyper', .* the bundle|preset: got 'hyper', expected"):
        resolve(Request("a", preset="hyper"), manifest, files)


def test_pictures_are_those_of_the_settings_by_hand(pipeline: Pipeline, folder: Path) -> None:
    by_hand = {"sampler": "ddim", "steps": 4, "guidance": 1.0, "spacing": "trailing", "preset": "none", **SMALL}

    def drawn(drawer: Pipeline, prompt: str = "a", **options: Any) -> bytes:
        return drawer.steps(Request(prompt, **options)).latents().tobytes()

    with_file = pipeline.with_loras({folder / HYPER: 1.0})
    assert drawn(with_file, **SMALL) == drawn(with_file, **by_hand)
    assert drawn(pipeline, "a <lora:Hyper-SD15-4steps-lora:1>", **SMALL) == drawn(with_file, **by_hand)
    named = pipeline.with_loras({folder / "lcm-lora-sdv1-5" / "pytorch_lora_weights.safetensors": 1.0})
    assert drawn(named, **SMALL) == drawn(named, **{**by_hand, "sampler": "lcm"})


def test_the_command_says_what_a_file_set(folder: Path, tmp_path: Path) -> None:
    command = ["generate", "a", "--lora", str(folder / HYPER), "--size", "32x24", "--out", str(tmp_path / "a.png")]
    done = CliRunner().invoke(cli, command)
    assert done.exit_code == 0, done.output
    assert f"{HYPER}: --steps 4 --guidance 1 --sampler ddim --sigmas normal --spacing trailing" in done.stderr
    assert "4 steps" in done.stderr
    none = CliRunner().invoke(cli, [*command, "--preset", "none", "--steps", "1"])
    assert none.exit_code == 0 and HYPER not in none.stderr
