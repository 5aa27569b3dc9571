"""Three Ray nodes on one machine: what the cluster does, and whether a lost node costs an answer.

    python -m venv build/ray
    build/ray/bin/pip install '.[cpu,serve,cluster]' httpx
    build/ray/bin/python -m benchmarks.serve_cluster features
    build/ray/bin/python -m benchmarks.serve_cluster lost [--rounds 20] [--requests 120] [--clients 8]

In a round of `lost`, one of the two nodes that draw is killed after a third of the requests, and another one joins
before the next round. A client asks again, at most twice, after an error of the connection or status 500, 502 or 503,
and waits as long as a 429 says. Every picture is compared with the library's own of the same seed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import httpx

# First of all that imports Ray: it sets the token that Ray reads then.
from examples.cluster.three_nodes import POOL, three_nodes  # isort: skip

import ray
from ray import serve

from benchmarks.machine import machine, one_line
from benchmarks.serve import SEEDS, SMALL, digest_of_answer, expected
from latentrt_serve.cluster.pool import start

URL = "http://127.0.0.1:8188"
RETRIES, RETRIED = 2, (500, 502, 503)
READY_S = 120
NODES: tuple[dict[str, float], ...] = ({"latentrt": 1, "orin": 1}, {"latentrt": 1, "rtx": 1})


def ask(seed: int, route: str = "", **more: Any) -> httpx.Response:
    """Asks for a picture as OpenAI's clients do."""
    body = {"prompt": "a red apple", "seed": seed, **SMALL, **more}
    return httpx.post(f"{URL}{route}/v1/images/generations", json=body, timeout=300)


def same(answer: httpx.Response, seed: int) -> bool:
    """Whether an answer holds the library's picture of a seed."""
    return digest_of_answer(answer.json()["data"][0]["b64_json"]) == expected(seed)


def running() -> int:
    """The servers of the pool that run."""
    deployments = serve.status().applications[POOL.name].deployments
    return sum(one.replica_states.get("RUNNING", 0) for one in deployments.values())


def wait_for(servers: int) -> float:
    """Waits until that many servers run. Returns the seconds. Raises TimeoutError."""
    start_s = time.monotonic()
    while running() != servers:
        if time.monotonic() - start_s > READY_S:
            raise TimeoutError(f"{running()} servers run after {READY_S} s, not {servers}")
        time.sleep(0.2)
    return time.monotonic() - start_s


class Round:
    """The requests of one round, and what they got."""

    def __init__(self) -> None:
        self.answers: Counter[str] = Counter()
        self.again: Counter[str] = Counter()
        self.slowest = 0.0
        self._lock = threading.Lock()

    def one(self, number: int) -> None:
        """Asks for one picture until it comes, or the retries are used up."""
        start_s, left = time.monotonic(), RETRIES
        while True:
            name, wait, costs = self.attempt(number % SEEDS)
            if name.startswith("200") or left < costs:
                break
            left -= costs
            with self._lock:
                self.again[name] += 1
            time.sleep(wait)
        with self._lock:
            self.answers[name] += 1
            self.slowest = max(self.slowest, time.monotonic() - start_s)

    def attempt(self, seed: int) -> tuple[str, float, int]:
        """What one request brought, the seconds to wait, and how many of the retries another one costs."""
        try:
            answer = ask(seed)
        except httpx.TransportError as error:
            return type(error).__name__, 0.0, 1
        if answer.status_code == 200:
            return ("200" if same(answer, seed) else "200, another picture"), 0.0, 0
        if answer.status_code == 429:
            return "429", float(answer.headers["Retry-After"]), 0
        return str(answer.status_code), 0.0, 1 if answer.status_code in RETRIED else RETRIES + 1


def lost(rounds: int, requests: int, clients: int) -> str:
    """Kills a node in the middle of each round. Returns what was found."""
    answers: Counter[str] = Counter()
    again: Counter[str] = Counter()
    slowest, joined = 0.0, []
    with three_nodes(*NODES) as (cluster, workers):
        start(POOL)
        for number in range(rounds):
            joined.append(wait_for(2))
            found = Round()
            with ThreadPoolExecutor(clients) as pool:
                waiting = [pool.submit(found.one, one) for one in range(requests)]
                while sum(found.answers.values()) < requests // 3:
                    time.sleep(0.01)
                cluster.remove_node(workers.pop(0), allow_graceful=False)
                for one in waiting:
                    one.result()
            workers.append(cluster.add_node(num_cpus=2, resources=NODES[number % 2]))
            answers.update(found.answers)
            again.update(found.again)
            slowest = max(slowest, found.slowest)
            print(f"round {number + 1}: {dict(found.answers)}, asked again {dict(found.again)}", flush=True)
    told = ", ".join(f"{name}: {count}" for name, count in sorted(answers.items()))
    retried = ", ".join(f"{name}: {count}" for name, count in sorted(again.items())) or "none"
    return (
        f"{rounds} rounds of {requests} requests, {clients} clients, a node killed in each: {told}. Asked again: "
        f"{retried}. Slowest answer: {slowest:.1f} s. A new node drew after at most {max(joined):.0f} s."
    )


