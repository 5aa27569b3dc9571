"""Graphs hoisted out of a denoiser, and what is left of it, as components."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from latentrt.bundle.sources import InputSource, component_source
from latentrt.tensors import TensorSpec
from latentrt_export.components.steering import Run
from latentrt_export.networks.component import Part, part


@dataclass(frozen=True)
class HoistedPart:
    """A graph with one output of its own name. inputs: the source of each. axes: of the output, before its width."""

    name: str
    module: nn.Module
    inputs: Mapping[TensorSpec, InputSource]
    axes: tuple[str | int, ...]

    def run(self, feeds: Run) -> Tensor:
        """The output for the feeds of a run."""
        output: Tensor = self.module(*(feeds[spec.name] for spec in self.inputs))
        return output

    def output(self, width: int, *axes: str | int) -> TensorSpec:
        """The spec of the output. axes: those before the width, by default the graph's own."""
        return TensorSpec(self.name, "float32", (*(axes or self.axes), width))

    @property
    def source(self) -> InputSource:
        """The source of the denoiser's input that takes the output."""
        return component_source(self.name, *self.inputs.values())

    def part(self, runs: Sequence[Run]) -> Part:
        """The component to export."""
        output = self.output(int(runs[0][self.name].shape[-1]))
        sources = {spec.name: source for spec, source in self.inputs.items()}
        return part(self.name, lambda: self.module, (*self.inputs,), (output,), runs, role="hoisted", sources=sources)


def shared_inputs(hoisted: Sequence[HoistedPart], runs: Sequence[Run]) -> dict[TensorSpec, InputSource]:
    """The denoiser's inputs that hoisted graphs make, and the source of each."""
    return {one.output(int(runs[0][one.name].shape[-1]), "batch", *one.axes[1:]): one.source for one in hoisted}


def denoiser_part(
    name: str,
    build: Callable[[], nn.Module],
    inputs: Mapping[TensorSpec, InputSource],
    channels: int,
    runs: Sequence[Run],
    *,
    multiple: int = 1,
    attention_factor: int = 1,
) -> Part:
    """What is left of a denoiser, as a component. inputs: the source of each. channels: of the prediction."""
    prediction = TensorSpec("prediction", "float32", ("batch", channels, "height", "width"))
    sources = {spec.name: source for spec, source in inputs.items()}
    whole = part(name, build, (*inputs,), (prediction,), runs, role="denoiser", sources=sources, multiple=multiple)
    return replace(whole, attention_factor=attention_factor)
