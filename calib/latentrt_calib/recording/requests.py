"""Requests that a pipeline can run, checked before anything is drawn."""

from __future__ import annotations

from collections.abc import Sequence

from latentrt.errors import RequestError
from latentrt.pipeline.pipeline import Pipeline
from latentrt.request.request import Request


def check_requests(pipeline: Pipeline, requests: Sequence[Request]) -> None:
    """Raises RequestError for the first request that cannot be generated, before any is, and says which it is."""
    for place, request in enumerate(requests, 1):
        try:
            pipeline.steps(request)
        except RequestError as error:
            raise RequestError(f"prompt {place}, {request.prompt!r}: {error}") from error
