"""The image that an unCLIP model varies: what is refused before anything is computed."""

from dataclasses import replace

import pytest
from PIL import Image

from latentrt.bundle.catalog import folder_of
from latentrt.bundle.folder import open_bundle
from latentrt.bundle.manifest import ImageEmbedding, Prior
from latentrt.errors import RequestError
from latentrt.request.request import Request
from latentrt.request.settings import resolve

PLAIN = open_bundle(folder_of("emoji"), verify=False).manifest
COMPONENT = PLAIN.components["text_encoder"]
UNCLIP = replace(
    PLAIN,
    name="unclip",
    image_embedding=ImageEmbedding(1000),
    components={**PLAIN.components, "image_embedder": replace(COMPONENT, role="image_embedder")},
)
BY_A_PRIOR = replace(PLAIN, name="prior", image_embedding=ImageEmbedding(1000, Prior(PLAIN.schedule, 5.0)))
IMAGE = Image.new("RGBA", (30, 20))


def test_it_is_opened_and_recorded_and_does_not_set_the_size():
    settings = resolve(Request("", image=IMAGE, noise_level=999), UNCLIP)
    assert settings.image_embedding.image.mode == "RGB" and settings.image_embedding.square(10).size == (10, 10)
    record = settings.record()
    assert record["noise_level"] == 999 and record["image"]["size"] == [30, 20]
    assert (settings.width, settings.height) == (UNCLIP.defaults.width, UNCLIP.defaults.height)


def test_without_a_level_it_is_the_lowest():
    assert resolve(Request("", image=IMAGE), UNCLIP).record()["noise_level"] == 0


def test_a_record_of_another_model_has_neither():
    assert not {"image", "noise_level"} & resolve(Request("a red apple"), PLAIN).record().keys()


def test_a_prior_takes_25_steps_with_a_guidance_of_4():
    record = resolve(Request("an apple", noise_level=5), BY_A_PRIOR).record()
    assert (record["prior_steps"], record["prior_guidance"], record["noise_level"]) == (25, 4.0, 5)
    assert "image" not in record


@pytest.mark.parametrize(
    ("manifest", "request_fields", "message"),
    [
        (UNCLIP, {}, "image: got none, but unclip draws variations of an image; give one"),
        (UNCLIP, {"noise_level": 3}, "image: got none, but unclip draws variations of an image; give one"),
        (UNCLIP, {"image": IMAGE, "noise_level": 1000}, "noise_level: got 1000, expected a whole number from 0 to 999"),
        (UNCLIP, {"image": IMAGE, "noise_level": -1}, "noise_level: got -1, expected a whole number from 0 to 999"),
        (UNCLIP, {"image": IMAGE, "noise_level": 1.5}, "noise_level: got 1.5, expected a whole number"),
        (UNCLIP, {"image": 7}, "image: got 7, expected an image or the path of its file"),
        (PLAIN, {"image": IMAGE}, "makes no variations of images; give init to start from an image"),
        (PLAIN, {"noise_level": 3}, "noise_level: got 3, but .* has no image embedding; leave it out"),
        (PLAIN, {"prior_guidance": 2.0}, "prior_guidance: got 2.0, but .* has no prior; leave it out"),
        (UNCLIP, {"image": IMAGE, "prior_steps": 3}, "prior_steps: got 3, but unclip has no prior; leave it out"),
        (BY_A_PRIOR, {"image": IMAGE}, "prior makes no variations of images; give init to start from an image"),
        (BY_A_PRIOR, {"prior_steps": 0}, "prior_steps: got 0, expected a whole number from 1 to 1000"),
    ],
)
def test_what_is_refused(manifest, request_fields, message):
    with pytest.raises(RequestError, match=message):
        resolve(Request("a red apple", **request_fields), manifest)
