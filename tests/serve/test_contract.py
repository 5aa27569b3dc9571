"""The contract of the interface on a few generated requests, and the faults that generated requests have found."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import numpy as np
import pytest
from starlette.testclient import TestClient

from benchmarks.serve_contract import CHECKS, described, run
from latentrt.request.request import Request
from latentrt.request.rows import Choice, Whole
from latentrt_serve.app import create_app
from latentrt_serve.fields import FIELDS, ROWS
from latentrt_serve.gather import Joined, Meeting
from latentrt_serve.limits import Limits
from latentrt_serve.preferences import MOST_CLIENTS, Preferences
from latentrt_serve.schemas import REFUSALS, field_schema
from tests.serve.contract import emoji_server, listening


class Doubling:
    """An engine whose answer is twice what it is fed."""

    memory = None

    def __call__(self, feeds):
        return {"out": feeds["x"] * 2}


def test_calls_that_wait_for_another_find_themselves():
    joined = Joined(Doubling(), threading.RLock(), Meeting(0.1))
    values = [np.full((1, 2, 3), float(value)) for value in range(3)]
    with ExitStack() as members, ThreadPoolExecutor(len(values)) as threads:
        for _ in (*values, "one that never calls"):
            members.enter_context(joined.meeting.member())
        calls = [threads.submit(joined, {"x": value}) for value in values]
        found = [one.result(10)["out"] for one in calls]
    assert all(np.array_equal(one, value * 2) for one, value in zip(found, values, strict=True))


def test_every_operation_is_described_with_its_refusals():
    description = create_app(emoji_server()).openapi()
    operations = [one for path in description["paths"].values() for one in path.values()]
    assert len(operations) > 30
    for one in operations:
        assert {str(status) for status in REFUSALS} < one["responses"].keys()


def test_bodies_are_described_by_the_rows():
    paths = create_app(emoji_server()).openapi()["paths"]
    schema = paths["/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert set(FIELDS) < schema["properties"].keys() and schema["additionalProperties"] is False
    for name, row in ROWS.items():
        if isinstance(row.kind, Choice):
            assert field_schema(name)["anyOf"][0] == {"enum": list(row.kind.values)}
    assert isinstance(ROWS["steps"].kind, Whole)
    assert field_schema("steps") == {
        "anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}],
        "description": ROWS["steps"].help,
    }
    assert set(ROWS) >= {*FIELDS} and Request().steps is None


@pytest.mark.sweep
@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")  # of NumPy, at any guidance
def test_generated_requests_find_no_fault():
    counts = run(80, start=2)
    assert not counts.faults, counts.faults
    statuses = {status for _, status in counts.answers}
    assert 200 in statuses and 202 in statuses and 400 in statuses and 422 in statuses and max(statuses) < 500
    assert len({name for name, _ in counts.answers}) > 30


def test_the_checks_see_an_answer_that_is_not_described():
    server = emoji_server()
    with listening(server) as address:
        operation = described(address)["/health/live"]["GET"]
        case = operation.Case()
        answer = case.call()
        case.validate_response(answer, checks=CHECKS)
        answer.status_code = 418
        with pytest.raises(BaseException, match="418"):
            case.validate_response(answer, checks=CHECKS)


def test_a_job_that_has_ended_tells_its_end_once():
    server = emoji_server()
    with TestClient(create_app(server)) as client:
        job = client.post("/v1/jobs", json={"steps": 1, "width": 64, "height": 64}).json()
        server.store.find(job["id"]).ended.wait(20)
        text = client.get(f"/v1/jobs/{job['id']}/events").text
    server.room.drain(5)
    assert text.count("event: done") == 1


def test_preferences_of_many_clients_are_bounded():
    preferences = Preferences()
    for number in range(MOST_CLIENTS + 5):
        preferences.change(str(number), {"a": number})
        preferences.change("0", {"b": number})
    assert preferences.of("0") == {"a": 0, "b": MOST_CLIENTS + 4}
    assert preferences.of("1") == {} and preferences.of(str(MOST_CLIENTS + 4)) == {"a": MOST_CLIENTS + 4}


@pytest.fixture(scope="module")
def asked():
    server = emoji_server()
    with TestClient(create_app(server), raise_server_exceptions=False) as client:
        yield lambda path, body: client.post(path, content=body, headers={"Content-Type": "application/json"})
    server.room.drain(5)


SMALL = '{"prompt": "a cat", "width": 64, "height": 64, "steps": 1'


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")  # of NumPy, at guidance 1e308
@pytest.mark.parametrize(
    ("path", "more", "status"),
    [
        ("/v1/images/generations", f'"partial_images": "{"9" * 5000}"', 400),
        ("/v1/images/generations", '"guidance": 1e308', 422),
        ("/v1/images/generations", '"model": []', 404),
        ("/v1/images/generations", f'"prompt": {"[" * 5000}{"]" * 5000}', 400),
        ("/sdapi/v1/txt2img", '"cfg_scale": 1e308', 422),
        ("/sdapi/v1/txt2img", f'"styles": {"[" * 900}{"]" * 900}', 200),
        ("/sdapi/v1/txt2img", '"styles": [1e999]', 200),
        ("/v1/jobs", '"\\ud800": 1', 400),
    ],
)
def test_values_that_nobody_expects(asked, path, more, status):
    assert asked(path, f"{SMALL}, {more}}}").status_code == status


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/images/generations", "/sdapi/v1/txt2img", "/sdapi/v1/png-info"])
def test_a_body_whose_length_is_not_told_may_not_be_larger(path):
    def pieces():
        yield b'{"prompt": "'
        yield from [b"a" * 1000] * 50
        yield b'"}'

    with listening(emoji_server(limits=Limits(body=5000))) as address:
        answer = httpx.post(f"{address}{path}", content=pieces(), headers={"Content-Type": "application/json"})
    assert answer.status_code == 413 and "5,000" in answer.text
