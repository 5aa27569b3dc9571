"""Two servers behind nginx, by examples/deploy/nginx.conf: one is killed in the middle, then one is stopped.

    python -m benchmarks.serve_proxy [--requests 500] [--clients 8]

Needs nginx (`apt-get install nginx-light`). A client asks again, at most twice, after an error of the connection or
status 502, 503 or 504. Every picture is compared with the library's own of the same seed.
"""

from __future__ import annotations

import argparse
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx

from benchmarks.export_sd15 import ROOT
from benchmarks.machine import machine, one_line
from benchmarks.serve import SEEDS, SMALL, Served, ask, digest_of_answer, expected, free_port, served

RETRIES = 2
RETRIED = (502, 503, 504)
AROUND = """daemon off;
pid {folder}/pid;
error_log {folder}/errors;
events {{}}
http {{
access_log {folder}/requests;
client_body_temp_path {folder}/body;
proxy_temp_path {folder}/proxy;
fastcgi_temp_path {folder}/fastcgi;
uwsgi_temp_path {folder}/uwsgi;
scgi_temp_path {folder}/scgi;
{own}
}}
"""


@contextmanager
def proxied(*servers: Served) -> Iterator[str]:
    """The address of nginx before two servers, with our example's configuration at other ports."""
    port = free_port()
    own = (ROOT / "examples" / "deploy" / "nginx.conf").read_text()
    ports = {"8188": servers[0].url.rpartition(":")[2], "8189": servers[1].url.rpartition(":")[2], "8080": str(port)}
    own = re.sub(r"127\.0\.0\.1:(8188|8189|8080)", lambda found: f"127.0.0.1:{ports[found[1]]}", own)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "nginx.conf"
        file.write_text(AROUND.format(folder=folder, own=own))
        process = subprocess.Popen(["nginx", "-p", folder, "-c", str(file), "-e", f"{folder}/errors"])
        try:
            wait_for(port)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(30)


def wait_for(port: int) -> None:
    """Waits until somebody listens. Raises OSError."""
    for left in range(100, -1, -1):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            if not left:
                raise
            time.sleep(0.05)


class Clients:
    """Clients that ask for pictures, and what they got."""

    def __init__(self, proxy: Served) -> None:
        self.proxy = proxy
        self.answers: Counter[str] = Counter()
        self.retries: Counter[str] = Counter()
        self.seconds: list[float] = []
        self._lock = threading.Lock()

    def one(self, number: int) -> None:
        """Asks for one picture until it comes, or the retries are used up."""
        seed, start = number % SEEDS, time.monotonic()
        for _ in range(RETRIES + 1):
            name, again = self.attempt(seed)
            if not again:
                break
            with self._lock:
                self.retries[name] += 1
        with self._lock:
            self.answers[name] += 1
            self.seconds.append(time.monotonic() - start)

    def attempt(self, seed: int) -> tuple[str, bool]:
        """What one request brought, and whether it may be asked again."""
        try:
            with httpx.Client() as client:
                answer = ask(client, self.proxy, seed)
        except httpx.TransportError as error:
            return type(error).__name__, True
        if answer.status_code != 200:
            return str(answer.status_code), answer.status_code in RETRIED
        same = digest_of_answer(answer.json()["data"][0]["b64_json"]) == expected(seed)
        return ("200" if same else "200, another picture"), False


def overloaded(requests: int, clients: int) -> str:
    """More clients than both servers take, none of which asks again. Returns what they got."""
    with served("--queue", "2") as first, served("--queue", "2") as second, proxied(first, second) as url:
        for server in (first, second):
            ask(httpx.Client(), server, 0)
        found = Clients(Served(first.process, url))
        with ThreadPoolExecutor(clients) as pool:
            answers = Counter(name for name, _again in pool.map(found.attempt, [0] * requests))
        with httpx.Client() as client:
            body = {"prompt": "a red apple", "seed": 1, **SMALL}
            jobs = [client.post(f"{url}/v1/jobs", json=body).json()["id"] for _ in range(4)]
            known = sum(client.get(f"{url}/v1/jobs/{job}").status_code == 200 for job in jobs)
    told = ", ".join(f"{name}: {count}" for name, count in sorted(answers.items()))
    return f"{requests} requests of {clients} clients, queues of 2: {told}. Jobs found again: {known} of {len(jobs)}."


def lost_one(sent: signal.Signals, requests: int, clients: int) -> str:
    """Sends a signal to one of two servers when half of the requests are answered. Returns a row."""
    with served("--queue", "8") as first, served("--queue", "8") as second, proxied(first, second) as url:
        proxy = Served(first.process, url)
        for server in (first, second):
            ask(httpx.Client(), server, 0)
        found = Clients(proxy)
        with ThreadPoolExecutor(clients) as pool:
            waiting = [pool.submit(found.one, number) for number in range(requests)]
            while sum(found.answers.values()) < requests // 2:
                time.sleep(0.005)
            first.process.send_signal(sent)
            for one in waiting:
                one.result()
        status = first.process.wait(60)
        shares = second.metric("latentrt_jobs_taken_total")
    told = ", ".join(f"{name}: {count}" for name, count in sorted(found.answers.items()))
    retried = ", ".join(f"{name}: {count}" for name, count in sorted(found.retries.items())) or "none"
    return f"| {sent.name} | {requests} | {told} | {retried} | {max(found.seconds):.1f} | {shares:.0f} | {status} |"


def main() -> None:
    """Prints a row for each way of losing a server."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--clients", type=int, default=8)
    given = parser.parse_args()
    [expected(seed) for seed in range(SEEDS)]
    print(one_line(machine()))
    print("| signal | requests | answers | asked again | slowest, s | jobs of the other server | exit status |")
    print("|---|---|---|---|---|---|---|")
    for sent in (signal.SIGKILL, signal.SIGTERM):
        print(lost_one(sent, given.requests, given.clients), flush=True)
    print(overloaded(given.clients * 6, given.clients * 4))


if __name__ == "__main__":
    main()
