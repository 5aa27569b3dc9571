"""Jobs over HTTP: submitted, watched, cancelled, fetched."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from latentrt_serve.app import create_app
from latentrt_serve.fields import ROWS
from latentrt_serve.room import Room
from latentrt_serve.server import Server
from latentrt_serve.shelf import ModelOptions, shelf_of
from tests.serve.conftest import SMALL

BODY = {"prompt": "a red apple", "seed": 1, **SMALL}


@pytest.fixture(scope="module")
def client():
    room = Room(shelf_of({"emoji": "emoji"}, ModelOptions(engine="onnxruntime", batch=2)))
    with TestClient(create_app(Server(room)), raise_server_exceptions=False) as one:
        yield one
    room.drain(30)


def events(client, job):
    """The events of a job until its end: names and data."""
    text = client.get(f"/v1/jobs/{job}/events").text
    pairs = [block.split("\n", 1) for block in text.strip().split("\n\n")]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in pairs]


def picture(client, path):
    answer = client.get(path)
    assert answer.status_code == 200
    return np.asarray(Image.open(io.BytesIO(answer.content)))


def data_url(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def test_a_job_from_its_submission_to_its_pictures(client, pipeline):
    answer = client.post("/v1/jobs", json={**BODY, "batch": 2, "previews": 1, "steps": 4})
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["Location"] == f"/v1/jobs/{job['id']}"
    assert job["seeds"] == [1, 2]
    told = events(client, job["id"])
    assert told[0][0] in ("queued", "running")
    assert [name for name, _ in told if name != "step"][-3:] == ["preview", "preview", "done"]
    assert told[-1][1]["pictures"] == [f"/v1/jobs/{job['id']}/pictures/{number}" for number in (0, 1)]
    wanted = pipeline.generate("a red apple", **{**SMALL, "seed": 1, "batch": 2, "steps": 4}).images
    for number, image in enumerate(wanted):
        np.testing.assert_array_equal(picture(client, f"/v1/jobs/{job['id']}/pictures/{number}"), np.asarray(image))


def test_events_of_a_job_that_has_ended_are_its_end(client):
    job = client.post("/v1/jobs", json={**BODY, "steps": 1}).json()["id"]
    events(client, job)
    assert [name for name, _ in events(client, job)] == ["done"]


@pytest.mark.parametrize(("kind", "mime"), [("png", "image/png"), ("jpeg", "image/jpeg"), ("webp", "image/webp")])
def test_pictures_come_in_three_formats(client, kind, mime):
    job = client.post("/v1/jobs", json={**BODY, "steps": 1}).json()["id"]
    events(client, job)
    answer = client.get(f"/v1/jobs/{job}/pictures/0", params={"format": kind})
    assert answer.headers["Content-Type"] == mime
    assert Image.open(io.BytesIO(answer.content)).size == (64, 64)
    assert client.get(f"/v1/jobs/{job}/pictures/0?format=gif").status_code == 400
    assert client.get(f"/v1/jobs/{job}/pictures/1").status_code == 404


def test_a_job_is_cancelled_and_stays_so(client):
    job = client.post("/v1/jobs", json={**BODY, "steps": 100}).json()["id"]
    assert client.delete(f"/v1/jobs/{job}").status_code == 200
    assert events(client, job)[-1][0] == "cancelled"
    assert client.delete(f"/v1/jobs/{job}").json()["state"] == "cancelled"


def test_an_idempotency_key_gives_the_same_job(client):
    body, key = {**BODY, "steps": 1}, {"Idempotency-Key": "one"}
    first, again = (client.post("/v1/jobs", json=body, headers=key).json()["id"] for _ in range(2))
    assert first == again
    other = client.post("/v1/jobs", json={**body, "seed": 2}, headers=key)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "key_reused")


def test_inpainting_takes_any_size_and_keeps_the_rest(client):
    image = Image.effect_noise((70, 50), 60).convert("RGB")
    mask = Image.new("L", image.size, 0)
    mask.paste(255, (0, 0, 35, 50))
    body = {
        "task": "inpaint",
        "prompt": "a cat",
        "init": data_url(image),
        "mask": data_url(mask),
        "steps": 2,
        "seed": 1,
    }
    job = client.post("/v1/jobs", json=body).json()["id"]
    assert events(client, job)[-1][0] == "done"
    drawn = picture(client, f"/v1/jobs/{job}/pictures/0")
    np.testing.assert_array_equal(drawn[:, 35:], np.asarray(image)[:, 35:])
    assert (drawn[:, :35] != np.asarray(image)[:, :35]).any()


PNG = data_url(Image.new("RGB", (64, 64)))
REFUSED = [
    ({"prompt": 3}, "prompt"),
    ({"prompt": "(a red apple"}, "prompt"),
    ({"negative": "[a"}, "negative"),
    ({"negative": 3}, "negative"),
    ({"init": PNG, "extend": [4096, 4096, 4096, 4096]}, "size"),
    ({"steps": 0}, "steps"),
    ({"steps": 151}, "steps"),
    ({"width": 4096, "height": 4096}, "size"),
    ({"batch": 5}, "batch"),
    ({"prompt": "a" * 10_001}, "prompt"),
    ({"sampler": "none"}, "sampler"),
    ({"task": "dance"}, "task"),
    ({"task": []}, "task"),
    ({"task": "upscale"}, "bundle"),
    ({"task": "inpaint"}, "mask"),
    ({"tile": 64}, "tile"),
    ({"previews": 21}, "previews"),
    ({"init": "http://127.0.0.1/a.png"}, "init"),
    ({"init": "/etc/passwd"}, "init"),
    ({"controls": [{"name": "canny"}]}, "controls"),
    ({"controls": "canny"}, "controls"),
    ({"layout": "/etc/passwd"}, "layout"),
    ({"vectors": [[1], [1, 2]]}, "vectors"),
    ({"latents": [1]}, "latents"),
    ({"colour": "red"}, "colour"),
]


@pytest.mark.parametrize("name", [name for name, one in ROWS.items() if {"IMG", "FILE"} & {*one.metavar.split("=")}])
def test_no_field_takes_the_path_of_a_file(client, name):
    answer = client.post("/v1/jobs", json={**BODY, name: "/etc/passwd"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, name)
    assert "base64" in answer.text or "expected lists" in answer.text or "expected a list" in answer.text


@pytest.mark.parametrize(("fields", "param"), REFUSED, ids=lambda one: str(one)[:40])
def test_what_cannot_be_run_is_refused_at_once(client, fields, param):
    answer = client.post("/v1/jobs", json={**BODY, **fields})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_an_unknown_model_is_404(client):
    assert client.post("/v1/jobs", json={**BODY, "model": "none"}).status_code == 404
    assert client.get("/v1/jobs/none").status_code == 404


def test_capabilities_and_measures(client):
    told = client.get("/v1/capabilities").json()
    assert told["models"][0]["tasks"] == ["text-to-image", "image-to-image", "inpainting"]
    assert told["limits"]["batch"] == 2
    measures = client.get("/metrics").text
    assert "latentrt_jobs_taken_total" in measures
    assert 'latentrt_phase_seconds_count{phase="unet"}' in measures
