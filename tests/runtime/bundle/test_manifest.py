import json
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest

from latentrt.bundle.catalog import MODELS
from latentrt.bundle.manifest import FORMAT, Manifest
from latentrt.bundle.manifest_json import named_files, read, write
from latentrt.storage.json_codec import TypedError

EMOJI = MODELS / "emoji" / "bundle.json"


@pytest.fixture
def manifest() -> Manifest:
    return read(EMOJI.read_bytes())


def test_the_built_in_manifest_comes_back_byte_for_byte(manifest: Manifest) -> None:
    assert write(manifest).encode() == EMOJI.read_bytes()


def test_writing_and_reading_is_identity(manifest: Manifest) -> None:
    assert read(write(manifest)) == manifest
    assert write(read(write(manifest))) == write(manifest)


def test_text_and_bytes_read_alike(manifest: Manifest) -> None:
    assert read(EMOJI.read_text(encoding="utf-8")) == manifest


def test_any_name_comes_back(manifest: Manifest) -> None:
    document = json.loads(write(manifest))
    document["name"] = 'a "quoted" näme\n\u732b \U0001f34e'
    assert read(json.dumps(document)).name == document["name"]
    assert read(write(read(json.dumps(document)))).name == document["name"]


def test_a_manifest_cannot_be_changed(manifest: Manifest) -> None:
    with pytest.raises(FrozenInstanceError):
        manifest.name = "another"  # type: ignore[misc]


def test_named_files_are_all_that_engines_and_the_tokenizer_read(manifest: Manifest) -> None:
    assert sorted(named_files(manifest)) == sorted(manifest.files)
    assert sorted(named_files(manifest)) == sorted(
        str(path.relative_to(EMOJI.parent))
        for path in Path(EMOJI.parent).rglob("*")
        if path.is_file() and path != EMOJI
    )


def drop_a_row(document: dict[str, Any]) -> None:
    document["latents"]["to_rgb"].pop()


def shorten_a_row(document: dict[str, Any]) -> None:
    document["latents"]["to_rgb"][2].pop()


