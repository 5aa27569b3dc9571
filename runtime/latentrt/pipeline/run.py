"""A run: the steps of a picture as an iterator, within a memory budget, restarted once if memory is short."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from itertools import islice
from typing import TYPE_CHECKING

from latentrt.errors import OutOfMemoryError
from latentrt.pipeline.components import Components
from latentrt.pipeline.memory import smaller_request
from latentrt.pipeline.picture import picture
from latentrt.pipeline.prepare import Prepared
from latentrt.pipeline.result import Result, Step
from latentrt.pipeline.timed import Timed
from latentrt.pipeline.turns import TURNS
from latentrt.pipeline.two_passes import two_passes
from latentrt.request.settings import Settings
from latentrt.tensors import Array

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger(__name__)


class Run:
    """A running generation: an iterator of steps."""

    def __init__(self, components: Components, prepared: Prepared) -> None:
        self._components, self._prepared = components, prepared
        self._timed = Timed(components)
        self._result: Result | None = None
        self._done, self._again = 0, False
        self._steps = self._run()

    def __iter__(self) -> Iterator[Step]:
        return self

    def __next__(self) -> Step:
        try:
            return self._next()
        except MemoryError as error:  # an engine's, NumPy's or Pillow's
            if self._again:
                raise self._short(error) from error
            log.warning("too little memory: starting again with one component at a time (%s)", error)
        self._start_again()  # outside the handler, because its error keeps the failed call's arrays alive
        return next(self)

    @property
    def settings(self) -> Settings:
        """The resolved settings."""
        return self._prepared.settings

    @property
    def timings(self) -> Mapping[str, float]:
        """Seconds by phase until now; see `Result`."""
        return self._timed.timings.seconds

    @property
    def total(self) -> int:
        """Number of steps of the run."""
        return self._prepared.total

    @property
    def result(self) -> Result:
        """The result. Raises RuntimeError before the last step is done."""
        if self._result is None:
            raise RuntimeError("the run is not finished: iterate over it to the end first")
        return self._result

    def latents(self) -> Array:
        """Runs to the last step and returns its latents, for another run to continue; nothing is decoded."""
        return deque(islice(self, self.total), maxlen=1)[0].latents

    def _run(self) -> Iterator[Step]:
        """Yields the steps, and stores the result at their end."""
        stages = two_passes if self._prepared.second else picture
        images = yield from stages(self._timed, self._prepared)
        self._result = self._finished(images)

    def _finished(self, images: tuple[Image, ...]) -> Result:
        """The result with these images."""
        components, bundle = self._components, self._components.bundle
        made_by = (components.engine, bundle.manifest.name, bundle.sha256, components.loras)
        return Result(images, self.settings, self.timings, *made_by)

    def _next(self) -> Step:
        """The next step; with a budget, in the run's turn."""
        components, prepared = self._components, self._prepared
        with TURNS.of(self._timed, components, keep=prepared.keeps) if components.budget else nullcontext():
            step = next(self._steps)
        self._done += 1
        return step

    def _start_again(self) -> None:
        """Starts again with the smallest plan; steps already returned are computed again and skipped."""
        self._again, self._prepared = True, self._prepared.smallest()
        self._components.unload()
        self._steps = islice(self._run(), self._done, None)

    def _short(self, error: MemoryError) -> OutOfMemoryError:
        """The error for a run that fails even with the smallest plan."""
        components, prepared = self._components, self._prepared.second or self._prepared
        advice = smaller_request(components.engine, components.engines, components.bundle.manifest, prepared.demand)
        return OutOfMemoryError(f"{str(error) or 'out of memory'}; {advice}")
