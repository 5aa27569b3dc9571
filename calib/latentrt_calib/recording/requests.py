"""Check of requests before any picture is generated."""

from __future__ import annotations

from collections.abc import Sequence

from latentrt.errors import RequestError
from latentrt.pipeline.pipeline import Pipeline
from latentrt.request.request import Request


def check_requests(pipeline: Pipeline, requests: Sequence[Request]) -> None:
    """Raises RequestError for the first request that cannot be generated, with its number and prompt."""
    for number, request in enumerate(requests, 1):
        try:
            pipeline.steps(request)
        except RequestError as error:
            raise RequestError(f"prompt {number}, {request.prompt!r}: {error}") from error
