"""Server-sent events: text lines that a browser's EventSource and OpenAI's client read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def event_text(kind: str, data: Mapping[str, Any]) -> str:
    """One event."""
    return f"event: {kind}\ndata: {json.dumps(data)}\n\n"
