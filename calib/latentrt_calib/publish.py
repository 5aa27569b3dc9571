"""Last step of a quantization: copy the other files, compare with the float bundle, write the manifest and the page."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir

from latentrt.bundle.folder import Bundle, open_bundle, record_files, save_manifest
from latentrt.bundle.manifest import Component, Manifest, Precision
from latentrt.bundle.manifest_json import named_files
from latentrt.bundle.quantization import Quantization
from latentrt.pipeline.load import load
from latentrt.tensors import shape_of
from latentrt_calib.evaluate.cached import cached_loss
from latentrt_calib.evaluate.candidate import Evaluator, FloatGraph
from latentrt_calib.evaluate.compare import BundleSummary, Comparison, bundle_summary, compare
from latentrt_calib.evaluate.damage import Damage
from latentrt_calib.evaluate.generate import generate_samples
from latentrt_calib.recording.record import DECODER
from latentrt_calib.report.page import save_page
from latentrt_calib.report.report import GateReport, LayerReport, Report, figures
from latentrt_export.graph.costs import total_macs
from latentrt_export.graph.emulation import emulated
from latentrt_export.graph.layers import layers_of
from latentrt_export.graph.step_cache import without_features
from latentrt_export.lora_table.table import with_table
from latentrt_export.step_cache import cut_again

# Not listed among the bundle's files, because they state the manifest's hash.
PAGE, FIGURES = "report.html", "report.json"


@dataclass(frozen=True)
class WrittenComponent:
    """A quantized graph in its file, with figures for the report. data: external weight files. target: engine kind.

    eight_bit_bytes: of weights in 8 bits in a graph whose others have 4.
    """

    graph: FloatGraph
    data: tuple[str, ...]
    precision: Precision
    target: str
    layers: tuple[LayerReport, ...]
    buckets: tuple[tuple[float, float], ...] = ()
    damage: tuple[Damage, ...] = ()
    eight_bit_bytes: int = 0


@dataclass(frozen=True)
class Gate:
    """Result of a component's gate: the least PSNR, the comparison, and the graph, or None if it stays float."""

    component: str
    gate_db: float
    comparison: Comparison
    written: WrittenComponent | None


