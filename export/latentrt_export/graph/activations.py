"""Memory of a graph's activations in ONNX Runtime on a CPU, as a function of the number of latents.

ONNX Runtime plans buffers before a call. An operator by elements overwrites an input that nothing reads later, and a
new tensor takes the buffer of a dead one of the same shape. A buffer is freed after the last tensor that takes it, so
it also counts between two tensors. Convolutions read and write copies in blocks of channels, and x * sigmoid(x) is one
operator. Checked against the operating system's figures (docs/cpu.md).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx_ir as ir

from latentrt.bundle.manifest import Component, Manifest
from latentrt.bundle.sources import LOOP_ROLES, Role
from latentrt.tensors import shape_of
from latentrt_export.graph.constants import initializer_of, name_of
from latentrt_export.graph.costs import Known, concrete_shapes

# Components whose activations decide a run's peak of memory.
LARGE: tuple[Role, ...] = (*LOOP_ROLES, "vae_encoder", "vae_decoder", "tiny_decoder")
VIEWS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity")
# Operators that may overwrite an input.
BY_ELEMENTS = ("Add", "Sub", "Mul", "Div", "Cast", "Erf", "Softmax")
FLOAT_BYTES = 4
# Sides in latents at which a graph is measured: its tensors grow with the latents, or with pairs of latents.
SIDES = (64, 128)
# Channels of a block: ONNX Runtime copies tensors with fewer channels to no blocks.
BLOCK = 8

Shape = tuple[Hashable, ...]
Growth = tuple[float, float]


@dataclass(frozen=True)
class Step:
    """An operator that reads and makes tensors, as ONNX Runtime runs it."""

    operator: str
    reads: tuple[Hashable, ...]
    makes: tuple[Hashable, ...]


@dataclass
class Program:
    """A graph as steps.

    shapes: of every tensor. inputs, outputs: tensors that live during the whole call.
    """

    steps: list[Step] = field(default_factory=list)
    shapes: dict[Hashable, Shape] = field(default_factory=dict)
    inputs: tuple[Hashable, ...] = ()
    outputs: tuple[Hashable, ...] = ()


@dataclass
class Buffer:
    """Memory of one tensor after the other. first, last: the steps between which it is held."""

    tensor: Hashable
    shape: Shape
    first: int
    last: int


def with_activations(folder: Path, manifest: Manifest) -> Manifest:
    """The manifest with the memory of activations of every component that lacks it. Weights are not read."""
    found = {
        name: with_figure(component, ir.load(folder / component.file))
        if component.role in LARGE and not component.activations
        else component
        for name, component in manifest.components.items()
    }
    return replace(manifest, components=found)


def with_figure(component: Component, model: ir.Model) -> Component:
    """The component with the memory of its activations; as it is where that does not decide a run's peak."""
    return replace(component, activations=activations_of(component, model)) if component.role in LARGE else component


def activations_of(component: Component, model: ir.Model) -> tuple[Growth, ...]:
    """Bytes of activations of one row: pairs of bytes per latent and per pair of latents; the largest sum counts."""
    small, large = (program_at(component, model, side) for side in SIDES)
    sizes = {tensor: growth_of(shape, large.shapes[tensor]) for tensor, shape in small.shapes.items()}
    return frontier(held(small, sizes))


def program_at(component: Component, model: ir.Model, side: int) -> Program:
    """The program for one row of `side` x `side` latents, and one of everything else."""
    sizes = {"batch": 1, "height": side, "width": side, "n": 1, "images": 1, "tokens": 77, "vectors": 1}
    return program_of(
        model.graph, concrete_shapes(model, {spec.name: shape_of(spec, sizes) for spec in component.inputs})
    )


def program_of(graph: ir.Graph, known: Known) -> Program:
    """The steps of a graph in its order: views are no steps, and convolutions read and write copies in blocks."""
    program, homes = Program(), dict[ir.Value, ir.Value]()
    gates, blocks = set[ir.Value](), dict[Hashable, Hashable]()
    fed = [value for value in graph.inputs if initializer_of(value) is None]
    homes |= {value: value for value in fed}
    program.shapes |= {value: known[name_of(value)] for value in fed}
    for node in graph:
        reads = tuple(dict.fromkeys(homes[value] for value in node.inputs if value in homes))
        if not reads or node.op_type == "Shape":
            continue
        if node.op_type in VIEWS or node.op_type == "Sigmoid":
            homes[node.outputs[0]] = reads[0]
            gates |= {node.outputs[0]} if node.op_type == "Sigmoid" else set()
            continue
        homes |= {value: value for value in node.outputs}
        program.shapes |= {value: known[name_of(value)] for value in node.outputs}
        if node.op_type == "Conv":
            add_convolution(program, reads[0], node.outputs[0], blocks)
            continue
        silu = node.op_type == "Mul" and any(value in gates for value in node.inputs)
        program.steps.append(Step("Silu" if silu else node.op_type, reads, tuple(node.outputs)))
    program.inputs, program.outputs = tuple(fed), tuple(homes[value] for value in graph.outputs if value in homes)
    return program


