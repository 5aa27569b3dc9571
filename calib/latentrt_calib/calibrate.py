"""Quantization of a bundle, step by step: record, observe, plan, choose float layers, write, compare, report.

A shallow UNet for step caching is cut out of the quantized UNet, so that both have the same weights and scales.
Intermediate results are kept in a hidden folder beside the new bundle until the bundle is complete, so that a stopped
run continues.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import onnx_ir as ir

from latentrt.bundle.manifest import Manifest, Precision
from latentrt.errors import BundleError
from latentrt.pipeline.load import load
from latentrt.pipeline.pipeline import Pipeline
from latentrt.request.settings import resolve
from latentrt.storage.atomic import filling, put_in_place, refuse_existing
from latentrt.tensors import TensorSpec, shape_of
from latentrt_calib.evaluate.candidate import Evaluator, FloatGraph
from latentrt_calib.evaluate.compare import bundle_summary, compare, mean_psnr_db
from latentrt_calib.evaluate.damage import Damage
from latentrt_calib.evaluate.generate import requests_of
from latentrt_calib.evaluate.noise import noise_of
from latentrt_calib.evaluate.sensitivity import damage_of, fewest_float, groups_of, in_order
from latentrt_calib.observing.observations import Observations
from latentrt_calib.observing.observe import ObservationSettings, observe
from latentrt_calib.publish import DecoderGate, WrittenComponent, publish
from latentrt_calib.quantize.layers import Layer, layers_of
from latentrt_calib.quantize.planning import PlannedLayer, Recipe, candidates, observed_values, plan_layers
from latentrt_calib.quantize.qdq import is_quantized, weight_only
from latentrt_calib.recording.prompts import for_images
from latentrt_calib.recording.record import DECODER, UNET, Progress, Recording, record
from latentrt_calib.recording.subjects import subject_kind
from latentrt_calib.recording.workspace import open_workspace
from latentrt_calib.report.layer_reports import BY_RULE, WEIGHTS_ONLY, bucket_ends, over_budget, ranges_of
from latentrt_calib.report.report import LayerReport, Report
from latentrt_export.graph.save import save_graph

SETTINGS = "calibration.json"
ANY = "any"  # target of a graph that every engine runs as it is
# Options that intermediate results do not depend on.
INDEPENDENT = ("budget_db", "sensitivity", "vae_gate_db")
# Evaluation pictures have other seeds than calibration pictures.
EVALUATION_SEED = 1_000_000
OBSERVING = {UNET: ObservationSettings(), DECODER: ObservationSettings(buckets=1)}  # the decoder has no timesteps


@dataclass(frozen=True)
class CalibrationOptions:
    """Options of a calibration.

    calibration, evaluation: subjects, as `subjects_of` gives them. recipe: parts of the method. images, steps, sampler,
    seed: of the recording's pictures. inits: files of pictures for a model that is shown one; without, they are drawn.
    The evaluation takes the last files first, to have others than the calibration. evaluations: number of evaluation
    pictures. probes: number of them that measure a single layer's damage. budget_db: least mean PSNR of
    the evaluation pictures with the quantized UNet. sensitivity: measure every layer's damage even if the budget holds
    with all layers quantized. vae_gate_db: least mean PSNR of pictures that the quantized VAE decoder decodes from the
    float UNet's latents; below it, or for None, the decoder stays float.
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


@dataclass(frozen=True)
class Context:
    """Values that all stages share: the float pipeline, the options, the folder of intermediate results."""

    pipeline: Pipeline
    options: CalibrationOptions
    folder: Path
    progress: Progress

    def graph(self, name: str = UNET, *, split: bool) -> FloatGraph:
        """A component's float graph, with shapes for one picture of the bundle's default size."""
        bundle = self.pipeline.bundle
        component = bundle.manifest.components[name]
        return FloatGraph(name, bundle.path(component.file), shapes_of(bundle.manifest, component.inputs), split)

    def shallow(self, graph: FloatGraph) -> ir.Model | None:
        """The shallow form of the UNet's graph; None of another graph, and without step caching."""
        manifest = self.pipeline.bundle.manifest
        if manifest.shallow is None or graph.component != manifest.denoiser:
            return None
        return graph.shallow(manifest.components[manifest.shallow].boundary)


def calibrate(
    source: str | Path, out: Path, precision: str, options: CalibrationOptions, progress: Progress = lambda line: None
) -> Report:
    """Writes the quantized bundle `out`, with its report as a page, and returns the report.

    precision: "int8" or "w8". `out` appears whole or not at all. Intermediate results are kept beside it until then,
    and a second run continues from them. Raises BundleError for a bundle that is quantized already, FidelityError for
    a budget that cannot be met, RequestError for subjects that cannot be generated, OutputError when `out` exists or
    the disk is full.
    """
    refuse_existing(out)
    with load(source, engine="onnxruntime") as pipeline:
        denoiser = pipeline.bundle.manifest.denoiser
        check_unet(pipeline)
        check_float(pipeline, (denoiser,) if options.vae_gate_db is None else (denoiser, DECODER))
        context = Context(pipeline, options, out.parent / f".{out.name}.calibration", progress)
        with filling(context.folder, out):
            open_workspace(context.folder, SETTINGS, fingerprint(context, precision))
            # Inside the work folder, which a later run cleans: beside `out`, a killed run would leave it behind.
            folder = context.folder / "bundle"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            evaluator = evaluator_of(context)
            quantize = PRECISIONS[precision]
            unet = quantize(context, evaluator, UNET).write(folder)
            decoder = decoder_gate(context, evaluator, quantize, folder)
            progress("comparing with the float bundle")
            report = publish(pipeline.bundle, folder, unet, decoder, evaluator, report_settings(options, evaluator))
    put_in_place(folder, out)
    shutil.rmtree(context.folder)
    return report