def features() -> str:
    """Resources, tokens, streams, cancelling, a full pool, and more servers under load. Returns a table."""
    rows: dict[str, str] = {}
    with three_nodes(*NODES) as (cluster, _workers):
        names = ("orin", "rtx")
        kinds = [replace(POOL, name=one, route=f"/{one}", resources={one: 1}, least=1, most=1) for one in names]
        start(*kinds)
        free = ray.available_resources()
        drawn = [same(ask(number, f"/{one.name}"), number) for number, one in enumerate(kinds)]
        rows["pools that want {'orin': 1} and {'rtx': 1}"] = (
            f"pictures right: {drawn}; left of both: {[free.get(one.name, 0) for one in kinds]}"
        )
        for one in kinds:
            serve.delete(one.name)
        rows["a program with another token"] = stranger(cluster.address)
        start(replace(POOL, least=1, most=2, waiting=4))
        rows["a stream"] = streamed()
        with ThreadPoolExecutor(40) as pool:
            found = list(pool.map(ask, [0] * 40))
        told = Counter(one.status_code for one in found)
        hint = {one.headers.get("Retry-After") for one in found if one.status_code == 429}
        rows["40 clients, 4 may wait"] = f"statuses {dict(told)}, Retry-After {sorted(map(str, hint))}"
        rows["load, one server that may become two"] = scaled()
    return "\n".join(f"| {name} | {found} |" for name, found in rows.items())


def stranger(address: str) -> str:
    """What a program gets that connects with another token."""
    code = f"import ray; ray.init(address={address!r}, log_to_driver=False)"
    other = {**os.environ, "RAY_AUTH_TOKEN": "0" * 64}
    done = subprocess.run([sys.executable, "-c", code], env=other, capture_output=True, text=True, timeout=120)
    last = (done.stderr.strip().splitlines() or [""])[-1]
    return f"{'refused' if done.returncode else 'LET IN'}: {last[:100]}"


def streamed() -> str:
    """When the events of a stream come, and how soon one that a client leaves ends."""
    body = {"prompt": "a red apple", "seed": 1, **SMALL, "steps": 40, "stream": True, "partial_images": 3}
    start_s, times = time.monotonic(), []
    with httpx.stream("POST", f"{URL}/v1/images/generations", json=body, timeout=300) as events:
        times = [time.monotonic() - start_s for line in events.iter_lines() if line.startswith("event:")]
    with httpx.stream("POST", f"{URL}/v1/images/generations", json={**body, "steps": 150}, timeout=300) as events:
        next(events.iter_lines())
    gone = time.monotonic()
    while metric("latentrt_running_jobs"):
        time.sleep(0.02)
    cancelled = time.monotonic() - gone
    return f"events after {', '.join(f'{one:.2f}' for one in times)} s; a cut one ended after {cancelled:.2f} s"


def metric(name: str) -> float:
    """One of the measures of the only server."""
    lines = httpx.get(f"{URL}/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


def scaled() -> str:
    """Asks without a pause until a second server runs."""
    start_s, ends = time.monotonic(), threading.Event()

    def client(seed: int) -> None:
        while not ends.is_set():
            ask(seed)

    with ThreadPoolExecutor(12) as pool:
        for seed in range(12):
            pool.submit(client, seed)
        try:
            wait_for(2)
        finally:
            ends.set()
    return f"two after {time.monotonic() - start_s:.0f} s"


def main() -> None:
    """Runs one of the tests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["features", "lost"])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--requests", type=int, default=120)
    parser.add_argument("--clients", type=int, default=8)
    given = parser.parse_args()
    [expected(seed) for seed in range(SEEDS)]
    print(one_line(machine()))
    print(features() if given.what == "features" else lost(given.rounds, given.requests, given.clients))


if __name__ == "__main__":
    main()
