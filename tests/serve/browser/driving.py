"""The page in a browser, its server in a thread, and what the server answers without the page."""

import base64
import io
import json
import threading
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np
import uvicorn
from PIL import Image
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from latentrt_serve.app import create_app
from latentrt_serve.room import Room
from latentrt_serve.server import Server
from latentrt_serve.shelf import shelf_of

DROP = """
const [data, name, place] = arguments;
const file = new File([Uint8Array.from(atob(data), (one) => one.charCodeAt(0))], name, { type: "image/png" });
const transfer = new DataTransfer();
transfer.items.add(file);
for (const kind of ["dragenter", "dragover", "drop"])
  document.querySelector(place).dispatchEvent(
    new DragEvent(kind, { bubbles: true, cancelable: true, dataTransfer: transfer }));
"""


class Page:
    """A browser with the page open."""

    def __init__(self, driver: Any, url: str) -> None:
        self.driver, self.url = driver, url

    def open(self) -> "Page":
        self.driver.get(self.url)
        self.wait("document.body.dataset.ready")
        return self

    def ask(self, script: str) -> Any:
        return self.driver.execute_script(f"return {script}")

    def wait(self, script: str, seconds: float = 60) -> Any:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := self.ask(script):
                return found
            time.sleep(0.02)
        raise AssertionError(f"{script}: never true; {self.text('#state')}; {self.errors()}")

    def find(self, css: str) -> Any:
        return self.driver.find_element(By.CSS_SELECTOR, css)

    def text(self, css: str) -> str:
        return str(self.ask(f"document.querySelector({json.dumps(css)})?.innerText ?? ''"))

    def press(self, css: str) -> None:
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", self.find(css))
        self.find(css).click()

    def fill(self, name: str, text: str) -> None:
        self.find(f"#{name}").clear()
        self.find(f"#{name}").send_keys(text)

    def choose(self, group: str, value: str) -> None:
        self.driver.execute_script(f"document.querySelector('input[name={group}][value={value}]').click()")

    def drop(self, data: bytes, name: str, place: str) -> None:
        self.driver.execute_script(DROP, base64.b64encode(data).decode(), name, place)

    def emulate(self, size: tuple[int, int], **features: str) -> None:
        values = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": values})
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size[0] < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def done(self) -> None:
        self.wait(
            "document.querySelector('.print .enlarge img')?.complete && !document.querySelector('#generate').hidden"
        )

    def pixels(self, css: str) -> np.ndarray:
        """The pixels of a picture on the page."""
        script = """const image = document.querySelector(arguments[0]), canvas = document.createElement("canvas");
        [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
        canvas.getContext("2d").drawImage(image, 0, 0);
        return canvas.toDataURL("image/png").split(",")[1];"""
        data = base64.b64decode(self.driver.execute_script(script, css))
        return pixels_of(data)

    def errors(self) -> list[str]:
        """What went wrong in the browser: scripts, and what its policy refused."""
        told = self.driver.get_log("browser")
        return [one["message"] for one in told if one["level"] == "SEVERE" and "status of 4" not in one["message"]]


def serving(**parts: Any) -> Iterator[str]:
    """The address of a server in a thread."""
    room = Room(shelf_of({"emoji": "emoji"}, parts.pop("options")), places=4)
    config = uvicorn.Config(create_app(Server(room, **parts)), port=0, log_config=None, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    room.drain(0)
    server.should_exit = True
    thread.join(10)


def asked(url: str, body: Any = None) -> bytes:
    """The answer to a call of the server, without the page."""
    data = None if body is None else json.dumps(body).encode()
    call = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(call, timeout=60) as answer:
        return bytes(answer.read())


def drawn(address: str, body: Any) -> bytes:
    """The file of a picture that the server draws without the page."""
    job = json.loads(asked(f"{address}v1/jobs", body))
    asked(f"{address}v1/jobs/{job['id']}/events")
    return asked(f"{address}v1/jobs/{job['id']}/pictures/0")


def pixels_of(file: bytes) -> np.ndarray:
    """The pixels of a picture's file."""
    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB")).astype(int)


def generated(page: Page, prompt: str = "a red apple", seed: str = "7", steps: str = "8") -> None:
    for name, value in {"prompt": prompt, "seed": seed, "steps": steps}.items():
        page.fill(name, value)
    page.find("#prompt").send_keys(Keys.CONTROL, Keys.ENTER)
    page.done()


def start_with(page: Page, path: str, mode: str) -> None:
    page.find("#start-file").send_keys(path)
    page.wait("!document.querySelector('#bench').hidden")
    page.choose("mode", mode)