def check_unet(pipeline: Pipeline) -> None:
    """Raises BundleError for a denoiser that is no UNet: none other has been quantized and measured."""
    manifest = pipeline.bundle.manifest
    if manifest.denoiser != UNET:
        raise BundleError(
            f"{manifest.name}: got a denoiser that is a {manifest.denoiser}, expected a UNet; export the model with "
            "--precision w16 to halve its file"
        )


def check_float(pipeline: Pipeline, names: Sequence[str]) -> None:
    """Raises BundleError for a component that is quantized already."""
    bundle = pipeline.bundle
    for name in names:
        component = bundle.manifest.components[name]
        if component.quantization is not None or is_quantized(ir.load(bundle.path(component.file))):
            raise BundleError(
                f"{bundle.folder}: got a {name} that is quantized already, expected a float one; "
                "calibrate the bundle that `latentrt export` wrote"
            )


@dataclass(frozen=True)
class QuantizationDraft:
    """Plans of all layers that can be quantized, before some return to float.

    layers: all layers of the graph. quantizable: the layers with a plan. observations: statistics of their activations
    over the recording. planned: plans by layer.
    """

    recording: Recording
    graph: FloatGraph
    layers: tuple[Layer, ...]
    quantizable: tuple[Layer, ...]
    observations: Observations
    planned: Mapping[str, PlannedLayer]


def plan_all_layers(context: Context, recording: Recording) -> QuantizationDraft:
    """Returns plans for the layers of the recording's component. Observations are kept in the work folder."""
    recipe, component = context.options.recipe, recording.component
    graph = context.graph(component, split=recipe.split)
    model = graph.model()
    layers = layers_of(model, graph.shapes)
    quantizable = candidates(layers)
    values, folder = observed_values(quantizable, recipe.target), context.folder / "observed" / component
    settings, shallow = OBSERVING[component], context.shallow(graph)
    observations = observe(model, values, recording, folder, settings, context.progress, shallow)
    context.progress("planning")
    planned = plan_layers(model, quantizable, observations, recipe)
    return QuantizationDraft(recording, graph, layers, quantizable, observations, planned)


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

    def write(self, folder: Path) -> WrittenComponent:
        """Writes the graph into a bundle's folder."""
        data = save_graph(self.model, folder, self.graph.component)
        return WrittenComponent(self.graph, data, self.precision, self.target, self.layers(), self.buckets, self.damage)


def in_int8(context: Context, evaluator: Evaluator, component: str) -> Candidate:
    """The component with weights and activations in 8 bits; some of the UNet's layers stay float for the budget."""
    target = context.options.recipe.target
    draft = plan_all_layers(context, recorded(context).of(component))
    floats, damage = choose_float_layers(context, evaluator, draft) if component == UNET else (frozenset(), ())
    plans = {name: one.plan for name, one in draft.planned.items() if name not in floats}
    model = draft.graph.quantized(plans, target)
    layers = partial(int8_layers, context, draft, model, floats, damage)
    buckets = bucket_ends(OBSERVING[component].buckets, draft.recording.settings.train_steps)
    return Candidate(draft.graph, model, "int8", target, layers, buckets, damage)


def int8_layers(
    context: Context, draft: QuantizationDraft, model: ir.Model, floats: frozenset[str], damage: Sequence[Damage]
) -> tuple[LayerReport, ...]:
    """Reports of the layers of the quantized `model`. floats: names of the layers that stay float for the budget."""
    context.pipeline.close()  # noise is measured with two graphs in memory
    context.progress("measuring each layer's noise")
    noise = noise_of(draft.graph.model(), model, draft.layers, draft.recording, context.folder / "noise")
    by_layer = {name: one for one in damage for name in one.layers}
    reasons = {
        layer.name: over_budget(by_layer[layer.name]) if layer.name in floats else None for layer in draft.quantizable
    }
    return tuple(
        LayerReport(
            layer.name,
            layer.op,
            layer.macs,
            reasons.get(layer.name, BY_RULE),
            noise[layer.name],
            *ranges_of(draft.planned.get(layer.name), draft.observations, layer),
        )
        for layer in draft.layers
    )


