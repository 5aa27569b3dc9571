"""A server of the built-in model, with small pictures and few steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import latentrt
from latentrt_serve.fields import order_of
from latentrt_serve.job import Order
from latentrt_serve.limits import Limits
from latentrt_serve.room import Room
from latentrt_serve.shelf import ModelOptions, shelf_of

SMALL = {"width": 64, "height": 64, "steps": 3}


def order(room: Room, client: str = "", **body: Any) -> Order:
    """An order of the built-in model."""
    body = {"prompt": "a red apple", "seed": 1, **SMALL, **body}
    return order_of(body, room.shelf.find("emoji"), Limits(), client)


@contextmanager
def opened(places: int = 8, **options: Any) -> Iterator[Room]:
    """A room of the built-in model on ONNX Runtime, which is drained at the end."""
    room = Room(shelf_of({"emoji": "emoji"}, ModelOptions(engine="onnxruntime", **options)), places)
    room.start()
    try:
        yield room
    finally:
        room.drain(30)


@pytest.fixture(scope="session")
def pipeline():
    """The built-in model by itself, to compare with."""
    with latentrt.load("emoji", engine="onnxruntime") as pipe:
        yield pipe
