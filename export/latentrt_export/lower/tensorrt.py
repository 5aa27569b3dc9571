"""Lowering of canonical graphs to the graphs that TensorRT builds from: fp16 or INT8, every type written out.

A component that was exported in fp32 stays fp32, and so does one whose values leave fp16's range, such as SDXL's VAE:
each lowered graph is compared with the canonical one before it is kept.
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
from latentrt.lora.places import QUANTIZED
from latentrt.storage.atomic import new_folder
from latentrt.tensors import Array, TensorSpec, shape_of
from latentrt_export.fidelity import loss, worst
from latentrt_export.graph.emulation import emulated_session
from latentrt_export.graph.save import save_graph
from latentrt_export.graph.session import low_memory_session
from latentrt_export.lower.attention import as_operator
from latentrt_export.lower.half import half

# Targets of `latentrt calibrate` whose graphs TensorRT takes.
QUANTIZED_FOR = ("tensorrt", "any")
# Sizes of the inputs that graphs are compared on; height and width in latents, at least.
PROBE = {"batch": 2, "height": 16, "width": 24}

Progress = Callable[[str], None]
Arrays = Mapping[str, Array]


@dataclass(frozen=True)
class Gate:
    """Least PSNR of a lowered graph against the canonical graph."""

    psnr_db: float

    @property
    def words(self) -> str:
        """The gate as text, for records."""
        return f"PSNR at least {self.psnr_db:g} dB"

    def passes(self, lost: Fidelity) -> bool:
        """True if the loss is within the gate."""
        return lost.psnr_db is None or lost.psnr_db >= self.psnr_db


# Rounding to fp16 moves some values to the next of INT8's 256 steps, which costs 10 dB more.
GATES = {"fp32": Gate(120.0), "fp16": Gate(40.0), "int8": Gate(30.0)}


def lower(bundle: Bundle, folder: Path, attention: Attention, progress: Progress = lambda line: None) -> None:
    """Writes the lowered graph of every component of the bundle into `folder`, except those that are there.

    Each appears whole or not at all. Raises BundleError for a graph that is quantized for another target,
    FidelityError for a loss that the gate does not allow.
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
                if not path.is_dir():  # else another process has written the same graph
                    raise


def check_target(name: str, component: Component) -> None:
    """Raises BundleError for a graph that is quantized for another target."""
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
    """Writes one component in fp16 if its gate allows that, else in fp32."""
    component = bundle.manifest.components[name]
    quantized = component.precision in QUANTIZED
    choices: tuple[Floats, ...] = ("fp32",) if component.precision == "fp32" else ("fp16", "fp32")
    for floats in choices:
        gate = GATES["int8" if quantized else floats]
        try:
            # A graph in fp16 has all its types already.
            turned = floats == "fp16" and component.precision != "fp16"
            model = lowered_model(bundle.path(component.file), attention, turned=turned)
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


def lowered_model(graph: Path, attention: Attention, *, turned: bool) -> ir.Model:
    """The lowered graph of a file. turned: from float32 to fp16."""
    model = ir.load(graph)
    if turned:
        half(model)
    if attention == "operator":
        as_operator(model)
    return model


def measure(graph: Path, feeds: Arrays, references: Arrays, gate: Gate) -> Fidelity:
    """The loss of a graph against `references`. Raises FidelityError if the gate does not allow it."""
    got = run(graph, feeds, emulated_session)
    lost = worst([loss(got[name], reference, gate.words) for name, reference in references.items()])
    if not gate.passes(lost):
        raise FidelityError(f"got PSNR {lost.psnr_db:.1f} dB against the canonical graph, expected {gate.words}")
    return lost


def run(
    graph: Path, feeds: Arrays, opened: Callable[[Path], InferenceSession] = low_memory_session
) -> dict[str, Array]:
    """Every output of a graph by name, on a CPU, in the session that `opened` returns."""
    session = opened(graph)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def probe_feeds(bundle: Bundle, name: str, known: Arrays) -> dict[str, Array]:
    """Inputs of a component: an earlier component's output of that name if it fits, else random values."""
    random = np.random.default_rng(0)
    multiple = bundle.manifest.latents.multiple
    sides = {name: -(-PROBE[name] // multiple) * multiple for name in ("height", "width")}
    sizes = bundle.manifest.sizes(n=PROBE["batch"]) | PROBE | sides
    feeds = {}
    for spec in bundle.manifest.components[name].inputs:
        shape = shape_of(spec, sizes)
        found = known.get(spec.name)
        fits = found is not None and found.shape == shape and found.dtype == spec.dtype
        feeds[spec.name] = found if found is not None and fits else drawn(bundle, name, spec, shape, random)
    return feeds


def drawn(bundle: Bundle, name: str, spec: TensorSpec, shape: tuple[int, ...], random: np.random.Generator) -> Array:
    """Random values in the usual range of a component's input: token ids, layers, timesteps, VAE latents, or normal."""
    manifest = bundle.manifest
    tokenizer = manifest.tokenizer and manifest.tokenizer.others.get(name, manifest.tokenizer)
    highest = {
        **({"input_ids": tokenizer.eos} if tokenizer else {}),
        **({"clip_skip": manifest.text.layers} if manifest.text else {}),
        **({"class_label": manifest.classes.count - 1} if manifest.classes else {}),
    }
    if spec.dtype == "int64":
        return random.integers(1, highest.get(spec.name, 1) + 1, shape)
    if spec.name in ("timestep", "size_ids"):  # sizes have the same range
        return random.uniform(0, manifest.noise_schedule.train_steps - 1, shape).astype(spec.dtype)
    scale = 1 / manifest.latents.scaling if spec.name == "latents" else 1.0
    return (random.standard_normal(shape) * scale).astype(spec.dtype)
