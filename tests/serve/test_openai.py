"""OpenAI's interface, asked by its own client, on a real server of the real model."""

import base64
import io
import threading
import time

import numpy as np
import openai
import pytest
from PIL import Image

import latentrt
from latentrt.pipeline.inpaint import inpaint
from latentrt_serve.limits import Limits
from tests.serve.contract import emoji_server, image_of, listening, png

SMALL = {"steps": 2, "seed": 7}
LONG = {"prompt": "a cat", "steps": 900, "width": 64, "height": 64}


@pytest.fixture(scope="module")
def address():
    with listening(emoji_server()) as found:
        yield found


@pytest.fixture(scope="module")
def pipeline():
    with latentrt.load("emoji") as found:
        yield found


def client_of(address, key="none", retries=0):
    return openai.OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=retries)


@pytest.fixture(scope="module")
def client(address):
    with client_of(address) as found:
        yield found


def same(one, other):
    return one.mode == other.mode and np.array_equal(np.asarray(one), np.asarray(other))


def test_a_picture_is_that_of_the_library(client, pipeline):
    answer = client.images.generate(prompt="a cat", size="64x72", extra_body=SMALL)
    expected = pipeline.generate("a cat", width=64, height=72, **SMALL).images[0]
    assert same(image_of(answer.data[0].b64_json), expected)
    assert answer.size == "64x72" and answer.output_format == "png" and answer.model_extra["seeds"] == [7]


def test_several_pictures_have_seeds_that_follow(client, pipeline):
    answer = client.images.generate(prompt="a cat", n=2, size="64x64", extra_body=SMALL)
    expected = pipeline.generate("a cat", batch=2, width=64, height=64, **SMALL).images
    assert len(answer.data) == 2 and answer.model_extra["seeds"] == [7, 8]
    assert all(same(image_of(one.b64_json), other) for one, other in zip(answer.data, expected, strict=True))


def test_a_seed_is_told_where_none_was_given(client):
    given = {"prompt": "a cat", "size": "64x64"}
    first = client.images.generate(**given, extra_body={"steps": 1})
    again = client.images.generate(**given, extra_body={"steps": 1, "seed": first.model_extra["seeds"][0]})
    assert same(image_of(first.data[0].b64_json), image_of(again.data[0].b64_json))


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_formats(client, kind):
    answer = client.images.generate(prompt="a cat", size="64x64", output_format=kind, extra_body={"steps": 1})
    assert image_of(answer.data[0].b64_json).format == kind.upper()


def test_a_stream_has_previews_and_then_the_picture(client, pipeline):
    given = {"prompt": "a cat", "size": "64x64", "extra_body": {"steps": 5, "seed": 7}}
    events = list(client.images.generate(stream=True, partial_images=3, **given))
    *partial, last = events
    assert [one.type for one in partial] == ["image_generation.partial_image"] * 3
    assert [one.partial_image_index for one in partial] == [0, 1, 2]
    assert all(image_of(one.b64_json).size == (64, 64) for one in partial)
    assert last.type == "image_generation.completed"
    expected = pipeline.generate("a cat", width=64, height=64, steps=5, seed=7).images[0]
    assert same(image_of(last.b64_json), expected)


def test_an_edit_paints_the_transparent_part_of_the_mask(client, pipeline):
    rng = np.random.default_rng(1)
    image = Image.fromarray(rng.integers(0, 256, (72, 64, 3), np.uint8))
    alpha = np.full((72, 64), 255, np.uint8)
    alpha[16:48, 16:40] = 0
    mask = image.copy()
    mask.putalpha(Image.fromarray(alpha))
    answer = client.images.edit(
        image=("a.png", png(image)), mask=("b.png", png(mask)), prompt="a cat", extra_body=SMALL
    )
    found = image_of(answer.data[0].b64_json)
    expected = inpaint(pipeline, image, Image.fromarray(255 - alpha), prompt="a cat", **SMALL).images[0]
    assert same(found, expected)
    changed = (np.asarray(found) != np.asarray(image)).any(axis=2)
    assert changed[16:48, 16:40].mean() > 0.9 and not changed[alpha == 255].any()


