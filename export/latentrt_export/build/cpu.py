"""Graphs optimised for ONNX Runtime on this processor: attention fused, weights packed and mapped, loss under a gate.

Packed weights lie in a file beside the graph, so that a session maps them and needs no copy. Building needs onnx-ir;
running the result does not.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
from onnxruntime import GraphOptimizationLevel, InferenceSession

from latentrt.bundle.catalog import folder_of
from latentrt.bundle.folder import Bundle, open_bundle, record_files
from latentrt.bundle.manifest import Component, Fidelity
from latentrt.engines.artifacts import one_line
from latentrt.engines.nvidia.plans import plan_store
from latentrt.engines.onnx.optimised import Optimised, folder_in, key_of, signed_record, write_record
from latentrt.engines.onnx.session import new_options, new_session
from latentrt.errors import EngineError, FidelityError
from latentrt.storage.atomic import cannot_write, disk_fault, new_folder
from latentrt.tensors import Array
from latentrt_export.fidelity import loss, worst
from latentrt_export.lower.fused import as_fused
from latentrt_export.lower.stripes import in_stripes
from latentrt_export.lower.tensorrt import GATES, Progress, probe_feeds, run

# Smaller constants stay in the graph's file. ONNX Runtime's shape inference reads the sizes of splits there alone; its
# optimiser makes splits of 140 parts of SDXL's keys and values.
SMALLEST_IN_SECOND_FILE = 1 << 14
# Components that are computed in stripes of rows.
STRIPED = ("vae_decoder",)
SMALLEST = "session.optimized_model_external_initializers_min_size_in_bytes"


@dataclass(frozen=True)
class BuiltForCpu:
    """An optimised graph. seconds: time to build it; None if it was there."""

    component: str
    path: Path
    bytes: int
    psnr_db: float | None
    seconds: float | None


def build_cpu(source: str | Path, progress: Progress = lambda line: None) -> Iterator[BuiltForCpu]:
    """Yields every component's optimised graph for this processor, when it is ready; those of this user are kept.

    source: a bundle's folder or a built-in model's name. Raises BundleError, FidelityError for a loss that the gate
    does not allow, OutputError where nothing can be written.
    """
    bundle = open_bundle(folder_of(source))
    folder, known = plan_store(bundle.folder).writable(), dict[str, Array]()
    for name in bundle.manifest.components:
        key, start = key_of(bundle, name), time.perf_counter()
        path = folder_in(folder, name, key)
        found = signed_record(path, key) if path.is_dir() else None
        seconds = None
        if found is None:
            progress(f"{name}: optimising")
            shutil.rmtree(path, ignore_errors=True)
            found = write(bundle, name, path, known)
            seconds = time.perf_counter() - start
        size = sum(record.bytes for record in found.files.values())
        yield BuiltForCpu(name, path, size, found.fidelity.psnr_db, seconds)


def write(bundle: Bundle, name: str, path: Path, known: dict[str, Array]) -> Optimised:
    """Writes one component and returns its record.

    Its inputs and outputs are added to `known`, for the components after it.
    """
    component = bundle.manifest.components[name]
    feeds = probe_feeds(bundle, name, known)
    references = run(bundle.path(component.file), feeds)
    known.update(feeds | references)
    with new_folder(path) as folder:
        optimise(bundle.path(component.file), folder, name)
        lost = measure(folder / f"{name}.onnx", component, feeds, references)
        files = [f"{name}.onnx", *sorted(file.name for file in folder.glob("*.bin"))]
        record = Optimised(name, key_of(bundle, name), lost, record_files(folder, files))
        write_record(folder, record)
    return record


def optimise(graph: Path, folder: Path, name: str) -> None:
    """Writes ONNX Runtime's optimised graph into `folder`: NAME.onnx, and its weights as NAME.bin.

    Raises OutputError for a full disk, EngineError where ONNX Runtime fails otherwise.
    """
    model = ir.load(graph)
    as_fused(model)
    if name in STRIPED:
        in_stripes(model)
    options = new_options()
    options.graph_optimization_level = GraphOptimizationLevel.ORT_ENABLE_ALL
    options.optimized_model_filepath = str(folder / f"{name}.onnx")
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", f"{name}.bin")
    options.add_session_config_entry(SMALLEST, str(SMALLEST_IN_SECOND_FILE))
    options.add_session_config_entry("session.save_external_prepacked_constant_initializers", "1")
    # Weights that lie beside the canonical graph are read from there.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(graph.parent))
    content = ir.to_proto(model).SerializeToString()
    try:
        InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own errors share no base but Exception
        if fault := disk_fault(error, folder):
            raise cannot_write(folder, fault) from error
        raise EngineError(
            f"{graph}: ONNX Runtime cannot optimise it, or write what it made: {one_line(error)}; that takes twice the "
            "disk of the bundle"
        ) from error


def measure(graph: Path, component: Component, feeds: dict[str, Array], references: dict[str, Array]) -> Fidelity:
    """The loss of the graph against the canonical one's outputs. Raises FidelityError if the gate does not allow it."""
    gate = GATES["fp32" if component.quantization is None else "int8"]
    session = new_session(graph, optimised=True)
    got = dict(zip(references, session.run(list(references), feeds), strict=True))
    lost = worst([loss(got[name], reference, gate.words) for name, reference in references.items()])
    if not gate.passes(lost):
        raise FidelityError(
            f"{graph.stem}: got PSNR {lost.psnr_db:.1f} dB against the canonical graph, expected {gate.words}"
        )
    return lost
