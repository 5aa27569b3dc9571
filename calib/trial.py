"""A quantized graph on trial: written to a scratch folder, put in the float graph's place, its pictures compared."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import onnx_ir as ir

from latentrt.calib.compare import Pair, pair_of
from latentrt.calib.drawing import Drawing, draw
from latentrt.calib.layers import Layer, layers_of
from latentrt.calib.plans import Plan
from latentrt.calib.qdq import write
from latentrt.calib.split import split
from latentrt.engines import open_engine
from latentrt.export.costs import Shapes
from latentrt.export.save import save_graph
from latentrt.pipeline import Pipeline
from latentrt.request import Request

SCRATCH = "trial"


@dataclass(frozen=True)
class Graph:
    """A component's float graph in a file, and whether skip connections are split when it is read. shapes: of feeds."""

    component: str
    path: Path
    shapes: Shapes
    split: bool

    @cached_property
    def halved(self) -> tuple[Layer, ...]:
        """The layers to split; finding them takes longer than reading the graph."""
        return tuple(layer for layer in layers_of(ir.load(self.path), self.shapes) if layer.halves)

    def model(self) -> ir.Model:
        """Returns the graph anew; large weights stay in the file."""
        model = ir.load(self.path)
        if self.split:
            split(model, self.halved)
        return model

    def quantized(self, plans: Mapping[str, Plan], target: str) -> ir.Model:
        """Returns the graph with these layers quantized."""
        model = self.model()
        write(model, plans, target)
        return model


class Bench:
    """Requests, what the float pipeline draws for them, and a folder to put candidates in."""

    def __init__(self, pipeline: Pipeline, requests: Sequence[Request], folder: Path) -> None:
        self.pipeline, self.requests, self.folder = pipeline, requests, folder
        self.references: list[Drawing] = list(draw(pipeline, requests))

    def pairs(self, component: str, model: ir.Model, count: int | None = None) -> list[Pair]:
        """Returns how far the first `count` pictures are off when `model` stands in the component's place."""
        candidate = self.candidate(component, model)
        try:
            drawn = draw(candidate, self.requests[:count])
            return [pair_of(one, two) for one, two in zip(self.references[:count], drawn, strict=True)]
        finally:
            candidate.engines[component].close()
            shutil.rmtree(self.folder / SCRATCH, ignore_errors=True)

    def candidate(self, component: str, model: ir.Model) -> Pipeline:
        """The pipeline with the model, written to the scratch folder, in the component's place."""
        folder, pipeline = self.folder / SCRATCH, self.pipeline
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        spec = replace(
            pipeline.bundle.manifest.components[component],
            file=f"{component}.onnx",
            data=save_graph(model, folder, component),
        )
        return pipeline.with_engines({component: open_engine(pipeline.engine, component, spec, folder)})
