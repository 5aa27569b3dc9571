"""What does not reach a route: wrong hosts, other pages, wrong keys, large bodies."""

import base64

import pytest
from starlette.testclient import TestClient

from latentrt_serve.app import create_app
from latentrt_serve.guard import known_hosts
from latentrt_serve.limits import Limits
from latentrt_serve.room import Room
from latentrt_serve.server import Server
from latentrt_serve.shelf import shelf_of


@pytest.fixture(scope="module")
def client():
    room = Room(shelf_of({"emoji": "emoji"}))
    hosts = known_hosts("127.0.0.1", ["pictures.example"])
    server = Server(room, Limits(body=1000), keys=("secret", "other"), hosts=hosts, origins=("https://app.example",))
    with TestClient(create_app(server), base_url="http://localhost:8188", raise_server_exceptions=False) as one:
        yield one


KEY = {"Authorization": "Bearer secret"}


def test_a_key_is_asked_for_and_either_is_taken(client):
    answer = client.get("/v1/models")
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert client.get("/v1/models", headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert client.get("/v1/models", headers=KEY).json()["data"][0]["id"] == "emoji"
    basic = base64.b64encode(b"user:other").decode()
    assert client.get("/v1/models", headers={"Authorization": f"Basic {basic}"}).status_code == 200
    assert client.get("/v1/models", headers={"Authorization": "Basic @@"}).status_code == 401


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
def test_probes_need_no_key(client, path):
    assert client.get(path).status_code == 200


@pytest.mark.parametrize(("path", "status"), [("/metrics", 401), ("/v1/capabilities", 401), ("/docs", 401)])
def test_all_else_does(client, path, status):
    assert client.get(path).status_code == status
    assert client.get(path, headers=KEY).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8188", 200),
        ("127.0.0.1", 200),
        ("[::1]:8188", 200),
        ("pictures.example", 200),
        ("evil.example", 421),
        ("evil.example:8188", 421),
        ("[::1", 421),
        ("", 421),
    ],
)
def test_only_known_hosts_are_answered(client, host, status):
    assert client.get("/health/live", headers={"Host": host}).status_code == status


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:8188", 200),
        ("https://app.example", 200),
        ("https://evil.example", 403),
        ("null", 403),
    ],
)
def test_pages_of_other_sites_are_refused(client, origin, status):
    assert client.get("/health/live", headers={"Origin": origin}).status_code == status


def test_large_bodies_are_refused_with_and_without_a_length(client):
    large = b'{"prompt": "' + b"a" * 2000 + b'"}'
    headers = {**KEY, "Content-Type": "application/json"}
    assert client.post("/v1/jobs", content=large, headers=headers).status_code == 413
    chunks = iter([large[:700], large[700:]])
    assert client.post("/v1/jobs", content=chunks, headers=headers).status_code == 413


def test_errors_have_one_shape(client):
    for answer in (
        client.get("/nowhere", headers=KEY),
        client.post("/v1/jobs", content=b"{", headers=KEY),
        client.post("/v1/jobs", json={"prompt": "x", "colour": 1}, headers=KEY),
        client.get("/v1/jobs/none", headers=KEY),
    ):
        assert answer.status_code in (400, 404)
        assert answer.json()["error"].keys() == {"message", "type", "param", "code"}


def test_an_allowed_page_is_told_that_it_may_ask_and_read(client):
    asked = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    answer = client.options("/v1/jobs", headers={**asked, "Access-Control-Request-Headers": "authorization"})
    assert answer.status_code == 200
    assert answer.headers["Access-Control-Allow-Origin"] == "https://app.example"
    read = client.get("/v1/models", headers={**KEY, "Origin": "https://app.example"})
    assert read.headers["Access-Control-Allow-Origin"] == "https://app.example"
    other = client.options("/v1/jobs", headers={**asked, "Origin": "https://evil.example"})
    assert "Access-Control-Allow-Origin" not in other.headers