def add_convolution(program: Program, source: Hashable, output: Hashable, blocks: dict[Hashable, Hashable]) -> None:
    """Adds a convolution with its copies in blocks. blocks: the copy of each tensor, for other convolutions."""
    if source not in blocks and blocked(program.shapes[source]):
        copy = ("blocks", source)
        program.shapes[copy], blocks[source] = ("blocks", *program.shapes[source]), copy
        program.steps.append(Step("ToBlocks", (source,), (copy,)))
    made = ("blocks", output)
    program.shapes[made], blocks[output] = ("blocks", *program.shapes[output]), made
    program.steps += [Step("Conv", (blocks.get(source, source),), (made,)), Step("FromBlocks", (made,), (output,))]


def blocked(shape: Shape) -> bool:
    """Whether a convolution reads a copy in blocks of a tensor of that shape."""
    return len(shape) > 1 and isinstance(shape[1], int) and shape[1] >= BLOCK


def growth_of(shape: Shape, larger: Shape) -> Growth:
    """Bytes per latent and per pair of latents of a tensor, from its shapes at both of SIDES."""
    size, latents = elements(shape) * FLOAT_BYTES, SIDES[0] ** 2
    quotient, ratio = elements(larger) / max(elements(shape), 1), (SIDES[1] / SIDES[0]) ** 2
    return (0.0, size / latents**2) if quotient > ratio * 1.5 else (size / latents, 0.0)


def elements(shape: Shape) -> int:
    """The elements of a tensor of that shape."""
    return math.prod(side for side in shape if isinstance(side, int))


def held(program: Program, sizes: Mapping[Hashable, Growth]) -> Iterator[Growth]:
    """The bytes that each step holds."""
    buffers = buffers_of(program)
    for place in range(len(program.steps)):
        now = [sizes[one.tensor] for one in buffers if one.first <= place <= one.last]
        yield sum(one for one, _ in now), sum(one for _, one in now)


def buffers_of(program: Program) -> list[Buffer]:
    """The buffers of a program, as ONNX Runtime plans them."""
    end = len(program.steps)
    last = {tensor: place for place, step in enumerate(program.steps) for tensor in step.reads}
    last |= dict.fromkeys((*program.inputs, *program.outputs), end)
    where = {tensor: Buffer(tensor, program.shapes[tensor], 0, end) for tensor in program.inputs}
    buffers, free = [*where.values()], list[Buffer]()
    for place, step in enumerate(program.steps):
        dying = [tensor for tensor in step.reads if last[tensor] == place]
        for number, tensor in enumerate(step.makes):
            shape = program.shapes[tensor]
            found = overwritten(step, number, shape, [where[one] for one in dying]) or taken(free, shape)
            if found is None:
                found = Buffer(tensor, shape, place, place)
                buffers.append(found)
            found.last = max(found.last, last.get(tensor, place))
            where[tensor] = found
        unread = [tensor for tensor in step.makes if last.get(tensor, place) == place]
        ended = {id(where[one]): where[one] for one in (*dying, *unread) if where[one].last <= place}
        free = [*ended.values(), *(one for one in free if id(one) not in ended)]
    return buffers


def overwritten(step: Step, number: int, shape: Shape, dying: Sequence[Buffer]) -> Buffer | None:
    """The buffer of a dying input that the first output of an operator by elements overwrites; None for no such."""
    if step.operator not in BY_ELEMENTS or number:
        return None
    return next((one for one in dying if elements(one.shape) == elements(shape)), None)


def taken(free: list[Buffer], shape: Shape) -> Buffer | None:
    """The free buffer of that shape that has been free longest, no longer free; None for no such."""
    for place in reversed(range(len(free))):
        if free[place].shape == shape:
            return free.pop(place)
    return None


def frontier(found: Iterable[Growth]) -> tuple[Growth, ...]:
    """The pairs that are the largest for some number of latents, by decreasing bytes per latent."""
    best: list[Growth] = []
    for one in sorted({(round(linear), round(pairs, 4)) for linear, pairs in found}, reverse=True):
        if not best or one[1] > best[-1][1]:
            best.append((float(one[0]), one[1]))
    return tuple(best)
