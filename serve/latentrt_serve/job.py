"""A job: one request from its submission to its pictures, watched from other threads."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from latentrt_serve.refusal import Refusal

if TYPE_CHECKING:
    from PIL.Image import Image

    from latentrt.pipeline.result import Step
    from latentrt.request.request import Request
    from latentrt.request.settings import Settings

State = Literal["queued", "running", "done", "failed", "cancelled"]
Task = Literal["generate", "upscale"]
ENDED: tuple[State, ...] = ("done", "failed", "cancelled")


@dataclass(frozen=True)
class Order:
    """What a client asks for.

    model: a name of the shelf. client: whose turn it takes. previews: number of pictures to tell on the way. size: that
    the pictures are cropped to; None for all of them. tile, times: of the task "upscale".
    """

    model: str
    request: Request
    settings: Settings
    client: str = ""
    task: Task = "generate"
    previews: int = 0
    size: tuple[int, int] | None = None
    tile: int | None = None
    times: int = 1


@dataclass(frozen=True)
class Pictures:
    """The pictures of a finished job. texts: the metadata of each. seconds: by phase."""

    images: tuple[Image, ...]
    texts: tuple[Mapping[str, str], ...]
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class Event:
    """Something that happened to a job. kind: queued, step, preview, done, failed or cancelled."""

    kind: str
    data: Mapping[str, Any] = field(default_factory=dict)
    image: Image | None = None


class Cancelled(Exception):
    """The job ends here, because that was asked for."""


Listener = Callable[[Event], None]


class Job:
    """One order on its way. Threads may read it at any time; only the room changes it."""

    def __init__(self, order: Order) -> None:
        self.id = secrets.token_hex(12)
        self.order = order
        self.created = time.time()
        self.started: float | None = None
        self.completed: float | None = None
        self.state: State = "queued"
        self.step, self.total = 0, order.settings.steps
        self.latest: Step | None = None
        self.pictures: Pictures | None = None
        self.refusal: Refusal | None = None
        self.cancelling = threading.Event()
        self.ended = threading.Event()
        self._listeners: list[Listener] = []
        self._lock = threading.Lock()

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Calls `listener` with every event from now on, from the thread that makes it. Returns what ends that."""
        with self._lock:
            self._listeners.append(listener)
        return lambda: self._forget(listener)

    def _forget(self, listener: Listener) -> None:
        with self._lock:
            if listener in self._listeners:
                self._listeners.remove(listener)

    def tell(self, event: Event) -> None:
        """Hands an event to all listeners."""
        with self._lock:
            listeners = list(self._listeners)
        for listener in listeners:
            listener(event)

    def cancel(self) -> None:
        """Asks for the job to end; it does so within one step."""
        self.cancelling.set()

    def begin(self) -> None:
        """Marks the job as running."""
        self.state, self.started = "running", time.time()
        self.tell(Event("started"))

    def count(self, done: int, total: int, *, cached: bool = False) -> None:
        """Takes note of what is done. cached: by a step that the step cache shortened.

        Raises Cancelled if the job is to end.
        """
        if self.cancelling.is_set():
            raise Cancelled
        self.step, self.total = done, total
        self.tell(Event("step", {"step": done, "steps": total, "cached": cached}))

    def advance(self, step: Step) -> None:
        """Takes note of a step, and tells a preview where the order asks for one. Raises as `count`."""
        self.latest = step
        self.count(step.index + 1, step.total, cached=step.cached)
        if (index := preview_index(self.step, self.total, self.order.previews)) is not None:
            for number in range(len(self.order.settings.seeds)):
                self.tell(Event("preview", {"index": index, "picture": number}, step.preview(number)))

    def finish(self, pictures: Pictures) -> None:
        """Ends the job with its pictures."""
        self.pictures = pictures
        self._end("done", Event("done", {"seconds": dict(pictures.seconds)}))

    def fail(self, refusal: Refusal) -> None:
        """Ends the job with a reason."""
        self.refusal = refusal
        data = {"code": refusal.code, "message": refusal.message}
        self._end("failed", Event("failed", data))

    def drop(self) -> None:
        """Ends a cancelled job."""
        self._end("cancelled", Event("cancelled"))

    def _end(self, state: State, event: Event) -> None:
        self.latest, self.completed, self.state = None, time.time(), state
        self.ended.set()
        self.tell(event)


def preview_index(step: int, total: int, previews: int) -> int | None:
    """The number of the preview that is due after `step` steps, evenly spaced before the last; None for none.

    >>> [preview_index(step, 8, 3) for step in range(1, 9)]
    [None, 0, None, 1, None, 2, None, None]
    """
    due = [round(total * (number + 1) / (previews + 1)) for number in range(previews)]
    return due.index(step) if step in due and step < total else None
