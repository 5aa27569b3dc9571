"""Refusals: what a client is told when its request is not carried out, whichever interface it speaks."""

from __future__ import annotations

import re

from latentrt.errors import CheckpointError, LatentError, NotFiniteError, RequestError

FIELD = re.compile(r"^(?:(negative) )?([a-z_]+)[:,]")


class Refusal(Exception):
    """A request that is not carried out.

    status: of HTTP. code: a word for programs. param: the field that is wrong. retry_after: seconds until another try.
    """

    def __init__(
        self, status: int, code: str, message: str, *, param: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.param, self.retry_after = param, retry_after

    @property
    def kind(self) -> str:
        """The type of the error in OpenAI's words."""
        return {401: "authentication_error", 429: "rate_limit_error"}.get(
            self.status, "invalid_request_error" if self.status < 500 else "server_error"
        )


def refusal_of(error: BaseException) -> Refusal:
    """The refusal that an error amounts to."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, RequestError):
        found = FIELD.match(str(error))
        return Refusal(400, "invalid_value", str(error), param=found[1] or found[2] if found else None)
    if isinstance(error, NotFiniteError | CheckpointError):  # of guidance, weights or a LoRA that the client chose
        return Refusal(422, "no_picture", str(error))
    if isinstance(error, MemoryError):
        return Refusal(503, "out_of_memory", str(error) or "out of memory; ask for less", retry_after=10)
    if isinstance(error, LatentError):
        return Refusal(500, "model_failed", str(error))
    return Refusal(500, "internal_error", "the server failed; its log has the reason")


def too_busy(waiting: int, seconds: float) -> Refusal:
    """The refusal of a full queue. seconds: until a place is likely to be free."""
    after = max(1, round(seconds))
    return Refusal(429, "queue_full", f"{waiting} requests are waiting; try again in {after} s", retry_after=after)


def draining() -> Refusal:
    """The refusal of a server that is stopping."""
    return Refusal(503, "draining", "the server is stopping; try another one", retry_after=5)