def test_an_edit_without_a_mask_is_image_to_image(client, pipeline):
    image = Image.new("RGB", (64, 64), "red")
    answer = client.images.edit(image=("a.png", png(image)), prompt="a cat", extra_body={**SMALL, "strength": 0.5})
    expected = pipeline.generate("a cat", init=image, strength=0.5, **SMALL).images[0]
    assert same(image_of(answer.data[0].b64_json), expected)


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"size": "64"}, "size"),
        ({"size": "65x64"}, "width"),
        ({"prompt": "(a cat"}, "prompt"),
        ({"extra_body": {"stepz": 2}}, "stepz"),
        ({"extra_body": {"steps": 0}}, "steps"),
        ({"extra_body": {"steps": "many"}}, "steps"),
        ({"extra_body": {"init": "http://127.0.0.1:1/a.png"}}, "init"),
        ({"extra_body": {"init": "/etc/passwd"}}, "init"),
        ({"output_format": "gif"}, "output_format"),
        ({"n": 10_000}, "batch"),
    ],
)
def test_what_is_wrong_is_named(client, given, param):
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.generate(**{"prompt": "a cat", "size": "64x64", **given})
    assert caught.value.param == param and caught.value.code == "invalid_value"
    assert "got" in caught.value.message and "expected" in caught.value.message


@pytest.mark.parametrize("name", ["dall-e", ["emoji"], {"a": 1}, 3])
def test_a_model_that_is_not_there(client, name):
    with pytest.raises(openai.NotFoundError) as caught:
        client.images.generate(prompt="a cat", extra_body={"model": name})
    assert caught.value.code == "model_not_found" and "emoji" in caught.value.message


def test_text_that_is_no_unicode_is_refused(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.post("/images/generations", cast_to=object, content=b'{"\\ud800": 1}')
    assert "does not exist" in caught.value.message


def test_models(client):
    assert [one.id for one in client.models.list()] == ["emoji"]
    assert client.models.retrieve("emoji").owned_by == "latentrt"


def test_a_key_is_asked_for():
    with listening(emoji_server(keys=("secret",))) as address:
        with client_of(address, "wrong") as client, pytest.raises(openai.AuthenticationError) as caught:
            client.models.list()
        assert caught.value.code == "invalid_api_key"
        with client_of(address, "secret") as client:
            assert [one.id for one in client.models.list()] == ["emoji"]


def test_a_full_queue_is_refused_until_it_has_a_place():
    server = emoji_server(places=1, limits=Limits(steps=1000), batch=1)
    with listening(server) as address, client_of(address) as impatient, client_of(address, retries=2) as patient:
        given = {"prompt": "a cat", "size": "64x64", "extra_body": {"steps": 1, "seed": 3}}
        impatient.images.generate(**given)  # from now on the server knows how long a job takes
        jobs = [impatient.post("/jobs", cast_to=object, body=LONG)]
        while not server.room.running:
            time.sleep(0.01)
        jobs.append(impatient.post("/jobs", cast_to=object, body=LONG))
        with pytest.raises(openai.RateLimitError) as caught:
            impatient.images.generate(**given)
        assert caught.value.code == "queue_full"
        assert int(caught.value.response.headers["retry-after"]) >= 1

        def free():
            for job in jobs:
                impatient.delete(f"/jobs/{job['id']}", cast_to=object)

        timer = threading.Timer(0.3, free)
        timer.start()
        answer = patient.images.generate(**given)
        timer.join()
        assert answer.model_extra["seeds"] == [3]
        assert server.room.measures.refused._value.get() == 2


def test_a_picture_carries_its_settings(client):
    answer = client.images.generate(prompt="a cat", size="64x64", extra_body=SMALL)
    image = Image.open(io.BytesIO(base64.b64decode(answer.data[0].b64_json)))
    assert image.text["parameters"].startswith("a cat\nSteps: 2,") and "Seed: 7" in image.text["parameters"]
