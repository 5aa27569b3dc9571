"""Pictures that the server signs: those that it made, and no previews."""

from __future__ import annotations

import base64
import io
import json

import c2pa
import pytest
from click.testing import CliRunner
from starlette.testclient import TestClient

from benchmarks.certificates import write_chain
from latentrt_serve.app import create_app
from latentrt_serve.cli.serve import serve, sign_with
from latentrt_serve.encode import SIGNING
from latentrt_serve.room import Room
from latentrt_serve.server import Server
from latentrt_serve.shelf import ModelOptions, shelf_of
from tests.serve.conftest import SMALL

BODY = {"prompt": "a red apple", "seed": 1, **SMALL}


@pytest.fixture
def client(tmp_path):
    sign_with(*write_chain(tmp_path))
    room = Room(shelf_of({"emoji": "emoji"}, ModelOptions(engine="onnxruntime", batch=1)))
    with TestClient(create_app(Server(room))) as one:
        yield one
    room.drain(30)
    SIGNING.signer = None


def state_of(file: bytes) -> str | None:
    """What the library's reader says of a PNG; None for one without credentials."""
    reader = c2pa.Reader.try_create("image/png", io.BytesIO(file))
    return None if reader is None else reader.get_validation_state()


def test_finished_pictures_are_signed_and_previews_are_not(client):
    answer = client.post("/v1/images/generations", json={**BODY, "stream": True, "partial_images": 1})
    told = [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line.startswith("data: ")]
    states = {one["type"].rpartition(".")[2]: state_of(base64.b64decode(one["b64_json"])) for one in told}
    assert states == {"partial_image": None, "completed": "Valid"}


def test_a_job_s_picture_is_signed(client):
    job = client.post("/v1/jobs", json=BODY).json()["id"]
    client.get(f"/v1/jobs/{job}/events")
    assert state_of(client.get(f"/v1/jobs/{job}/pictures/0").content) == "Valid"


def test_a_certificate_without_its_key_is_refused(tmp_path):
    chain, _key = write_chain(tmp_path)
    found = CliRunner().invoke(serve, ["--sign-certificate", str(chain)])
    assert "got one of them, expected both or none" in str(found.exception)