def in_w8(context: Context, _evaluator: Evaluator, component: str) -> Candidate:
    """The component with weights in 8 bits and arithmetic in float."""
    graph = context.graph(component, split=False)
    model = graph.model()
    layers = layers_of(model, graph.shapes)
    names = {layer.name for layer in candidates(layers)}
    weight_only(model, names)
    reports = tuple(
        LayerReport(layer.name, layer.op, layer.macs, WEIGHTS_ONLY if layer.name in names else BY_RULE)
        for layer in layers
    )
    return Candidate(graph, model, "w8", ANY, lambda: reports)


Quantize = Callable[[Context, Evaluator, str], Candidate]
PRECISIONS: Mapping[str, Quantize] = {"int8": in_int8, "w8": in_w8}


def decoder_gate(context: Context, evaluator: Evaluator, quantize: Quantize, folder: Path) -> DecoderGate | None:
    """Quantizes the VAE decoder, and writes it if its pictures pass the gate. Returns None if there is no gate."""
    gate_db = context.options.vae_gate_db
    if gate_db is None:
        return None
    candidate, bundle = quantize(context, evaluator, DECODER), bundle_summary(context.pipeline.bundle)
    pictures = evaluator.decoded(candidate.model)
    comparison = compare(bundle, bundle, evaluator.references, pictures, context.pipeline.engine)
    reached = comparison.loss.psnr_db
    context.progress(
        f"the VAE decoder in 8 bits: {math.inf if reached is None else reached:.2f} dB, the gate is {gate_db:g} dB"
    )
    passed = reached is None or reached >= gate_db
    return DecoderGate(gate_db, comparison, candidate.write(folder) if passed else None)


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


def evaluator_of(context: Context) -> Evaluator:
    """The evaluator of quantized graphs, with reference pictures from the float bundle."""
    options = context.options
    requests = requests_of(
        options.evaluation,
        context.pipeline.bundle,
        images=options.evaluations,
        seed=EVALUATION_SEED + options.seed,
        inits=options.inits[::-1],
        steps=options.steps,
        sampler=options.sampler,
    )
    context.progress(f"generating {options.evaluations} pictures in float")
    return Evaluator(context.pipeline, requests, context.folder)


def choose_float_layers(
    context: Context, evaluator: Evaluator, draft: QuantizationDraft
) -> tuple[frozenset[str], tuple[Damage, ...]]:
    """Names of the layers that must stay float for the budget, and the damage of each group that was measured."""
    options, target, layers = context.options, context.options.recipe.target, draft.quantizable

    def measure(chosen: Sequence[Layer], images: int | None = None) -> float:
        model = draft.graph.quantized({layer.name: draft.planned[layer.name].plan for layer in chosen}, target)
        reached = mean_psnr_db(evaluator.pairs(UNET, model, images))
        return math.inf if reached is None else reached

    whole = measure(layers)
    context.progress(f"all {len(layers)} layers in 8 bits: {whole:.2f} dB, the budget is {options.budget_db:g} dB")
    if whole >= options.budget_db and not options.sensitivity:
        return frozenset(), ()
    groups = groups_of(layers)
    results = context.folder / "sensitivity.jsonl"
    damage = damage_of(groups, partial(measure, images=options.probes), results, context.progress)
    if whole >= options.budget_db:
        return frozenset(), damage
    ordered = in_order(groups, damage)
    count, _ = fewest_float(ordered, options.budget_db, measure, context.progress)
    return frozenset(layer.name for group in ordered[:count] for layer in group), damage


def shapes_of(manifest: Manifest, specs: Sequence[TensorSpec]) -> dict[str, tuple[int, ...]]:
    """The shapes of a component's inputs for one picture of the default size."""
    sizes = manifest.sizes()
    return {spec.name: shape_of(spec, sizes) for spec in specs}


def fingerprint(context: Context, precision: str) -> dict[str, object]:
    """Everything that intermediate results depend on, as JSON. Budgets only decide how the results are used."""
    options = {name: value for name, value in asdict(context.options).items() if name not in INDEPENDENT}
    versions = {name: version(name) for name in ("latentrt", "numpy", "onnx-ir")}
    known = {"bundle": context.pipeline.bundle.sha256, "precision": precision, **versions, **options}
    return dict(json.loads(json.dumps(known)))


def report_settings(options: CalibrationOptions, evaluator: Evaluator) -> dict[str, str | int | float]:
    """The options as the report states them."""
    manifest = evaluator.pipeline.bundle.manifest
    recipe, settings, kind = options.recipe, resolve(evaluator.requests[0], manifest), subject_kind(manifest)
    gate = {} if options.vae_gate_db is None else {"VAE decoder's gate in dB": options.vae_gate_db}
    subjects = {f"calibration {kind}": len(set(for_images(options.calibration, options.images)))} if kind else {}
    shown = {"pictures that it is shown": len(options.inits) or "drawn"} if manifest.extra_channels else {}
    return {
        "sampler": settings.schedule.sampler,
        "steps": settings.steps,
        "calibration images": options.images,
        **subjects,
        **shown,
        "seed": options.seed,
        "evaluation pictures": options.evaluations,
        "budget in dB": options.budget_db,
        **gate,
        "ranges": "least squared error" if recipe.clip else "extremes",
        "SmoothQuant": str(recipe.smooth),
        "split skip connections": str(recipe.split),
        "bias correction": str(recipe.correct),
    }
