"""The engine room on the built-in model: pictures, batches, cancelling, draining."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from latentrt_serve.job import ENDED
from latentrt_serve.refusal import Refusal
from tests.serve.conftest import SMALL, opened, order


def finished(job, seconds=120):
    assert job.ended.wait(seconds)
    return job


def pixels(job):
    return [np.asarray(image) for image in finished(job).pictures.images]


def alone(pipeline, **body):
    request = {"prompt": "a red apple", "seed": 1, **SMALL, **body}
    return [np.asarray(image) for image in pipeline.generate(**request).images]


class Short:
    """An engine without memory for its calls."""

    def __init__(self, engine):
        self.engine = engine

    def __getattr__(self, name):
        return getattr(self.engine, name)

    def __call__(self, feeds):
        raise MemoryError("bad_alloc")


def test_a_job_gives_the_picture_of_the_library(pipeline):
    with opened(batch=1) as room:
        job = room.submit(order(room))
        np.testing.assert_array_equal(pixels(job), alone(pipeline))
    assert job.state == "done"
    assert job.pictures.texts[0]["parameters"].startswith("a red apple")


@pytest.mark.parametrize("batch", [1, 4])
def test_jobs_drawn_together_give_the_pictures_of_each_alone(pipeline, batch):
    wanted = [
        {"seed": 1},
        {"seed": 2, "prompt": "a cat", "steps": 5},
        {"seed": 3, "guidance": 1},
        {"seed": 4, "sampler": "heun"},
    ]
    with opened(batch=batch, wait=1.0) as room:
        jobs = [room.submit(order(room, **one)) for one in wanted]
        for job, one in zip(jobs, wanted, strict=True):
            np.testing.assert_array_equal(pixels(job), alone(pipeline, **one))
        model = room.shelf.find("emoji")
        assert (model.pipeline.engines["unet"].joined > 0) if batch > 1 else (model.meeting is None)


def test_jobs_with_a_step_cache_join_their_shallow_calls(pipeline):
    wanted = [{"seed": seed, "steps": 6, "cache": 3} for seed in (1, 2)]
    with opened(batch=2, wait=5.0) as room:
        jobs = [room.submit(order(room, **one)) for one in wanted]
        for job, one in zip(jobs, wanted, strict=True):
            np.testing.assert_array_equal(pixels(job), alone(pipeline, **one))
        assert room.shelf.find("emoji").pipeline.engines["unet_shallow"].joined > 0


def test_a_seed_is_drawn_when_the_job_is_taken():
    with opened() as room:
        job = room.submit(order(room, seed=None))
        assert job.order.request.seed == job.order.settings.seeds[0]
        finished(job)


def test_events_tell_steps_and_previews_in_order():
    with opened(batch=1) as room:
        kinds, job = [], None
        ready = threading.Event()
        first = room.submit(order(room, steps=2))  # holds the thread until the listener is there
        job = room.submit(order(room, steps=4, previews=1))
        job.listen(lambda event: (kinds.append(event.kind), ready.set()))
        finished(first), finished(job)
    assert kinds == ["started", "step", "step", "preview", "step", "step", "done"]


def test_a_full_queue_refuses_and_says_when_to_come_back():
    with opened(places=1, batch=1) as room:
        jobs = [room.submit(order(room, steps=20))]
        while not room.running:
            time.sleep(0.01)
        jobs.append(room.submit(order(room)))
        with pytest.raises(Refusal) as refused:
            room.submit(order(room))
        assert (refused.value.status, refused.value.retry_after) == (429, 10)
        assert room.place(jobs[1]) == 0
        for job in jobs:
            room.cancel(job)


def test_a_waiting_job_is_cancelled_at_once():
    with opened(batch=1) as room:
        running, waiting = room.submit(order(room, steps=20)), room.submit(order(room))
        while not room.running:
            time.sleep(0.01)
        room.cancel(waiting)
        assert waiting.state == "cancelled"
        room.cancel(running)
        assert finished(running).state == "cancelled"


def test_a_running_job_is_cancelled_within_a_step_and_the_next_picture_is_the_same(pipeline):
    with opened(batch=1) as room:
        job = room.submit(order(room, steps=50))
        steps: list[int] = []
        job.listen(lambda event: event.kind == "step" and (steps.append(1), job.cancel()))
        finished(job)
        assert job.state == "cancelled"
        assert len(steps) <= 2
        np.testing.assert_array_equal(pixels(room.submit(order(room))), alone(pipeline))


def test_draining_finishes_what_is_there_and_refuses_the_rest():
    with opened(batch=1) as room:
        jobs = [room.submit(order(room)) for _ in range(3)]
        assert room.drain(120)
        assert [job.state for job in jobs] == ["done"] * 3
        with pytest.raises(Refusal) as refused:
            room.submit(order(room))
        assert refused.value.status == 503


def test_what_is_not_done_by_the_deadline_is_refused():
    with opened(batch=1) as room:
        jobs = [room.submit(order(room, steps=100, width=128, height=128)) for _ in range(3)]
        while not room.running:
            time.sleep(0.01)
        assert not room.drain(0.05)
        for job in jobs:
            assert finished(job).state == "failed"
            assert job.refusal.status == 503


def test_a_job_that_runs_out_of_memory_fails_and_the_room_lives(pipeline):
    with opened(batch=1) as room:
        with room.shelf.lent("emoji") as (loaded, _):
            engine = loaded.engines["unet"]
        engine.engine = Short(engine.engine)
        job = finished(room.submit(order(room)))
        assert job.state == "failed"
        assert (job.refusal.status, job.refusal.code) == (503, "out_of_memory")
        assert room.shelf.loaded() == []
        np.testing.assert_array_equal(pixels(room.submit(order(room))), alone(pipeline))


def test_a_batch_of_one_client_does_not_keep_another_waiting():
    with opened(batch=1) as room:
        first = room.submit(order(room, client="a", steps=10))
        many = [room.submit(order(room, client="a")) for _ in range(3)]
        other = room.submit(order(room, client="b"))
        ended: list[str] = []
        for name, job in (("a", many[1]), ("b", other)):
            job.listen(lambda event, name=name: event.kind in ENDED and ended.append(name))
        for job in (first, *many, other):
            finished(job)
        assert ended == ["b", "a"]
