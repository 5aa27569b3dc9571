"""Tests the server under load, cancelling, and stopping, over real HTTP on this machine; prints a table of each.

    python -m benchmarks.serve load [--requests 1000] [--clients 64]
    python -m benchmarks.serve cancel [--times 500]
    python -m benchmarks.serve drain [--times 100]
    python -m benchmarks.serve overhead [--times 30]

The model is the built-in one, at 64x64. Every picture is compared with the library's own of the same seed.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import httpx
import numpy as np
from PIL import Image

import latentrt
from benchmarks.export_sd15 import ROOT
from benchmarks.machine import machine, one_line

SMALL = {"width": 64, "height": 64, "steps": 4}
SEEDS = 16
ENGINE = "onnxruntime"
READY_S = 60


@dataclass
class Served:
    """A running server. process: of `latentrt serve`. url: of its root."""

    process: subprocess.Popen[bytes]
    url: str

    def metric(self, name: str) -> float:
        """One of the server's own measures."""
        lines = httpx.get(f"{self.url}/metrics").text.splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@contextmanager
def served(*options: str) -> Iterator[Served]:
    """A server on a free port, ready to take requests; stopped at the end."""
    port = free_port()
    command = [sys.executable, "-m", "latentrt", "serve", "--port", str(port), "--engine", ENGINE, *options]
    process = subprocess.Popen([*command, "--log-level", "warning"], cwd=ROOT, stderr=subprocess.DEVNULL)
    server = Served(process, f"http://127.0.0.1:{port}")
    try:
        wait_until_ready(server)
        yield server
    finally:
        process.terminate()
        process.wait(60)


def wait_until_ready(server: Served) -> None:
    """Waits until the server takes jobs. Raises TimeoutError."""
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{server.url}/health/ready").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    raise TimeoutError(f"{server.url}: not ready after {READY_S} s")


@cache
def library() -> Any:
    """The built-in model, to compare with."""
    return latentrt.load("emoji", engine=ENGINE)


@cache
def expected(seed: int) -> str:
    """The hash of the library's picture of a seed."""
    return digest(library().generate("a red apple", seed=seed, **SMALL).images[0])


def digest(image: Image.Image) -> str:
    """The hash of a picture's pixels."""
    return hashlib.sha256(np.asarray(image).tobytes()).hexdigest()


def digest_of_answer(text: str) -> str:
    """The hash of a picture in base64."""
    return digest(Image.open(io.BytesIO(base64.b64decode(text))))


def ask(client: httpx.Client, server: Served, seed: int, **more: Any) -> httpx.Response:
    """Asks for a picture as OpenAI's clients do."""
    body = {"prompt": "a red apple", "seed": seed, **SMALL, **more}
    return client.post(f"{server.url}/v1/images/generations", json=body, timeout=300)


def load(requests: int, clients: int, batch: int) -> str:
    """Many requests at once. Returns a row: how many were answered how, and how fast."""
    [expected(seed) for seed in range(SEEDS)]
    seconds: list[float] = []
    statuses: Counter[str] = Counter()
    lock = threading.Lock()

    def one(number: int) -> None:
        seed, start = number % SEEDS, time.monotonic()
        with httpx.Client() as client:
            answer = ask(client, server, seed)
        took = time.monotonic() - start
        name = str(answer.status_code)
        if answer.status_code == 200:
            same = digest_of_answer(answer.json()["data"][0]["b64_json"]) == expected(seed)
            name = "200" if same else "200, another picture"
        elif answer.status_code == 429:
            assert int(answer.headers["Retry-After"]) >= 1
            time.sleep(random.random() * 0.2)
        with lock:
            statuses[name] += 1
            if name == "200":
                seconds.append(took)

    with served("--queue", "8", "--batch", str(batch)) as server:
        ask(httpx.Client(), server, 0)
        start = time.monotonic()
        with ThreadPoolExecutor(clients) as pool:
            list(pool.map(one, range(requests)))
        whole = time.monotonic() - start
    p50, p95 = np.percentile(seconds, (50, 95))
    found = ", ".join(f"{name}: {count}" for name, count in sorted(statuses.items()))
    return f"| {batch} | {found} | {sum(statuses.values())} | {len(seconds) / whole:.2f} | {p50:.2f} | {p95:.2f} |"


def cancel(times: int) -> str:
    """Cancels and disconnects at random steps. Returns what was found."""
    rng = random.Random(0)
    late: list[float] = []
    after: list[int] = []
    with served("--queue", "8", "--batch", "1") as server, httpx.Client(timeout=300) as client:
        ask(client, server, 0)
        step_s = seconds_of_step(client, server)
        before = server.metric("latentrt_resident_bytes")
        for number in range(times):
            stop_at = rng.randrange(1, 19)
            ways = (cancelled_job, disconnected)
            late.append(ways[number % 2](client, server, stop_at, after))
            if number == times // 10:
                before = server.metric("latentrt_resident_bytes")
        same = digest_of_answer(ask(client, server, 3).json()["data"][0]["b64_json"]) == expected(3)
        grown = server.metric("latentrt_resident_bytes") - before
    return (
        f"{times} runs of 20 steps ended at a random step, half by DELETE, half by closing the connection; a step "
        f"takes {step_s * 1000:.0f} ms. Steps after DELETE: at most {max(after)}. Until the slot was free: median "
        f"{np.median(late) * 1000:.0f} ms, worst {max(late) * 1000:.0f} ms. Memory grew by {grown / 1e6:.1f} MB after "
        f"the first tenth. The next picture is {'the same' if same else 'ANOTHER ONE'}."
    )


