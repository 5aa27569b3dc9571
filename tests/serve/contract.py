"""A real server of the built-in model in a thread, and pictures as clients send them."""

from __future__ import annotations

import base64
import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from PIL import Image

from latentrt_serve.app import create_app
from latentrt_serve.limits import Limits
from latentrt_serve.room import Room
from latentrt_serve.server import Server
from latentrt_serve.shelf import ModelOptions, shelf_of

USUAL = Limits()
START_S, STOP_S = 20.0, 20.0


def emoji_server(places: int = 8, limits: Limits = USUAL, batch: int = 4, **more: Any) -> Server:
    """A server of the built-in model, named emoji."""
    shelf = shelf_of({"emoji": "emoji"}, ModelOptions("onnxruntime", batch=batch, lora_dir=more.pop("lora_dir", None)))
    return Server(Room(shelf, places), limits, **more)


@contextmanager
def listening(server: Server) -> Iterator[str]:
    """A block in which the server listens on a free port; its address."""
    config = uvicorn.Config(create_app(server), port=0, log_config=None, lifespan="on", timeout_graceful_shutdown=2)
    process = uvicorn.Server(config)
    thread = threading.Thread(target=process.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + START_S
    while not process.started:
        if time.monotonic() > deadline:
            raise TimeoutError("the server did not start")
        time.sleep(0.01)
    port = process.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.room.drain(STOP_S)
        process.should_exit = True
        thread.join(STOP_S)


def base64_png(image: Image.Image) -> str:
    """The picture's PNG in base64."""
    return base64.b64encode(png(image)).decode()


def png(image: Image.Image) -> bytes:
    """The picture's PNG."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def image_of(text: str) -> Image.Image:
    """The picture in base64."""
    return Image.open(io.BytesIO(base64.b64decode(text, validate=True)))
