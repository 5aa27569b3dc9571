"""The queue: whose turn is next."""

from types import SimpleNamespace

from latentrt_serve.fair_queue import FairQueue


def job(client):
    return SimpleNamespace(order=SimpleNamespace(client=client))


def filled(*clients):
    queue, jobs = FairQueue(4), [job(client) for client in clients]
    for one in jobs:
        queue.add(one)
    return queue, jobs


def test_clients_take_turns():
    queue, (a1, a2, a3, b1) = filled("a", "a", "a", "b")
    assert list(queue) == [a1, b1, a2, a3]
    assert [queue.take() for _ in range(4)] == [a1, b1, a2, a3]
    assert queue.first() is None


def test_places_are_those_of_the_turns():
    queue, (a1, a2, b1) = filled("a", "a", "b")
    assert [queue.place(one) for one in (a1, a2, b1)] == [0, 2, 1]
    assert queue.place(job("c")) is None


def test_a_client_that_was_served_waits_behind_the_others():
    queue, (a1, a2, b1) = filled("a", "a", "b")
    assert queue.take() is a1
    assert [queue.take(), queue.take()] == [b1, a2]


def test_a_job_can_leave_once():
    queue, (a1, b1) = filled("a", "b")
    assert queue.remove(a1)
    assert not queue.remove(a1)
    assert list(queue) == [b1]


def test_full():
    queue, _ = filled("a", "a", "b")
    assert not queue.full
    queue.add(job("c"))
    assert queue.full