def publish(
    source: Bundle,
    folder: Path,
    unet: WrittenComponent,
    gates: Sequence[Gate],
    evaluator: Evaluator,
    settings: Mapping[str, str | int | float],
) -> Report:
    """Makes the folder with the quantized graphs a complete bundle, and returns its report.

    gates: of the VAE decoder and of text encoders.
    """
    # Presets were measured with the float graphs, and the table of weights for LoRA files names places in them.
    manifest, shallow = replace(source.manifest, lora_weights="", presets={}), source.manifest.shallow
    parts = [unet, *(gate.written for gate in gates if gate.written)]
    unmeasured = with_components(manifest, {part.graph.component: component_of(manifest, part) for part in parts})
    copy_others(source, folder, [*(part.graph.component for part in parts), *([shallow] if shallow else [])])
    if shallow:
        unmeasured = cut_again(folder, unmeasured)
    unmeasured = with_table(folder, unmeasured)
    unmeasured = replace(unmeasured, files=record_files(folder, named_files(unmeasured)))
    save_manifest(folder, unmeasured)
    report = report_of(manifest, unmeasured, unet, compared(source, folder, evaluator, parts), settings)
    gated = []
    for gate in gates:
        inner = report_of(manifest, unmeasured, gate.written, gate.comparison, settings) if gate.written else None
        gated.append(GateReport(gate.gate_db, gate.comparison.loss.psnr_db, inner, gate.component))
    decoder = next((one for one in gated if one.component == DECODER), None)
    encoders = tuple(one for one in gated if one.component != DECODER)
    # In fp16 a CPU does not round, so that the loss with a step cache would not be that of a GPU.
    cached = None if unet.precision == "fp16" else cached_loss(source, folder, evaluator)
    report = replace(report, decoder=decoder, encoders=encoders, cached=cached)
    measured = {one.component: one.quantization for one in report.components}
    if shallow:
        measured[shallow] = shallow_quantization(manifest, shallow, unet, report.quantization)
    changed = {name: replace(unmeasured.components[name], quantization=one) for name, one in measured.items()}
    save_manifest(folder, with_components(unmeasured, changed))
    final = with_other(report, bundle_summary(open_bundle(folder, verify=False)))
    save_page(folder / PAGE, final)
    (folder / FIGURES).write_text(json.dumps(figures(final), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return final


def component_of(manifest: Manifest, part: WrittenComponent) -> Component:
    """The manifest's entry of a quantized graph, before anything is measured."""
    name = part.graph.component
    place = replace(manifest.components[name], file=f"{name}.onnx", data=part.data)
    return replace(place, precision=part.precision, eight_bit_bytes=part.eight_bit_bytes)


def with_components(manifest: Manifest, components: Mapping[str, Component]) -> Manifest:
    """The manifest with these components replaced."""
    return replace(manifest, components={**manifest.components, **components})


def copy_others(source: Bundle, folder: Path, names: Sequence[str]) -> None:
    """Copies every file of the bundle, except those of the components named and the table of weights for LoRA files."""
    components = [source.manifest.components[name] for name in names]
    left_out = {file for component in components for file in (component.file, *component.data)}
    left_out.add(source.manifest.lora_weights)
    for file in source.manifest.files:
        if file not in left_out:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source.path(file), folder / file)


def report_of(
    before: Manifest,
    after: Manifest,
    part: WrittenComponent,
    comparison: Comparison,
    settings: Mapping[str, str | int | float],
) -> Report:
    """The report of a component. before, after: manifests of the float bundle and of the quantized bundle."""
    name = part.graph.component
    return Report(
        component=name,
        precision=part.precision,
        target=part.target,
        settings=settings,
        macs=total_macs(part.graph.model(), part.graph.shapes),
        bytes_before=bytes_of(before, name),
        bytes_after=bytes_of(after, name),
        layers=part.layers,
        comparison=comparison,
        buckets=part.buckets,
        sensitivity=part.damage,
    )


def shallow_quantization(manifest: Manifest, name: str, unet: WrittenComponent, whole: Quantization) -> Quantization:
    """The shallow UNet's figures: those of the layers that it has, and the loss of the whole UNet.

    manifest: of the float bundle. whole: the figures of the whole UNet.
    """
    component, sizes = manifest.components[name], manifest.sizes()
    model = unet.graph.shallow(component.boundary)
    shapes = {spec.name: shape_of(spec, sizes) for spec in component.inputs}
    names = {layer.name for layer in layers_of(model, shapes)}
    return replace(
        whole,
        macs=total_macs(model, shapes),
        bytes_before=bytes_of(manifest, name),
        layers=tuple(layer for layer in whole.layers if layer.name in names),
    )


def bytes_of(manifest: Manifest, name: str) -> int:
    """Bytes of a component's graph and weights."""
    component = manifest.components[name]
    return sum(manifest.files[file].bytes for file in (component.file, *component.data))


def with_other(report: Report, other: BundleSummary) -> Report:
    """The report with the quantized bundle's final hash and bytes."""

    def changed(gate: GateReport) -> GateReport:
        return replace(gate, report=with_other(gate.report, other)) if gate.report else gate

    decoder = changed(report.decoder) if report.decoder else None
    encoders = tuple(map(changed, report.encoders))
    return replace(report, comparison=replace(report.comparison, other=other), decoder=decoder, encoders=encoders)


def compared(source: Bundle, folder: Path, evaluator: Evaluator, parts: Sequence[WrittenComponent]) -> Comparison:
    """The pictures of the folder's bundle compared with those of the float bundle. parts: what differs between them."""
    engine, names = evaluator.pipeline.engine, [part.graph.component for part in parts if part.precision == "fp16"]
    with ExitStack() as stack:
        if names:
            # ONNX Runtime computes fp16 in float32 on a CPU; these graphs round as a GPU does.
            rounded = {name: emulated(without_features(ir.load(folder / f"{name}.onnx"))) for name in names}
            pipeline = stack.enter_context(evaluator.candidate(rounded))
        else:
            pipeline = stack.enter_context(load(folder, engine=engine, verify=False))
        others = generate_samples(pipeline, evaluator.requests)
        other = bundle_summary(open_bundle(folder, verify=False))
        return compare(bundle_summary(source), other, evaluator.references, others, engine)
