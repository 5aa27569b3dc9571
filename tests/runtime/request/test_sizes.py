"""The size conditioning of SDXL, and what a manifest says of text encoders."""

import json
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image

from latentrt.bundle.catalog import MODELS
from latentrt.bundle.manifest import Manifest, Text
from latentrt.bundle.manifest_json import read, write
from latentrt.bundle.sources import SizeId, component_source, request_source
from latentrt.conditioning.request_values import check_request_values, request_input
from latentrt.errors import BundleError, RequestError
from latentrt.request.request import Request
from latentrt.request.settings import resolve
from latentrt.storage.json_codec import TypedError
from latentrt.tensors import TensorSpec

BUILT_IN = read((MODELS / "emoji" / "bundle.json").read_bytes())
*SIZES, SCORE = get_args(SizeId)


def told(*names: str) -> Manifest:
    components = dict(BUILT_IN.components)
    old, unet, size_ids = components["time_bias"], components["unet"], request_source(*names)
    inputs, sources = (*old.inputs, spec_of(names)), {**old.sources, "size_ids": size_ids}
    components["time_bias"] = replace(old, inputs=inputs, sources=sources)
    made = component_source("time_bias", *sources.values())
    components["unet"] = replace(unet, sources={**unet.sources, "time_bias": made})
    text = Text(3, ("text_encoder", "text_encoder"), {"text_encoder": 2}, True)
    return replace(BUILT_IN, components=components, text=text)


def spec_of(names: tuple[str, ...]) -> TensorSpec:
    return TensorSpec("size_ids", "float32", ("n", len(names)))


def ids(manifest: Manifest, **options: Any) -> list[float]:
    names = manifest.request_values
    found = request_input(spec_of(names), names, resolve(Request("a cat", **options), manifest))
    assert found.dtype == np.float32
    return found[0].tolist()


def test_by_default_the_picture_is_whole() -> None:
    assert ids(told(*SIZES), width=64, height=96) == [96, 64, 0, 0, 96, 64]


def test_a_picture_made_from_another_is_as_large() -> None:
    assert ids(told(*SIZES), init=Image.new("RGB", (48, 72))) == [72, 48, 0, 0, 72, 48]


def test_scores_differ_between_the_prompts() -> None:
    settings = resolve(Request("a cat", aesthetic_score=7.5), told(SCORE))
    spec = spec_of((SCORE,))
    assert request_input(spec, (SCORE,), settings).tolist() == [[7.5]]
    assert request_input(spec, (SCORE,), settings, negative=True).tolist() == [[2.5]]
    with pytest.raises(RequestError, match="negative_aesthetic_score: got -1, expected a number from 0 to 100"):
        resolve(Request("a cat", negative_aesthetic_score=-1), told(SCORE))


def test_each_size_has_its_place() -> None:
    sizes = {"original_size": (1, 2), "crop": (3, 4), "target_size": (5, 6)}
    assert ids(told(*SIZES), **sizes) == [2, 1, 4, 3, 6, 5]
    assert ids(told("crop_left", "original_width"), original_size=(1, 2), crop=(3, 4)) == [3, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"original_size": (0, 8)}, "original_size: got 0, expected a whole number from 1 to 65536"),
        ({"crop": (-1, 8)}, "crop: got -1, expected a whole number from 0"),
        ({"target_size": (8,)}, r"target_size: got \(8,\), expected two whole numbers"),
        ({"target_size": "64x64"}, "target_size: got '64x64', expected two whole numbers"),
        ({"crop": (1.5, 8)}, "crop: got 1.5, expected a whole number"),
    ],
)
def test_sizes_that_are_none(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        resolve(Request("a cat", **options), told(*SIZES))


@pytest.mark.parametrize("name", ["original_size", "crop", "target_size"])
def test_a_model_that_is_told_nothing(name: str) -> None:
    with pytest.raises(RequestError, match=f"{name}: .* but sd1 models do not take it; leave it out"):
        resolve(Request("a cat", **{name: (64, 64)}), BUILT_IN)
    assert getattr(resolve(Request("a cat"), BUILT_IN), name) is None


def test_a_manifest_says_only_what_differs() -> None:
    assert "encoders" not in json.loads(write(BUILT_IN))["text"]
    manifest = told(*SIZES)
    assert read(write(manifest)) == manifest
    with pytest.raises(TypedError, match="text.encoders: got none"):
        read(write(replace(manifest, text=Text(3, ()))))
    with pytest.raises(BundleError, match="conditioned on depth, expected values among .*original_width"):
        check_request_values(told("depth"), "bundle.json")
