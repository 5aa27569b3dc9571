"""An engine in front of another: what records, fails or waits between a pipeline and its engine."""

from __future__ import annotations

from collections.abc import Mapping

from latentrt.engines import Engine, MemoryModel
from latentrt.tensors import Array


class Wrapped:
    """An engine that is another in all that a subclass does not change."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @property
    def memory(self) -> MemoryModel | None:
        """The memory that the engine needs."""
        return self.engine.memory

    def __call__(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The engine's outputs."""
        return self.engine(feeds)

    def load(self) -> None:
        """Loads the graph."""
        self.engine.load()

    def unload(self) -> None:
        """Frees the graph's memory."""
        self.engine.unload()

    def close(self) -> None:
        """Frees everything."""
        self.engine.close()
