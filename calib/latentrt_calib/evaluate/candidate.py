"""Evaluation of a quantized graph: written to a scratch folder, run in place of the float graph, pictures compared."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx_ir as ir

from latentrt.engines import Engine, open_engine
from latentrt.images.pillow import to_images
from latentrt.pipeline.pipeline import Pipeline
from latentrt.request.request import Request
from latentrt_calib.evaluate.compare import Pair, pair_of
from latentrt_calib.evaluate.generate import Sample, generate_samples
from latentrt_calib.quantize.plan import LayerPlan
from latentrt_calib.quantize.qdq import write_qdq
from latentrt_calib.quantize.split_concat import split_concatenations
from latentrt_calib.recording.record import DECODER
from latentrt_export.graph.costs import Shapes
from latentrt_export.graph.layers import Layer, layers_of
from latentrt_export.graph.save import save_graph
from latentrt_export.graph.step_cache import give_features, make_shallow, without_features
from latentrt_export.step_cache import without_step_cache

SCRATCH = "trial"


@dataclass(frozen=True)
class FloatGraph:
    """A component's float graph in a file. shapes: of its inputs. split: split skip connections on loading.

    Deep features for a step cache are no output of it: they are given out after quantization, so that the layer that
    computes them has a quantized output like any other.
    """

    component: str
    path: Path
    shapes: Shapes
    split: bool

    @cached_property
    def halved(self) -> tuple[Layer, ...]:
        """The layers to split. Finding them takes longer than loading the graph."""
        return tuple(layer for layer in layers_of(ir.load(self.path), self.shapes) if layer.halves)

    def model(self) -> ir.Model:
        """Returns a new copy of the graph; large weights stay in the file."""
        model = without_features(ir.load(self.path))
        if self.split:
            split_concatenations(model, self.halved)
        return model

    def shallow(self, boundary: int) -> ir.Model:
        """Returns a new copy of a UNet's graph, cut to its shallow form; its layers are split alike."""
        model = self.model()
        give_features(model, boundary)
        return make_shallow(model)

    def quantized(self, plans: Mapping[str, LayerPlan], target: str) -> ir.Model:
        """Returns a new copy of the graph with these layers quantized."""
        model = self.model()
        write_qdq(model, plans, target)
        return model


class Evaluator:
    """Evaluates candidate graphs on a few requests. references: the float pipeline's samples. folder: scratch space."""

    def __init__(self, pipeline: Pipeline, requests: Sequence[Request], folder: Path) -> None:
        self.pipeline, self.requests, self.folder = pipeline, requests, folder
        self.references: list[Sample] = list(generate_samples(pipeline, requests))

    def pairs(self, component: str, model: ir.Model, count: int | None = None) -> list[Pair]:
        """Compares the first `count` pictures with and without `model` in the component's place."""
        with self.candidate({component: model}) as candidate:
            samples = generate_samples(candidate, self.requests[:count])
            return [pair_of(one, two) for one, two in zip(self.references[:count], samples, strict=True)]

    def drawn(self, component: str, model: ir.Model) -> list[Sample]:
        """Returns samples of all requests with `model` in the component's place."""
        with self.candidate({component: model}) as candidate:
            return list(generate_samples(candidate, self.requests))

    def decoded(self, model: ir.Model) -> list[Sample]:
        """Returns the float pipeline's samples with their pictures decoded by `model`."""
        with self.candidate({DECODER: model}) as candidate:
            images = [to_images(candidate.decode(one.latents[-1:]))[0] for one in self.references]
        return [replace(one, image=np.asarray(image)) for one, image in zip(self.references, images, strict=True)]

    @contextmanager
    def candidate(self, models: Mapping[str, ir.Model]) -> Iterator[Pipeline]:
        """The pipeline with models in components' places; they are in the scratch folder during the block."""
        folder, pipeline = self.folder / SCRATCH, self.pipeline
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        known, engines = without_step_cache(pipeline.bundle.manifest).components, dict[str, Engine]()
        try:
            for name, model in models.items():
                spec = replace(known[name], file=f"{name}.onnx", data=save_graph(model, folder, name))
                engines[name] = open_engine(pipeline.engine, name, spec, folder)
            yield pipeline.with_engines(engines)
        finally:
            for engine in engines.values():
                engine.close()
            shutil.rmtree(folder, ignore_errors=True)
