"""Pools: what Ray Serve is told of them, and what they refuse; `benchmarks.serve_cluster` runs them on Ray."""

from __future__ import annotations

import base64
import io
import sys
import types

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from latentrt.errors import EngineError, RequestError
from latentrt_serve.cluster.pool import Pool, app_of, ongoing, options_of, start
from latentrt_serve.shelf import ModelOptions
from tests.serve.conftest import SMALL

MODELS = ModelOptions(engine="onnxruntime", batch=2)
POOL = Pool("pictures", {"emoji": "emoji"}, {"orin": 1}, models=MODELS, least=0, most=3, waiting=5)


@pytest.fixture(scope="module")
def client():
    with TestClient(app_of(POOL), base_url="http://localhost") as one:
        yield one


def test_a_server_of_a_pool_draws_the_library_s_picture(client, pipeline):
    answer = client.post("/v1/images/generations", json={"prompt": "a red apple", "seed": 3, **SMALL})
    file = base64.b64decode(answer.json()["data"][0]["b64_json"])
    wanted = pipeline.generate("a red apple", seed=3, **SMALL).images[0]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(file))), np.asarray(wanted))


def test_what_lives_in_one_process_is_not_offered(client):
    assert client.post("/v1/jobs", json={"prompt": "a red apple", **SMALL}).status_code == 404
    assert client.get("/health/ready").json() == {"status": "ready"}


def test_the_room_holds_all_that_ray_hands_to_a_server(client):
    assert client.app.state.server.room.queue.places == ongoing(POOL) == 4


def test_ray_is_told_of_places_and_resources():
    told = options_of(POOL)
    assert told["ray_actor_options"] == {"num_cpus": 1.0, "resources": {"orin": 1}}
    assert told["max_ongoing_requests"] == 4
    assert told["max_queued_requests"] == 5
    assert told["backpressure_config"]["status_code"] == 429
    scaling = told["autoscaling_config"]
    assert (scaling["min_replicas"], scaling["max_replicas"], scaling["target_ongoing_requests"]) == (0, 3, 2)


def put_ray(monkeypatch):
    """A Ray that fails if anything of it is used."""
    module = types.ModuleType("ray")
    module.serve = object()
    monkeypatch.setitem(sys.modules, "ray", module)


def test_a_cluster_without_tokens_is_refused(monkeypatch):
    put_ray(monkeypatch)
    for mode in ("disabled", ""):
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
        with pytest.raises(RequestError, match="RAY_AUTH_MODE: expected token"):
            start(POOL)


def test_an_address_that_others_reach_needs_keys(monkeypatch):
    put_ray(monkeypatch)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with pytest.raises(RequestError, match="a pool without keys"):
        start(POOL, host="0.0.0.0")


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(EngineError, match=r"latentrt\[cpu,serve,cluster\]"):
        start(POOL)
