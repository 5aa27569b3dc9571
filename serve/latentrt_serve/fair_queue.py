"""The queue: bounded, and fair between clients: who asks for a hundred pictures waits behind one who asks for one."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator

from latentrt_serve.job import Job


class FairQueue:
    """Jobs that wait, a line per client; the lines take turns. Not for several threads at once: the room locks it."""

    def __init__(self, places: int) -> None:
        self.places = places
        self._lines: OrderedDict[str, deque[Job]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    @property
    def full(self) -> bool:
        """Whether no more job may wait."""
        return len(self) >= self.places

    def add(self, job: Job) -> None:
        """Puts a job at the end of its client's line."""
        self._lines.setdefault(job.order.client, deque()).append(job)

    def first(self) -> Job | None:
        """The job whose turn is next; it stays in the queue."""
        return next(iter(self), None)

    def take(self) -> Job:
        """The job whose turn is next, taken out; its client's line goes to the end."""
        client, line = self._lines.popitem(last=False)
        job = line.popleft()
        if line:
            self._lines[client] = line
        return job

    def remove(self, job: Job) -> bool:
        """Takes a job out of the queue. Returns whether it was there."""
        line = self._lines.get(job.order.client)
        if line is None or job not in line:
            return False
        line.remove(job)
        if not line:
            del self._lines[job.order.client]
        return True

    def __iter__(self) -> Iterator[Job]:
        """The jobs in the order of their turns."""
        lines = [deque(line) for line in self._lines.values()]
        while lines:
            line = lines.pop(0)
            yield line.popleft()
            if line:
                lines.append(line)

    def place(self, job: Job) -> int | None:
        """The number of jobs before this one; None if it does not wait."""
        return next((place for place, one in enumerate(self) if one is job), None)
