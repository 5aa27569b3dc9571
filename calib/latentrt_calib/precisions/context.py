"""What the stages of a calibration share: options, the float pipeline, the recording, a component not yet written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from latentrt.bundle.manifest import Manifest, Precision
from latentrt.pipeline.pipeline import Pipeline
from latentrt.tensors import TensorSpec, shape_of
from latentrt_calib.evaluate.candidate import FloatGraph
from latentrt_calib.evaluate.damage import Damage
from latentrt_calib.publish import WrittenComponent
from latentrt_calib.quantize.planning import Recipe
from latentrt_calib.recording.prompts import for_images
from latentrt_calib.recording.record import DECODER, Progress, Recording, record
from latentrt_calib.report.report import LayerReport
from latentrt_export.graph.emulation import emulated
from latentrt_export.graph.four_bits import eight_bit_bytes
from latentrt_export.graph.save import save_graph

ANY = "any"  # target of a graph that every engine runs as it is


@dataclass(frozen=True)
class CalibrationOptions:
    """Options of a calibration.

    calibration, evaluation: subjects, as `subjects_of` gives them. recipe: parts of the method. images, steps, sampler,
    seed: of the recording's pictures. inits: files of pictures for a model that is shown one; without, they are drawn.
    The evaluation takes the last files first, to have others than the calibration. evaluations: number of evaluation
    pictures. probes: number of them that measure a single layer's damage. budget_db: least mean PSNR of
    the evaluation pictures with the quantized denoiser. sensitivity: measure every layer's damage even if the budget
    holds with all layers quantized. vae_gate_db: least mean PSNR of pictures that the quantized VAE decoder decodes
    from the float denoiser's latents; below it, or for None, the decoder stays float. text_gate_db: least mean PSNR of
    pictures of what a quantized text encoder encodes, drawn in float; None: they stay float.
    """

    calibration: tuple[str, ...]
    evaluation: tuple[str, ...]
    recipe: Recipe = Recipe()
    inits: tuple[str, ...] = ()
    images: int = 16
    steps: int | None = None
    sampler: str | None = None
    seed: int = 0
    evaluations: int = 16
    probes: int = 2
    budget_db: float = 30.0
    sensitivity: bool = False
    vae_gate_db: float | None = None
    text_gate_db: float | None = None


@dataclass(frozen=True)
class Context:
    """Values that all stages share: the float pipeline, the options, the folder of intermediate results."""

    pipeline: Pipeline
    options: CalibrationOptions
    folder: Path
    progress: Progress

    @property
    def denoiser(self) -> str:
        """The name of the denoiser."""
        return self.pipeline.bundle.manifest.denoiser

    def budget_of(self, component: str) -> float | None:
        """The least PSNR for which layers of a component keep more bits; None for one that is quantized whole."""
        if component == self.denoiser:
            return self.options.budget_db
        return None if component == DECODER else self.options.text_gate_db

    def graph(self, name: str | None = None, *, split: bool) -> FloatGraph:
        """A component's float graph, with shapes for one picture of the bundle's default size. name: the denoiser's."""
        bundle, name = self.pipeline.bundle, name or self.denoiser
        component = bundle.manifest.components[name]
        return FloatGraph(name, bundle.path(component.file), shapes_of(bundle.manifest, component.inputs), split)

    def shallow(self, graph: FloatGraph) -> ir.Model | None:
        """The shallow form of the UNet's graph; None of another graph, and without step caching."""
        manifest = self.pipeline.bundle.manifest
        if manifest.shallow is None or graph.component != manifest.denoiser:
            return None
        return graph.shallow(manifest.components[manifest.shallow].boundary)


@dataclass(frozen=True)
class Candidate:
    """A component's quantized graph before it is written. layers: measures the layers for the report."""

    graph: FloatGraph
    model: ir.Model
    precision: Precision
    target: str
    layers: Callable[[], tuple[LayerReport, ...]]
    buckets: tuple[tuple[float, float], ...] = ()
    damage: tuple[Damage, ...] = ()

    @property
    def shown(self) -> ir.Model:
        """The graph that pictures are compared with: in fp16 one that rounds, which no engine for a CPU does."""
        return emulated(self.model.clone()) if self.precision == "fp16" else self.model

    def write(self, folder: Path) -> WrittenComponent:
        """Writes the graph into a bundle's folder."""
        data = save_graph(self.model, folder, self.graph.component)
        figures = self.layers(), self.buckets, self.damage, eight_bit_bytes(self.model, self.precision)
        return WrittenComponent(self.graph, data, self.precision, self.target, *figures)


def recorded(context: Context) -> Recording:
    """The recording of the subjects. The pipeline is closed after it, to free memory for the observation."""
    options = context.options
    recording = record(
        context.pipeline,
        for_images(options.calibration, options.images),
        inits=options.inits,
        steps=options.steps,
        sampler=options.sampler,
        seed0=options.seed,
        folder=context.folder / "recording",
        progress=context.progress,
    )
    context.pipeline.close()
    return recording


def shapes_of(manifest: Manifest, specs: Sequence[TensorSpec]) -> dict[str, tuple[int, ...]]:
    """The shapes of a component's inputs for one picture of the default size."""
    sizes = manifest.sizes()
    return {spec.name: shape_of(spec, sizes) for spec in specs}
