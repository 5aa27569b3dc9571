"""Calls that are joined: the same bits as separate ones, or none are joined."""

import threading

import numpy as np
import pytest

from latentrt.engines.keeping import keep
from latentrt_serve.gather import InTurn, Joined, Meeting


class Doubling:
    """An engine that doubles its rows.

    crossed: adds the mean over all rows, which joined calls then change. most: rows that it has memory for.
    """

    memory = None

    def __init__(self, *, crossed=False, broken=False, most=100):
        self.crossed, self.broken, self.most, self.sizes = crossed, broken, most, []

    def __call__(self, feeds):
        x = feeds["x"]
        self.sizes.append(len(x))
        if self.broken:
            raise RuntimeError("broken")
        if len(x) > self.most:
            raise MemoryError("bad_alloc")
        return {"y": x * 2 + (x.mean() if self.crossed else 0)}


def run_together(joined, count, calls=5, width=3, called=None):
    """Calls from several threads at once; returns what each got, in order. called: how; plainly without."""
    called = called or joined
    results: list[list] = [[] for _ in range(count)]
    barrier = threading.Barrier(count)

    def work(number):
        with joined.meeting.member():
            barrier.wait()
            for call in range(calls):
                x = np.full((2, width), number * 100 + call, np.float32)
                try:
                    results[number].append((x, called({"x": x})["y"]))
                except RuntimeError as error:
                    results[number].append((x, error))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert not any(thread.is_alive() for thread in threads)
    return results


def test_every_call_gets_its_own_rows():
    joined = Joined(Doubling(), threading.RLock(), Meeting(5.0))
    for found in run_together(joined, 3):
        assert len(found) == 5
        for x, y in found:
            np.testing.assert_array_equal(y, x * 2)
    assert joined.joined > 0
    assert 6 in joined.engine.sizes


class Adding:
    """An engine that adds a table to every row, which has no axis of rows."""

    memory = None

    def __init__(self):
        self.sizes = []

    def __call__(self, feeds):
        assert feeds["table"].shape == feeds["x"].shape[1:]
        self.sizes.append(len(feeds["x"]))
        return {"y": feeds["x"] + feeds["table"]}


def test_what_all_rows_share_is_given_once():
    joined = Joined(Adding(), threading.RLock(), Meeting(5.0), frozenset({"table"}))
    table = np.arange(3, dtype=np.float32)
    results = run_together(joined, 3, called=lambda feeds: joined({"table": table, **feeds}))
    assert all(np.array_equal(y, x + table) for found in results for x, y in found)
    assert joined.joined > 0 and 6 in joined.engine.sizes


def test_the_first_call_of_a_division_is_computed_both_ways():
    joined = Joined(Doubling(), threading.RLock(), Meeting(5.0))
    run_together(joined, 2, calls=1)
    assert sorted(joined.engine.sizes) == [2, 2, 4]
    assert list(joined.exact.values()) == [True]


def test_calls_whose_rows_change_each_other_are_never_joined():
    joined = Joined(Doubling(crossed=True), threading.RLock(), Meeting(5.0))
    for found in run_together(joined, 2):
        for x, y in found:
            np.testing.assert_array_equal(y, x * 2 + x.mean())
    assert joined.joined == 0
    assert joined.engine.sizes.count(4) == 1


def test_calls_of_other_shapes_are_not_joined():
    joined = Joined(Doubling(), threading.RLock(), Meeting(0.2))
    results = []

    def work(width):
        with joined.meeting.member():
            results.append(joined({"x": np.ones((1, width), np.float32)})["y"].shape)

    threads = [threading.Thread(target=work, args=(width,)) for width in (3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert sorted(results) == [(1, 3), (1, 4)]
    assert joined.engine.sizes == [1, 1]


def test_a_call_alone_does_not_wait():
    joined = Joined(Doubling(), threading.RLock(), Meeting(60.0))
    with joined.meeting.member():
        joined({"x": np.ones((1, 3), np.float32)})


def test_a_call_does_not_wait_for_a_member_longer_than_allowed():
    joined = Joined(Doubling(), threading.RLock(), Meeting(0.05))
    with joined.meeting.member(), joined.meeting.member():
        joined({"x": np.ones((1, 3), np.float32)})


def test_an_engine_that_fails_fails_every_call_and_lives_on():
    joined = Joined(Doubling(broken=True), threading.RLock(), Meeting(5.0))
    for found in run_together(joined, 3, calls=2):
        assert all(isinstance(y, RuntimeError) for _, y in found)
    joined.engine.broken = False
    joined({"x": np.ones((1, 3), np.float32)})


def test_calls_that_memory_is_too_short_to_join_are_computed_one_by_one():
    joined = Joined(Doubling(most=2), threading.RLock(), Meeting(5.0))
    for found in run_together(joined, 3):
        assert all((y == x * 2).all() for x, y in found)
    assert joined.joined == 0
    assert joined.engine.sizes.count(6) == 1  # tried once


@pytest.mark.parametrize("count", [2, 4])
def test_many_rounds_end(count):
    joined = Joined(Doubling(), threading.RLock(), Meeting(0.001))
    for found in run_together(joined, count, calls=200):
        assert all((y == x * 2).all() for x, y in found)


class Keeping(Doubling):
    """The same, as on a device: what is kept is no array."""

    def keep(self, feeds, names):
        return {"y": ("on the device", self(feeds)["y"]) if "y" in names else self(feeds)["y"]}


def test_outputs_stay_on_a_device_under_what_takes_turns():
    x = np.ones((2, 3), np.float32)
    for wrapped in (InTurn(Keeping(), threading.RLock()), Joined(Keeping(), threading.RLock(), Meeting(5.0))):
        where, y = keep(wrapped, {"x": x}, ["y"])["y"]
        assert where == "on the device"
        assert np.array_equal(y, 2 * x)
    assert np.array_equal(keep(InTurn(Doubling(), threading.RLock()), {"x": x}, ["y"])["y"], 2 * x)


def test_calls_that_keep_arrays_are_joined_like_all():
    joined = Joined(Doubling(), threading.RLock(), Meeting(5.0))
    for found in run_together(joined, 2, called=lambda feeds: keep(joined, feeds, ["y"])):
        assert all((y == x * 2).all() for x, y in found)
    assert joined.joined > 0


def test_calls_of_two_engines_meet_and_neither_waits_for_the_other():
    """As of two runs with a step cache, one at a full call and the other at a shallow one: nobody waits 60 seconds."""
    meeting, lock = Meeting(60.0), threading.RLock()
    full, shallow = Joined(Doubling(), lock, meeting), Joined(Doubling(), lock, meeting)
    numbers = iter(range(100))
    for found in run_together(full, 2, calls=6, called=lambda feeds: (full, shallow)[next(numbers) % 2](feeds)):
        assert all((y == x * 2).all() for x, y in found)
    assert full.calls + shallow.calls >= 12


def test_calls_that_stay_on_a_device_meet_but_are_not_joined():
    joined = Joined(Keeping(), threading.RLock(), Meeting(60.0))
    for found in run_together(joined, 3, called=lambda feeds: {"y": keep(joined, feeds, ["y"])["y"][1]}):
        assert all((y == x * 2).all() for x, y in found)
    assert joined.engine.sizes == [2] * 15
