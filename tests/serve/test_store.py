"""Kept jobs: by id, by key, and for how long."""

from types import SimpleNamespace

import pytest

from latentrt_serve.refusal import Refusal
from latentrt_serve.store import Store


def job(name, completed=None):
    return SimpleNamespace(id=name, completed=completed)


def status(call, *arguments):
    with pytest.raises(Refusal) as caught:
        call(*arguments)
    return caught.value.status


def test_a_job_is_found_by_its_id():
    store, one = Store(), job("a")
    store.keep(one)
    assert store.find("a") is one


def test_an_unknown_job_is_404_and_an_old_one_410():
    store = Store(seconds=5)
    store.keep(job("old", completed=1.0))
    assert status(store.find, "old") == 410
    assert status(store.find, "never") == 404


def test_a_key_gives_the_same_job_to_the_same_client_alone():
    store, one = Store(), job("a")
    store.keep(one, "client", "key", {"prompt": "x"})
    assert store.found("client", "key", {"prompt": "x"}) is one
    assert store.found("other", "key", {"prompt": "x"}) is None
    assert status(store.found, "client", "key", {"prompt": "y"}) == 409


def test_a_key_is_forgotten_with_its_job():
    store = Store(seconds=5)
    store.keep(job("old", completed=1.0), "client", "key", {})
    assert store.found("client", "key", {}) is None
