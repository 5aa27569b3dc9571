"""The tutorial's commands, script and page run as printed, on a small model; so does the JavaScript of the web app."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from benchmarks.serve import Served, free_port, wait_until_ready
from tests.export.tiny import save_diffusers_folder
from tests.sweep import sweep

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"^```(bash|python|html)\n(.*?)^```", re.S | re.M)
NAMED = re.compile(r"[Aa]s `([\w.]+)`")
CAPTURED = {"capture_output": True, "text": True, "timeout": 600}
STAYS_UP = ("latentrt serve", "python3 -m http.server")

pytestmark = sweep


@dataclass
class Followed:
    """The tutorial, followed to its end, its servers still up: the folder, and the addresses of both."""

    folder: Path
    server: str
    site: str


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Followed]:
    folder = tmp_path_factory.mktemp("tutorial")
    save_diffusers_folder(folder / "my-model")
    ports = {"8188": str(free_port()), "8000": str(free_port())}
    text = re.sub("|".join(ports), lambda port: ports[port[0]], (DOCS / "tutorial.md").read_text())
    server, site = (f"http://127.0.0.1:{port}" for port in ports.values())
    with ExitStack() as servers:
        for block in BLOCK.finditer(text):
            language, content = block.groups()
            if language != "bash":
                (folder / NAMED.findall(text[: block.start()])[-1]).write_text(content)
            elif content.startswith(STAYS_UP):
                more = f" --port {ports['8188']}" if content.startswith(STAYS_UP[0]) else ""
                url = server if more else site
                servers.enter_context(started(content.strip() + more, folder, url))
            else:
                done = subprocess.run(["bash", "-ec", content], cwd=folder, env=environment(folder), **CAPTURED)
                assert done.returncode == 0, f"{content}{done.stderr}"
        yield Followed(folder, server, site)


def environment(folder: Path) -> dict[str, str]:
    """One of its own: nothing is read from or left in the user's folders, and no engines are measured."""
    homes = {f"XDG_{kind}_HOME": str(folder / kind.lower()) for kind in ("CACHE", "STATE", "CONFIG", "DATA")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, **homes, "PATH": path, "LATENTRT_ENGINE": "cpu"}


@contextmanager
def started(command: str, folder: Path, url: str) -> Iterator[None]:
    """A command that stays up, ready to be asked; stopped at the end."""
    with (folder / "server.log").open("a") as log:
        process = subprocess.Popen(command.split(), cwd=folder, env=environment(folder), stdout=log, stderr=log)
    try:
        if command.startswith("latentrt"):
            wait_until_ready(Served(process, url))
        else:
            httpx.Client(transport=httpx.HTTPTransport(retries=10)).get(url)
        yield
    finally:
        process.terminate()
        process.wait(60)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def test_the_script_gets_the_picture_of_the_command(followed):
    drawn = pixels(followed.folder / "castle.png")
    assert drawn.shape == (64, 64, 3) and len(np.unique(drawn)) > 16
    assert np.array_equal(pixels(followed.folder / "asked.png"), drawn)


@pytest.fixture
def browser(followed):
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install selenium")
    found = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in found:
        pytest.skip("no chromium and chromedriver on the path")
    options = webdriver.ChromeOptions()
    options.binary_location = found[0]
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(found[1]))
    driver.get(followed.site)
    yield driver
    driver.quit()


def shown(browser, prefix: str) -> str:
    """The address of the page's picture, as soon as it begins so."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        source = browser.execute_script("return document.querySelector('img').src")
        if source.startswith(prefix):
            return source
        time.sleep(0.1)
    raise AssertionError(f"no picture after 60 s: {browser.execute_script('return document.body.outerHTML')}")


def test_the_page_shows_a_picture(followed, browser):
    browser.execute_script("document.querySelector('button').click()")
    assert len(shown(browser, "data:image/png;base64,")) > 1000
    assert browser.execute_script("return document.querySelector('img').naturalWidth") == 64


def test_the_web_app_s_job_ends_with_its_picture(followed, browser):
    (script,) = re.findall(r"```js\n(.*?)```", (DOCS / "web-app.md").read_text(), re.S)
    script = script.replace("http://127.0.0.1:8188", followed.server)
    page = browser.execute_async_script(
        f"{script}; const done = arguments[0]; window.events = []; const image = document.querySelector('img');"
        "new MutationObserver(() => window.events.push(image.src.slice(0, 11))).observe(image, {attributes: true});"
        "draw('a castle', image, new AbortController().signal).then(() => done('begun'), (error) => done(`${error}`))"
    )
    assert page == "begun"
    shown(browser, f"{followed.server}/v1/jobs/")
    assert browser.execute_script("return window.events").count("data:image/") == 5
