"""A run's components with the time of their calls by phase."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from latentrt.pipeline.components import Components
from latentrt.pipeline.memory import MemoryPlan
from latentrt.pipeline.timings import Timings
from latentrt.tensors import Array, Tensor


@dataclass
class Timed:
    """Components for the stages of a run: the time of each call counts to the phase of the component's name."""

    components: Components
    timings: Timings = field(default_factory=Timings)

    def phase(self, name: str) -> AbstractContextManager[None]:
        """A block whose time counts to a phase."""
        return self.timings.phase(name)

    def call(self, component: str, *, kept: Collection[str] = (), **feeds: Tensor) -> dict[str, Array]:
        """The outputs of one component by name; see `Components.call`."""
        with self.phase(component):
            return self.components.call(component, kept=kept, **feeds)

    def encode(self, pixels: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of latents; see `Components.encode`."""
        with self.phase("vae_encoder"):
            return self.components.encode(pixels)

    def decode(self, latents: Array, decoder: str) -> Array:
        """Pixels; see `Components.decode`."""
        with self.phase(decoder):
            return self.components.decode(latents, decoder)

    def release(self, plan: MemoryPlan | None) -> None:
        """Frees the components' memory between stages if the plan requires it; they load again when called."""
        if plan is not None and not plan.keep:
            self.components.unload()
