"""Instrumented sessions: graphs whose inner values ONNX Runtime returns, without changes to the graph's files.

The graph is passed as bytes; large weights stay in the bundle's file, which ONNX Runtime maps into memory.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir
from onnx import helper
from onnxruntime import InferenceSession

from latentrt.bundle.folder import sha256_of
from latentrt.engines.artifacts import one_line
from latentrt.errors import EngineError
from latentrt.tensors import Array
from latentrt_export.graph.session import low_memory_session

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

# Protobuf is limited to 2 GB, and several copies of the bytes are in memory while a session is made.
LARGEST_EMBEDDED_BYTES = 1_000_000_000
SHAPE, MAGNITUDES, LARGEST = ".shape of it", ".magnitudes", ".largest"
FLOAT_BYTES = 4


@dataclass(frozen=True)
class InstrumentedGraph:
    """A graph without its large weights. weights: the folder of the weights' file, if any. inputs: names."""

    proto: ModelProto
    weights: Path | None
    inputs: frozenset[str]

    def sha256(self) -> str:
        """The hash of the graph and all its weights."""
        digest = hashlib.sha256(self.proto.SerializeToString(deterministic=True))
        entries = (entry for tensor in self.proto.graph.initializer for entry in tensor.external_data)
        for location in sorted({entry.value for entry in entries if entry.key == "location"}):
            assert self.weights is not None
            digest.update(sha256_of(self.weights / location).encode())
        return digest.hexdigest()

    def unknown(self, values: Sequence[str]) -> list[str]:
        """The names in `values` that the graph does not have."""
        made = {name for node in self.proto.graph.node for name in node.output}
        return [value for value in values if value not in made | self.inputs]

    def session(self, values: Sequence[str]) -> InferenceSession:
        """A session that also outputs these values. Raises EngineError if ONNX Runtime refuses the graph."""
        graph = self.proto.graph
        outputs = {output.name for output in graph.output}
        before = len(graph.output)
        for value in values:
            if value not in outputs | self.inputs:
                graph.output.add(name=value)  # ONNX Runtime finds the type
        try:
            return new_session(self.proto.SerializeToString(), self.weights)
        finally:
            del graph.output[before:]

    def shapes(self, values: Sequence[str], feeds: Mapping[str, Array]) -> dict[str, tuple[int, ...]]:
        """The shape of each value for `feeds`, measured by a run: shape inference lacks some operators."""
        names = [value + SHAPE for value in values]
        with self._extended(helper.make_node("Shape", [value], [value + SHAPE]) for value in values):
            found = run_graph(self.session(names), names, feeds)
        return {value: tuple(found[value + SHAPE].tolist()) for value in values}

    def session_of_largest(self, values: Sequence[str]) -> InferenceSession:
        """A session that also outputs the largest magnitude of each value, one number, named as the value + LARGEST."""
        steps = (
            node
            for value in values
            for node in (
                helper.make_node("Abs", [value], [value + MAGNITUDES]),
                helper.make_node("ReduceMax", [value + MAGNITUDES], [value + LARGEST], keepdims=0),
            )
        )
        with self._extended(steps):
            return self.session([value + LARGEST for value in values])

    @contextmanager
    def _extended(self, nodes: Iterable[NodeProto]) -> Iterator[None]:
        """The graph with further nodes, during the block."""
        graph = self.proto.graph
        before = len(graph.node)
        graph.node.extend(nodes)
        try:
            yield
        finally:
            del graph.node[before:]


def instrumented(model: ir.Model | Path, scratch: Path) -> InstrumentedGraph:
    """Returns the graph of a file or a model, ready to be instrumented.

    scratch: folder for weights that are too large to pass in memory, or spread over several folders. It need not exist;
    the caller removes it.
    """
    loaded = model if isinstance(model, ir.Model) else ir.load(model)
    tensors = [value.const_value for value in loaded.graph.initializers.values() if value.const_value is not None]
    folders = {Path(tensor.base_dir) for tensor in tensors if isinstance(tensor, ir.ExternalTensor)}
    embedded = sum(tensor.nbytes for tensor in tensors if not isinstance(tensor, ir.ExternalTensor))
    if len(folders) > 1 or embedded > LARGEST_EMBEDDED_BYTES:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        ir.save(loaded, scratch / "graph.onnx", external_data="graph.onnx.data")
        loaded, folders = ir.load(scratch / "graph.onnx"), {scratch}
    inputs = frozenset(value.name for value in loaded.graph.inputs if value.name is not None)
    return InstrumentedGraph(ir.to_proto(loaded), next(iter(folders), None), inputs)


def new_session(graph: bytes, weights: Path | None) -> InferenceSession:
    """A session with mapped weights that frees its memory between runs."""
    try:
        return low_memory_session(graph, weights=weights, arena=False)
    except Exception as error:  # ONNX Runtime's own errors share no base but Exception
        raise EngineError(f"ONNX Runtime cannot load the graph to observe: {one_line(error)}") from error


def run_graph(session: InferenceSession, values: Sequence[str], feeds: Mapping[str, Array]) -> dict[str, Array]:
    """The values by name, each an output of the session or one of `feeds`. Raises EngineError if the run fails."""
    computed = [value for value in values if value not in feeds]
    try:
        outputs = session.run(computed, dict(feeds)) if computed else []
    except Exception as error:  # ONNX Runtime's own errors share no base but Exception
        raise EngineError(f"ONNX Runtime failed while observing: {one_line(error)}") from error
    return dict(zip(computed, outputs, strict=True)) | {value: feeds[value] for value in values if value in feeds}


def groups_within(shapes: Mapping[str, tuple[int, ...]], group_bytes: int) -> list[list[str]]:
    """Returns the values in groups, in order. A group has at most `group_bytes` in float32, or one value."""
    groups: list[list[str]] = []
    room = 0
    for value, shape in shapes.items():
        needed = FLOAT_BYTES * prod(shape)
        if not groups or needed > room:
            groups.append([])
            room = group_bytes
        groups[-1].append(value)
        room -= needed
    return groups
