"""Canonical graphs become the graphs that TensorRT builds from: fp16 or INT8, every type written out.

A component that was exported in fp32 stays fp32, and so does one whose values leave fp16's range, as those of SDXL's
VAE do: each lowered graph is run against the canonical one before it is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnxruntime import InferenceSession

from latentrt.bundle.folder import Bundle, record_files
from latentrt.bundle.manifest import Component, Fidelity
from latentrt.engines.nvidia.lowered import Attention, Floats, Lowered, digest_of, folder_in, write_record
from latentrt.errors import BundleError, FidelityError, OutputError
from latentrt.storage.atomic import new_folder
from latentrt.tensors import Array, TensorSpec, shape_of
from latentrt_export.fidelity import loss, worst
from latentrt_export.graph.emulation import emulated_session
from latentrt_export.graph.save import save_graph
from latentrt_export.graph.session import low_memory_session
from latentrt_export.lower.attention import as_operator
from latentrt_export.lower.half import half

# The targets that `latentrt calibrate` may have written a graph for.
QUANTIZED_FOR = ("tensorrt", "any")
# What a lowered graph is run at: (batch, height, width) in latents.
PROBE = {"batch": 2, "height": 16, "width": 24}

Progress = Callable[[str], None]
Arrays = Mapping[str, Array]


@dataclass(frozen=True)
class Gate:
    """What lowering may cost, in PSNR against the canonical graph."""

    psnr_db: float

    @property
    def words(self) -> str:
        """The gate as records state it."""
        return f"PSNR at least {self.psnr_db:g} dB"

    def passes(self, lost: Fidelity) -> bool:
        """Whether what was lost is within the gate."""
        return lost.psnr_db is None or lost.psnr_db >= self.psnr_db


# Rounding to fp16 moves some values to the next of INT8's 256 steps: that alone costs the second 10 dB.
GATES = {"fp32": Gate(120.0), "fp16": Gate(40.0), "int8": Gate(30.0)}


def lower(bundle: Bundle, folder: Path, attention: Attention, progress: Progress = lambda line: None) -> None:
    """Writes into `folder` the lowered graph of every component of the bundle that is not there yet.

    Each appears whole or not at all. Raises BundleError for a graph that is quantized for another target,
    FidelityError for one that lowering changes by more than its gate allows.
    """
    for name, component in bundle.manifest.components.items():
        check_target(name, component)
    known: dict[str, Array] = {}
    for name in bundle.manifest.components:
        feeds = probe_feeds(bundle, name, known)
        references = run(bundle.path(bundle.manifest.components[name].file), feeds)
        known.update(feeds | references)
        path = folder_in(folder, name, digest_of(bundle, name, attention))
        if not path.exists():
            progress(f"{name}: lowering")
            try:
                write(bundle, name, path, attention, feeds, references, progress)
            except OutputError:
                if not path.is_dir():  # else another process was faster, and wrote the same
                    raise


def check_target(name: str, component: Component) -> None:
    """Raises BundleError for a graph whose Q/DQ nodes TensorRT does not take."""
    quantization = component.quantization
    if quantization is not None and quantization.target not in QUANTIZED_FOR:
        raise BundleError(
            f"{name}: got a graph quantized for {quantization.target}, expected one for tensorrt; "
            "make it from the float bundle with `latentrt calibrate --target tensorrt`"
        )


def write(
    bundle: Bundle,
    name: str,
    path: Path,
    attention: Attention,
    feeds: Arrays,
    references: Arrays,
    progress: Progress,
) -> None:
    """Writes one component in the narrowest floats that keep within their gate."""
    component = bundle.manifest.components[name]
    quantized = component.quantization is not None
    choices: tuple[Floats, ...] = ("fp32",) if component.precision == "fp32" else ("fp16", "fp32")
    for floats in choices:
        gate = GATES["int8" if quantized else floats]
        try:
            model = lowered_model(bundle.path(component.file), floats, attention)
            with new_folder(path) as folder:
                data = save_graph(model, folder, name)
                lost = measure(folder / f"{name}.onnx", feeds, references, gate)
                files = record_files(folder, (f"{name}.onnx", *data))
                write_record(folder, Lowered(name, floats, attention, lost, files))
            return
        except FidelityError as error:
            if floats == choices[-1]:
                raise FidelityError(f"{name}: {error}") from error
            progress(f"{name}: stays fp32: {error}")


def lowered_model(graph: Path, floats: Floats, attention: Attention) -> ir.Model:
    """The graph in a file, lowered."""
    model = ir.load(graph)
    if floats == "fp16":
        half(model)
    if attention == "operator":
        as_operator(model)
    return model


def measure(graph: Path, feeds: Arrays, references: Arrays, gate: Gate) -> Fidelity:
    """What a graph loses against `references`. Raises FidelityError where that is more than the gate allows."""
    got = run(graph, feeds, emulated_session)
    lost = worst([loss(got[name], reference, gate.words) for name, reference in references.items()])
    if not gate.passes(lost):
        raise FidelityError(f"got PSNR {lost.psnr_db:.1f} dB against the canonical graph, expected {gate.words}")
    return lost


def run(
    graph: Path, feeds: Arrays, opened: Callable[[Path], InferenceSession] = low_memory_session
) -> dict[str, Array]:
    """Every output of a graph by name, on a CPU, in the session that `opened` gives."""
    session = opened(graph)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def probe_feeds(bundle: Bundle, name: str, known: Arrays) -> dict[str, Array]:
    """Inputs to run a component on: what an earlier component made where it made one of that name, else random."""
    random = np.random.default_rng(0)
    sizes = bundle.manifest.sizes(n=PROBE["batch"]) | PROBE
    feeds = {}
    for spec in bundle.manifest.components[name].inputs:
        shape = shape_of(spec, sizes)
        found = known.get(spec.name)
        fits = found is not None and found.shape == shape and found.dtype == spec.dtype
        feeds[spec.name] = found if found is not None and fits else drawn(bundle, spec, shape, random)
    return feeds


def drawn(bundle: Bundle, spec: TensorSpec, shape: tuple[int, ...], random: np.random.Generator) -> Array:
    """Random values such as an input of that name has: token ids, layers, timesteps, latents of a VAE, or normal."""
    manifest = bundle.manifest
    highest = {"input_ids": manifest.tokenizer.eos, "clip_skip": manifest.text.layers}
    if spec.dtype == "int64":
        return random.integers(1, highest.get(spec.name, 1) + 1, shape)
    if spec.name in ("timestep", "size_ids"):  # sizes have the same range
        return random.uniform(0, manifest.schedule.train_steps - 1, shape).astype(spec.dtype)
    scale = 1 / manifest.latents.scaling if spec.name == "latents" else 1.0
    return (random.standard_normal(shape) * scale).astype(spec.dtype)
