"""Waiting for a job in the event loop, while its thread works."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from fastapi import Request as HttpRequest

from latentrt_serve.job import ENDED, Event, Job, Pictures
from latentrt_serve.refusal import Refusal
from latentrt_serve.room import Room

DISCONNECT_POLL_S = 0.25
CLIENT_CLOSED = 499  # as nginx logs it; nobody reads the answer


async def events_of(job: Job) -> AsyncIterator[Event]:
    """The events of a job from now on, until its end; the end itself at once for a job that has ended."""
    loop, queue = asyncio.get_running_loop(), asyncio.Queue[Event]()

    def listener(event: Event) -> None:
        loop.call_soon_threadsafe(queue.put_nowait, event)

    forget = job.listen(listener)
    try:
        if job.ended.is_set() and queue.empty():
            yield Event(job.state)
            return
        while True:
            event = await queue.get()
            yield event
            if event.kind in ENDED:
                return
    finally:
        forget()


async def pictures_of(job: Job, room: Room, http: HttpRequest) -> Pictures:
    """The pictures of a job. A client that goes away cancels it. Raises Refusal for a job without pictures."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()

    def listener(event: Event) -> None:
        if event.kind in ENDED:
            loop.call_soon_threadsafe(ended.set)

    forget = job.listen(listener)
    try:
        while not (ended.is_set() or job.ended.is_set()):
            try:
                await asyncio.wait_for(ended.wait(), DISCONNECT_POLL_S)
            except asyncio.TimeoutError:
                if await http.is_disconnected():
                    room.cancel(job)
    except asyncio.CancelledError:
        room.cancel(job)
        raise
    finally:
        forget()
    return finished(job)


def finished(job: Job) -> Pictures:
    """The pictures of a job that has ended. Raises Refusal where it has none."""
    if job.pictures is not None:
        return job.pictures
    if job.refusal is not None:
        raise job.refusal
    raise Refusal(CLIENT_CLOSED, "cancelled", "the request was cancelled")
