"""The engine room: takes jobs from the queue and carries them out, as many together as one batch may hold."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

from latentrt_serve.fair_queue import FairQueue
from latentrt_serve.job import Cancelled, Job, Order
from latentrt_serve.measures import Measures
from latentrt_serve.refusal import draining, refusal_of, too_busy
from latentrt_serve.shelf import Shelf
from latentrt_serve.tasks import TASKS

log = logging.getLogger("latentrt.serve")

# What jobs that run at the same time have to agree in: the model, and the size, so that their calls can be joined.
Kind = tuple[str, str, int, int]
FIRST_GUESS_S = 10.0


class Room:
    """The worker of one device: threads that run jobs, of one kind at a time.

    A job joins those that run only when its turn has come, so a busy kind does not keep others waiting.
    """

    def __init__(self, shelf: Shelf, places: int = 8) -> None:
        self.shelf, self.queue = shelf, FairQueue(places)
        self.measures = Measures()
        self.running: list[Job] = []
        self.recent: deque[float] = deque(maxlen=20)
        self._changed = threading.Condition()
        self._open, self._stopping = True, False
        self._threads = [
            threading.Thread(target=self._work, name=f"latentrt-{number}", daemon=True)
            for number in range(shelf.options.batch)
        ]

    def start(self) -> None:
        """Starts the threads."""
        for thread in self._threads:
            thread.start()

    @property
    def open(self) -> bool:
        """Whether jobs are taken."""
        return self._open

    def submit(self, order: Order) -> Job:
        """Puts an order into the queue. Raises Refusal when it is full, or when the server is stopping."""
        order = replace(order, request=replace(order.request, seed=order.settings.seeds[0]))
        job = Job(order)
        with self._changed:
            if not self._open:
                raise draining()
            if self.queue.full and not self._free_for(job):
                self.measures.refused.inc()
                raise too_busy(len(self.queue), self.seconds_of_wait())
            self.queue.add(job)
            self._changed.notify_all()
        self.measures.taken.inc()
        return job

    def _free_for(self, job: Job) -> bool:
        """Whether a thread would take the job at once."""
        return not self.queue.first() and self._may_run(job)

    def seconds_of_wait(self) -> float:
        """About how long until the queue has a free place."""
        return sum(self.recent) / len(self.recent) if self.recent else FIRST_GUESS_S

    def place(self, job: Job) -> int | None:
        """The number of jobs before this one in the queue; None if it does not wait."""
        with self._changed:
            return self.queue.place(job)

    def cancel(self, job: Job) -> None:
        """Ends a job: at once if it waits, within a step if it runs."""
        job.cancel()
        with self._changed:
            waited = self.queue.remove(job)
        if waited:
            self._end(job, job.drop)

    def drain(self, seconds: float) -> bool:
        """Takes no more jobs, and waits for those that run and wait. Cancels what is left after `seconds`.

        Returns whether all were finished. Those that were not are refused with status 503.
        """
        deadline = time.monotonic() + seconds
        with self._changed:
            self._open = False
            finished = self._changed.wait_for(lambda: not self.running and not len(self.queue), seconds)
            left = [self.queue.take() for _ in range(len(self.queue))]
            for job in self.running:
                job.cancel()
        for job in left:
            self._end(job, partial(job.fail, draining()))
        with self._changed:
            self._changed.wait_for(lambda: not self.running, max(1.0, deadline - time.monotonic()))
            self._stopping = True
            self._changed.notify_all()
        return finished

    def _work(self) -> None:
        while (job := self._next()) is not None:
            started = time.monotonic()
            try:
                self._carry_out(job)
            finally:
                with self._changed:
                    self.running.remove(job)
                    self.recent.append(time.monotonic() - started)
                    self._changed.notify_all()

    def _next(self) -> Job | None:
        """Waits for a job that may run now; None when the room closes."""
        with self._changed:
            while not self._stopping:
                first = self.queue.first()
                if first is not None and self._may_run(first):
                    job = self.queue.take()
                    self.running.append(job)
                    return job
                self._changed.wait()
        return None

    def _may_run(self, job: Job) -> bool:
        """Whether a job may start beside those that run."""
        if not self.running:
            return True
        kinds = {kind_of(one) for one in self.running}
        pictures = sum(len(one.order.settings.seeds) for one in [*self.running, job])
        return kinds == {kind_of(job)} and not alone(job) and pictures <= self.shelf.options.batch

    def _carry_out(self, job: Job) -> None:
        """Runs a job to one of its ends."""
        try:
            self._run(job)
        except BaseException as error:  # whatever it is, the job ends and the server lives
            refusal = refusal_of(error)
            refusal.message = self.shelf.without_paths(refusal.message)
            if refusal.status >= 500:
                log.exception("job %s failed", job.id, exc_info=error)
            if isinstance(error, MemoryError):
                self.shelf.put_back_unused()
            self._end(job, partial(job.fail, refusal))

    def _run(self, job: Job) -> None:
        if job.cancelling.is_set():
            self._end(job, job.drop)
            return
        job.begin()
        try:
            with self.shelf.lent(job.order.model) as (pipeline, meeting):
                pictures = TASKS[job.order.task](pipeline, job, meeting.member if meeting else nullcontext)
        except Cancelled:
            self._end(job, job.drop if self._open else partial(job.fail, draining()))
            return
        self.measures.took(pictures.seconds)
        self._end(job, partial(job.finish, pictures))

    def _end(self, job: Job, end: Callable[[], None]) -> None:
        end()
        self.measures.ended(job)


def kind_of(job: Job) -> Kind:
    """What jobs have to agree in to run at the same time."""
    settings = job.order.settings
    return (job.order.model, job.order.task, settings.width, settings.height)


def alone(job: Job) -> bool:
    """Whether a job runs by itself: where its prompt changes the model's weights, or its sizes change."""
    text = job.order.settings.text
    return (
        job.order.task != "generate"
        or "<lora:" in f"{text.prompt}{text.negative}"
        or job.order.settings.hires is not None
    )
