"""Sends generated requests to the server and counts its answers: no server error, no answer that is not described.

    python -m benchmarks.serve_contract [--requests 5000] [--seed 0]

The requests are schemathesis', made from the description at /openapi.json: half of those with a body fit their schema,
half do not. Steps and sizes are made small, so that pictures come in well under a second. The exit status is 1 if an
answer broke the contract.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from PIL import Image
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi import checks

from latentrt_serve.limits import Limits
from tests.serve.contract import base64_png, emoji_server, listening, png

CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]
LIMITS = Limits(pixels=64 * 64 * 4, steps=4, pictures=2, image_pixels=256 * 256, body=1_000_000)
# Fields that keep a request small, in each interface.
SMALL: Mapping[str, Mapping[str, Any]] = {
    "/v1/images/generations": {"steps": 1, "size": "64x64"},
    "/v1/images/edits": {"steps": 2, "size": "64x64", "strength": 0.7},
    "/sdapi/v1/txt2img": {"steps": 1, "width": 64, "height": 64},
    "/sdapi/v1/img2img": {"steps": 2, "width": 64, "height": 64, "denoising_strength": 0.7},
    "/v1/jobs": {"steps": 1, "width": 64, "height": 64},
}
# What is there to ask for, in paths.
REAL: Mapping[str, Any] = {"name": "emoji", "number": 0}
# Shares of the requests: of an operation with a body, of one with a path of its own, of a fixed one.
SHARES = {"body": 60, "path": 20, "fixed": 1}
MOST_FIELDS = 4
RED = Image.new("RGB", (64, 64), "red")
HOLE = Image.new("L", (64, 64))
HOLE.paste(255, (16, 16, 48, 48))
PICTURES = (RED, HOLE, Image.new("RGBA", (24, 40), (0, 0, 255, 90)), Image.new("RGB", (300, 300)))


@dataclass
class Counts:
    """Answers by operation and status, and what broke the contract."""

    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    faults: dict[str, str] = field(default_factory=dict)

    def table(self) -> str:
        """The answers as a table in markdown."""
        statuses = sorted({status for _, status in self.answers})
        names = sorted({name for name, _ in self.answers})
        rows = [["operation", *map(str, statuses)], ["---", *["---:"] * len(statuses)]]
        rows += [[f"`{name}`", *(str(self.answers[name, one] or "") for one in statuses)] for name in names]
        rows.append(["all", *(str(sum(self.answers[name, one] for name in names)) for one in statuses)])
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def described(address: str) -> Any:
    """The server's description of itself, with real pictures among the values of its fields."""
    schemathesis.openapi.format("byte", st.sampled_from([base64_png(one) for one in PICTURES]) | st.text(max_size=20))
    schemathesis.openapi.format("binary", st.sampled_from([png(one) for one in PICTURES]) | st.binary(max_size=20))
    return schemathesis.openapi.from_url(f"{address}/openapi.json")


def share_of(operation: Any) -> int:
    """How many requests an operation gets, beside others."""
    kind = "body" if operation.body else "path" if operation.path_parameters else "fixed"
    return SHARES[kind]


def made_small(case: Any, data: st.DataObject) -> None:
    """Makes a request that fits its schema one of few fields, which is quick to carry out."""
    if isinstance(case.body, dict) and case.path in SMALL:
        optional = sorted(case.body.keys() - {"image", "init_images"})
        kept = data.draw(st.sets(st.sampled_from(optional), max_size=MOST_FIELDS)) if optional else set()
        few = {name: one for name, one in case.body.items() if name not in optional or name in kept}
        case.body = {**SMALL[case.path], **few} if data.draw(st.booleans()) else {**few, **SMALL[case.path]}


def send(operation: Any, mode: GenerationMode, number: int, start: int, counts: Counts, jobs: deque[str]) -> None:
    """Sends generated requests to one operation. jobs: ids of real ones, and where new ones are kept."""

    @seed(start)
    @settings(
        max_examples=number,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode), data=st.data())
    def one(case: Any, data: st.DataObject) -> None:
        if mode == GenerationMode.POSITIVE:
            made_small(case, data)
        if "job_id" in case.path_parameters and jobs and data.draw(st.booleans()):
            case.path_parameters["job_id"] = data.draw(st.sampled_from(sorted(jobs)))
        for name in REAL.keys() & case.path_parameters.keys() if data.draw(st.booleans()) else ():
            case.path_parameters[name] = REAL[name]
        response = case.call(timeout=60)
        name = f"{case.method} {case.path}"
        counts.answers[name, response.status_code] += 1
        if response.status_code == 202:
            jobs.append(response.json()["id"])
        try:
            case.validate_response(response, checks=CHECKS)
        except FailureGroup as error:
            counts.faults.setdefault(f"{name} {response.status_code}", str(error))

    one()


def has_schema(operation: Any) -> bool:
    """Whether a body can break its description; the bytes of a file cannot."""
    return any(not one.media_type.startswith("image/") for one in operation.body)


def run(requests: int, start: int = 0) -> Counts:
    """Sends about so many requests, and counts the answers."""
    counts, jobs = Counts(), deque[str](maxlen=20)
    with listening(emoji_server(limits=LIMITS)) as address:
        operations = [result.ok() for result in described(address).get_all_operations()]
        operations.sort(key=lambda one: one.method != "post")  # so that there are jobs to ask for
        each = requests / sum(map(share_of, operations))
        for operation in operations:
            number = max(1, round(each * share_of(operation)))
            modes = [GenerationMode.POSITIVE, *([GenerationMode.NEGATIVE] if has_schema(operation) else [])]
            for mode in modes:
                send(operation, mode, max(1, number // len(modes)), start, counts, jobs)
    return counts


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    began = time.monotonic()
    counts = run(options.requests, options.seed)
    print(counts.table())
    print(
        f"\n{sum(counts.answers.values()):,} requests in {time.monotonic() - began:.0f} s, {len(counts.faults)} faults"
    )
    for name, text in counts.faults.items():
        print(f"\n## {name}\n{text}", file=sys.stderr)
    return 1 if counts.faults else 0


if __name__ == "__main__":
    sys.exit(main())