def seconds_of_step(client: httpx.Client, server: Served) -> float:
    """How long a step takes over HTTP."""
    start = time.monotonic()
    ask(client, server, 0, steps=20)
    return (time.monotonic() - start) / 20


def cancelled_job(client: httpx.Client, server: Served, stop_at: int, after: list[int]) -> float:
    """Cancels a job after a step. Returns the seconds until it had ended; adds the steps that it still took."""
    body = {"prompt": "a red apple", "seed": 1, **SMALL, "steps": 20}
    job = client.post(f"{server.url}/v1/jobs", json=body).json()["id"]
    start, steps, told = 0.0, 0, 0
    with client.stream("GET", f"{server.url}/v1/jobs/{job}/events") as events:
        for line in events.iter_lines():
            if line == "event: step":
                steps += 1
                if steps == stop_at:
                    start = time.monotonic()
                    told = httpx.delete(f"{server.url}/v1/jobs/{job}").json()["step"]
            if line == "event: cancelled":
                break
    took = time.monotonic() - start
    after.append(client.get(f"{server.url}/v1/jobs/{job}").json()["step"] - told)
    return took


def disconnected(_client: httpx.Client, server: Served, stop_at: int, _after: list[int]) -> float:
    """Closes the connection of a stream in the middle. Returns the seconds until nothing runs any more."""
    body = {"prompt": "a red apple", "seed": 1, **SMALL, "steps": 20, "stream": True, "partial_images": 3}
    with httpx.Client(timeout=300) as client:
        with client.stream("POST", f"{server.url}/v1/images/generations", json=body) as events:
            for line in events.iter_lines():
                if line.startswith("event:"):
                    break
            time.sleep(stop_at / 19 * 0.05)
        start = time.monotonic()
    while server.metric("latentrt_running_jobs"):
        time.sleep(0.005)
    return time.monotonic() - start


def drain(times: int) -> str:
    """Stops servers in the middle of work. Returns what was found."""
    rng = random.Random(0)
    answers: Counter[str] = Counter()
    codes: Counter[int] = Counter()
    slowest = 0.0
    for _ in range(times):
        seconds, code, found = one_drain(rng)
        slowest = max(slowest, seconds)
        codes[code] += 1
        answers.update(found)
    told = ", ".join(f"{name}: {count}" for name, count in sorted(answers.items()))
    return (
        f"{times} servers stopped under 6 requests each. Answers: {told}. Exit statuses: {dict(codes)}. "
        f"Slowest: {slowest:.1f} s."
    )


def one_drain(rng: random.Random) -> tuple[float, int, list[str]]:
    """Stops one server while six clients wait. Returns seconds, its exit status, and what the clients got."""

    def one(seed: int) -> str:
        try:
            with httpx.Client() as client:
                answer = ask(client, server, seed)
        except httpx.TransportError as error:
            return type(error).__name__
        if answer.status_code != 200:
            return str(answer.status_code)
        same = digest_of_answer(answer.json()["data"][0]["b64_json"]) == expected(seed)
        return "200" if same else "200, another picture"

    with served("--queue", "8", "--drain", "20") as server, ThreadPoolExecutor(6) as pool:
        waiting = [pool.submit(one, seed) for seed in range(6)]
        while server.metric("latentrt_jobs_taken_total") < len(waiting):
            time.sleep(0.02)
        time.sleep(rng.random())
        start = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        found = [one.result() for one in waiting]
        code = server.process.wait(60)
        return time.monotonic() - start, code, found


def overhead(times: int) -> str:
    """The time of a picture over HTTP against the library's. Returns what was found."""
    with served("--batch", "1") as server, httpx.Client() as client:
        ask(client, server, 0)
        library().generate("a red apple", seed=0, **SMALL)
        calls = (
            partial(ask, client, server, 1),
            partial(library().generate, "a red apple", seed=1, **SMALL),
        )
        pairs = [[timed(call) for call in calls] for _ in range(times)]
    over = [http - own for http, own in pairs]
    http, own = np.median(pairs, axis=0)
    return (
        f"{times} pictures each, in turn: {http * 1000:.1f} ms over HTTP, {own * 1000:.1f} ms by the library, medians; "
        f"difference {np.median(over) * 1000:.1f} ms (middle half {np.percentile(over, 25) * 1000:.1f} to "
        f"{np.percentile(over, 75) * 1000:.1f})."
    )


def timed(call: Callable[[], Any]) -> float:
    """The seconds of a call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    """Runs one of the tests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["load", "cancel", "drain", "overhead"])
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--times", type=int)
    given = parser.parse_args()
    print(one_line(machine()))
    if given.what == "load":
        print("| batch | answers | in all | pictures/s | p50, s | p95, s |\n|---|---|---|---|---|---|")
        for batch in (1, 4):
            print(load(given.requests, given.clients, batch), flush=True)
    elif given.what == "cancel":
        print(cancel(given.times or 500))
    elif given.what == "drain":
        print(drain(given.times or 100))
    else:
        print(overhead(given.times or 30))


if __name__ == "__main__":
    main()
