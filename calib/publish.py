"""The last step of a quantization: the other files, the comparison with the float bundle, the manifest, the page."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from latentrt.bundle import Bundle, open_bundle, record_files, save_manifest
from latentrt.calib.compare import Comparison, compare, side_of
from latentrt.calib.drawing import draw
from latentrt.calib.page import save_page
from latentrt.calib.report import Damage, LayerReport, Report, figures
from latentrt.calib.trial import Bench, Graph
from latentrt.export.costs import total_macs
from latentrt.manifest import Component, Manifest, Precision, named_files
from latentrt.pipeline import load

# Beside the bundle's own files, and none of them: they state the manifest's hash.
PAGE, FIGURES = "report.html", "report.json"


@dataclass(frozen=True)
class Written:
    """A quantized graph in its file, and what the report says of it. data: its external files. target: whose form."""

    graph: Graph
    data: tuple[str, ...]
    precision: Precision
    target: str
    layers: tuple[LayerReport, ...]
    buckets: tuple[tuple[float, float], ...] = ()
    damage: tuple[Damage, ...] = ()


def publish(
    source: Bundle, folder: Path, written: Written, bench: Bench, settings: Mapping[str, str | int | float]
) -> Report:
    """Makes a whole bundle of the folder that holds the quantized graph; returns its report."""
    name, manifest = written.graph.component, source.manifest
    before = manifest.components[name]
    after = replace(before, file=f"{name}.onnx", data=written.data, precision=written.precision)
    copy_others(source, folder, name)
    plain = with_component(manifest, name, after)
    files = record_files(folder, named_files(plain))
    save_manifest(folder, replace(plain, files=files))
    report = Report(
        component=name,
        precision=written.precision,
        target=written.target,
        settings=settings,
        macs=total_macs(written.graph.model(), written.graph.shapes),
        bytes_before=sum(manifest.files[file].bytes for file in (before.file, *before.data)),
        bytes_after=sum(files[file].bytes for file in (after.file, *after.data)),
        layers=written.layers,
        comparison=compared(source, folder, bench),
        buckets=written.buckets,
        sensitivity=written.damage,
    )
    measured = with_component(manifest, name, replace(after, quantization=report.quantization))
    save_manifest(folder, replace(measured, files=files))
    final = replace(report, comparison=replace(report.comparison, other=side_of(open_bundle(folder, verify=False))))
    save_page(folder / PAGE, final)
    (folder / FIGURES).write_text(json.dumps(figures(final), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return final


def copy_others(source: Bundle, folder: Path, component: str) -> None:
    """Copies every file of the bundle that does not belong to the component."""
    own = source.manifest.components[component]
    for file in source.manifest.files:
        if file not in (own.file, *own.data):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source.path(file), folder / file)


def with_component(manifest: Manifest, name: str, component: Component) -> Manifest:
    """The manifest with another component of that name, and no files."""
    return replace(manifest, components={**manifest.components, name: component}, files={})


def compared(source: Bundle, folder: Path, bench: Bench) -> Comparison:
    """The pictures of the folder's bundle against those that the float bundle drew."""
    with load(folder, engine=bench.pipeline.engine, verify=False) as pipeline:
        others = draw(pipeline, bench.requests)
        return compare(side_of(source), side_of(pipeline.bundle), bench.references, others, bench.pipeline.engine)