def set_to(*keys: str | int, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        place: Any = document
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value

    return change


REFUSED: list[tuple[Callable[[dict[str, Any]], None], str]] = [
    (drop_a_row, ".latents.to_rgb: got 4 rows, expected one per channel and one more"),
    (shorten_a_row, ".latents.to_rgb[2]: got 2 items, expected 3"),
    (set_to("text", "layers", value=0), ".text.layers: got 0, expected at least 1"),
    (set_to("latents", "factor", value=0), ".latents.factor: got 0, expected at least 1"),
    (set_to("latents", "channels", value=-4), ".latents.channels: got -4, expected at least 1"),
    (set_to("schedule", "train_steps", value=0), ".schedule.train_steps: got 0, expected at least 1"),
    (set_to("schedule", "prediction", value="v"), ".schedule.prediction: got 'v', expected one of 'epsilon'"),
    (set_to("defaults", "height", value=-8), ".defaults.height: got -8, expected at least 1"),
    (set_to("components", "unet", "file", value="other.onnx"), ".files: other.onnx is used but not listed"),
    (set_to("components", "unet", "data", value=["w.data"]), ".files: w.data is used but not listed"),
    (set_to("tokenizer", "file", value="other.json"), ".files: other.json is used but not listed"),
    (set_to("format", value=FORMAT + 1), f".format: got {FORMAT + 1}, this version of latentrt reads up to {FORMAT}"),
    (set_to("format", value=0), f".format: got 0, expected {FORMAT}"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_does_not_fit_is_named(manifest: Manifest, change: Callable[[dict[str, Any]], None], message: str) -> None:
    document = json.loads(write(manifest))
    change(document)
    with pytest.raises(TypedError) as caught:
        read(json.dumps(document))
    assert str(caught.value).startswith(message)


DEEP = {"name": "deep_features", "dtype": "float32", "shape": ["batch", 8, "height", "width"]}
RESIDUAL = {"name": "residual_0", "dtype": "float32", "shape": ["batch", 8, "height", "width"]}


def with_shallow(document: dict[str, Any]) -> dict[str, Any]:
    """The document, in place, with a shallow UNet, and a ControlNet in long and in short."""
    components = document["components"]
    unet = components["unet"]
    unet["outputs"] = unet["outputs"][:1]
    unet["inputs"].append(RESIDUAL)
    unet["sources"]["residual_0"] = {"kind": "control", "per": ["step", "row"], "name": "controlnet"}
    control = {**unet, "role": "controlnet", "inputs": unet["inputs"][:1], "outputs": [RESIDUAL], "controls": ["canny"]}
    control["sources"] = {}
    shallow = {**unet, "role": "shallow_denoiser", "boundary": 1, "inputs": [unet["inputs"][0], RESIDUAL, DEEP]}
    shallow["sources"] = {name: unet["sources"][name] for name in ("sample", "residual_0")}
    shallow["sources"]["deep_features"] = {"kind": "features", "per": ["step", "row"]}
    components["unet_shallow"] = shallow
    components["control_canny"] = control
    components["control_canny_shallow"] = {**control, "role": "shallow_controlnet"}
    unet["outputs"] = [unet["outputs"][0], DEEP]
    return document


def test_step_caching_comes_back(manifest: Manifest) -> None:
    read_back = read(json.dumps(with_shallow(json.loads(write(manifest)))))
    assert read(write(read_back)) == read_back
    assert read_back.shallow == "unet_shallow"
    assert read_back.components["unet_shallow"].boundary == 1
    assert read_back.networks_of("canny") == {"control_canny", "control_canny_shallow"}


WIDER = {**DEEP, "shape": ["batch", 9, "height", "width"]}
IMAGE = {**RESIDUAL, "name": "image"}
OF_SHALLOW: list[tuple[Callable[[dict[str, Any]], None], str]] = [
    (set_to("unet_shallow", "boundary", value=0), ".unet_shallow.boundary: got 0, expected at least 1"),
    (set_to("unet_shallow", "inputs", 2, value=WIDER), ".unet_shallow.inputs: got 'deep_features', expected what"),
    (
        set_to("unet_shallow", "sources", "deep_features", "kind", value="control"),
        ".unet_shallow.sources: got no sourc",
    ),
    (set_to("unet", "outputs", value=[]), ".unet_shallow.inputs: got 'deep_features', expected what"),
    (
        set_to("control_canny", "controls", value=["hed"]),
        ".control_canny_shallow.controls: got ['canny'], expected thos",
    ),
    (set_to("control_canny_shallow", "outputs", 0, value=IMAGE), ".control_canny_shallow: got 'image', expected what"),
    (set_to("control_canny_shallow", "inputs", 0, value=IMAGE), ".control_canny_shallow: got 'image', expected what"),
    (
        set_to("unet_shallow", "role", value="denoiser"),
        ".control_canny_shallow.controls: got ['canny'], expected those",
    ),
]


@pytest.mark.parametrize(("change", "message"), OF_SHALLOW, ids=[message for _, message in OF_SHALLOW])
def test_step_caching_that_does_not_fit(
    manifest: Manifest, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    document = json.loads(json.dumps(with_shallow(json.loads(write(manifest)))))
    change(document["components"])
    with pytest.raises(TypedError) as caught:
        read(json.dumps(document))
    assert str(caught.value).startswith(f".components{message}")


def test_a_newer_format_is_named_before_its_new_keys() -> None:
    with pytest.raises(TypedError, match="update latentrt"):
        read('{"format": 7, "anything": "else"}')


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_constants_that_are_no_json(constant: str) -> None:
    with pytest.raises(TypedError, match=f"got {constant}, expected a finite number"):
        read(f'{{"format": {constant}}}')
