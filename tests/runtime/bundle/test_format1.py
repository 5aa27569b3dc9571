"""Manifests of format 1: read as those of format 2, and drawn with to the byte."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

import latentrt
from latentrt.bundle.catalog import MODELS
from latentrt.bundle.manifest import FORMAT, Component
from latentrt.bundle.manifest_json import read, write
from latentrt.bundle.sources import GUIDANCE
from latentrt.storage.json_codec import TypedError
from latentrt_export.upgrade import upgrade

EMOJI, FIRST = MODELS / "emoji", Path(__file__).parent / "format1"
SPEC = {"dtype": "float32", "shape": ["batch", 4]}


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """The built-in model as it was exported in format 1: its graphs are the same files, but for step caching's."""
    folder = tmp_path / "old"
    shutil.copytree(EMOJI, folder, ignore=shutil.ignore_patterns("unet_shallow.onnx", "lora_weights.json"))
    shutil.copyfile(FIRST / "bundle.json", folder / "bundle.json")
    return folder


def test_both_forms_draw_the_same_bytes(old: Path) -> None:
    options = {"steps": 2, "seed": 3, "guidance": 4.0, "width": 64, "height": 96}
    pictures = []
    for bundle in ("emoji", old):
        with latentrt.load(bundle, engine="onnxruntime") as pipe:
            pictures.append(pipe.generate("a red [apple|pear] AND a (blue:1.3) cat", **options).images[0].tobytes())
    assert pictures[0] == pictures[1]


def unmeasured(components: Mapping[str, Component]) -> dict[str, Component]:
    """Components without the memory of activations, which an upgrade adds only where graphs can be read."""
    return {name: replace(one, activations=()) for name, one in components.items()}


def test_an_upgrade_writes_format_2_and_touches_no_other_file(old: Path) -> None:
    before = {path: path.read_bytes() for path in old.rglob("*") if path.is_file() and path.name != "bundle.json"}
    opened, changed = upgrade(old)
    assert changed and json.loads((old / "bundle.json").read_bytes())["format"] == FORMAT
    newest = read((EMOJI / "bundle.json").read_bytes()).components
    plain = replace(newest["unet"], outputs=newest["unet"].outputs[:1])
    expected = {**newest, "unet": plain}
    del expected["unet_shallow"]
    assert unmeasured(opened.manifest.components) == unmeasured(expected)
    assert {path: path.read_bytes() for path in before} == before
    assert upgrade(old) == (opened, False)


def changed(**components: list[str]) -> dict:
    """The document with the inputs of some components, by name, and the components if they are new."""
    document = json.loads((FIRST / "bundle.json").read_bytes())
    for name, inputs in components.items():
        one = {**document["components"]["unet"], **document["components"].get(name, {})}
        one["inputs"] = [*one["inputs"], *({"name": key, **SPEC} for key in inputs)]
        document["components"][name] = one
    return document


def test_sources_are_told_from_names() -> None:
    document = changed(time_bias=["guidance", "pooled", "size_ids"], unet=["residual_0", "feature_0", "image_kv_face"])
    manifest = read(json.dumps(document | {"size_ids": ["crop_top", "aesthetic_score"], "shown": ["mask", "image"]}))
    unet = manifest.components["unet"].sources
    assert manifest.request_values == (GUIDANCE, "crop_top", "aesthetic_score") and manifest.embeds_guidance
    assert manifest.extra_channels == ("mask", "image")
    assert [one.channels for one in unet["sample"].extra_channels] == [1, 4]
    assert unet["time_bias"].per == ("prompt", "step") and unet["cross_kv"].per == ("prompt",)
    assert [unet[name].name for name in ("residual_0", "feature_0", "image_kv_face")] == [
        "controlnet",
        "t2i_adapter",
        "image_encoder",
    ]
    assert read(write(manifest)) == manifest


def test_roles_are_told_from_names() -> None:
    manifest = read(json.dumps(changed(hint_edges=[], control_edges=[], adapter_sketch=[])))
    assert manifest.controls == {"edges": "hint_edges", "sketch": "adapter_sketch"}
    assert manifest.networks_of("edges") == {"hint_edges", "control_edges"}
    assert manifest.denoiser == "unet" and {*manifest.hoisted} == {"cross_kv", "time_bias"}


def test_an_input_of_no_known_name_is_refused() -> None:
    with pytest.raises(TypedError, match="components.unet.sources: got .* expected the inputs"):
        read(json.dumps(changed(unet=["riddle"])))
