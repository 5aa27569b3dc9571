"""What clients chose for their later requests, each for itself."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

MOST_CLIENTS = 1000


class Preferences:
    """Values by client and name. Those of the clients that were not seen for longest are forgotten."""

    def __init__(self) -> None:
        self._of: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, client: str) -> dict[str, Any]:
        """The values of a client."""
        with self._lock:
            return dict(self._of.get(client, {}))

    def change(self, client: str, values: Mapping[str, Any]) -> None:
        """Keeps values of a client beside those that it has."""
        with self._lock:
            self._of[client] = {**self._of.pop(client, {}), **values}
            while len(self._of) > MOST_CLIENTS:
                self._of.popitem(last=False)
