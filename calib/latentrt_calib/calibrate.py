"""Quantization of a bundle, step by step: quantize the denoiser, then what has a gate, write, compare, report.

A shallow UNet for step caching is cut out of the quantized UNet, so that both have the same weights and scales.
Intermediate results are kept in a hidden folder beside the new bundle until the bundle is complete, so that a stopped
run continues.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import onnx_ir as ir

from latentrt.errors import BundleError, FidelityError, RequestError
from latentrt.pipeline.load import load
from latentrt.pipeline.pipeline import Pipeline
from latentrt.request.settings import resolve
from latentrt.storage.atomic import filling, put_in_place, refuse_existing
from latentrt_calib.evaluate.candidate import Evaluator
from latentrt_calib.evaluate.compare import bundle_summary, compare
from latentrt_calib.evaluate.generate import requests_of
from latentrt_calib.precisions.context import CalibrationOptions as CalibrationOptions
from latentrt_calib.precisions.context import Candidate, Context
from latentrt_calib.precisions.half import in_fp16
from latentrt_calib.precisions.int8 import in_int8
from latentrt_calib.precisions.weights import in_w4, in_w8
from latentrt_calib.publish import Gate, publish
from latentrt_calib.quantize.planning import Recipe
from latentrt_calib.quantize.qdq import is_quantized
from latentrt_calib.recording.prompts import for_images
from latentrt_calib.recording.record import DECODER, UNET, Progress
from latentrt_calib.recording.subjects import subject_kind
from latentrt_calib.recording.workspace import open_workspace
from latentrt_calib.report.report import Report

SETTINGS = "calibration.json"
# Options that intermediate results do not depend on.
INDEPENDENT = ("budget_db", "sensitivity", "vae_gate_db", "text_gate_db")
# Evaluation pictures have other seeds than calibration pictures.
EVALUATION_SEED = 1_000_000

Settings = dict[str, str | int | float]
Quantize = Callable[[Context, Evaluator, str], Candidate]
PRECISIONS: Mapping[str, Quantize] = {"int8": in_int8, "w8": in_w8, "w4": in_w4, "fp16": in_fp16}
# The precisions of any graph; activations in 8 bits have been measured in UNets and decoders alone.
OF_ANY_GRAPH = ("w8", "w4", "fp16")


def calibrate(
    source: str | Path, out: Path, precision: str, options: CalibrationOptions, progress: Progress = lambda line: None
) -> Report:
    """Writes the quantized bundle `out`, with its report as a page, and returns the report.

    precision: "int8", "w8", "w4" or "fp16". `out` appears whole or not at all. Intermediate results are kept beside it
    until then, and a second run continues from them. Raises BundleError for a bundle that is quantized already,
    FidelityError for a budget that cannot be met, RequestError for subjects that cannot be generated and for a gate of
    text encoders in INT8, OutputError when `out` exists or the disk is full.
    """
    refuse_existing(out)
    check_options(precision, options)
    with load(source, engine="onnxruntime") as pipeline:
        check_denoiser(pipeline, precision)
        check_encoders(pipeline, options)
        check_float(pipeline, (pipeline.bundle.manifest.denoiser, *gated(pipeline, options)), precision)
        context = Context(pipeline, options, out.parent / f".{out.name}.calibration", progress)
        with filling(context.folder, out):
            open_workspace(context.folder, SETTINGS, fingerprint(context, precision))
            # Inside the work folder, which a later run cleans: beside `out`, a killed run would leave it behind.
            folder = context.folder / "bundle"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            evaluator = evaluator_of(context)
            quantize = PRECISIONS[precision]
            denoiser = quantize(context, evaluator, context.denoiser).write(folder)
            gates = [gate_of(context, evaluator, quantize, name, folder) for name in gated(pipeline, options)]
            progress("comparing with the float bundle")
            settings = report_settings(options, evaluator, precision)
            report = publish(pipeline.bundle, folder, denoiser, gates, evaluator, settings)
            if precision == "fp16":
                check_budget(report, options.budget_db)
    put_in_place(folder, out)
    shutil.rmtree(context.folder)
    return report


def check_options(precision: str, options: CalibrationOptions) -> None:
    """Raises RequestError for a gate of text encoders where only weights and activations together are quantized."""
    if options.text_gate_db is not None and precision not in OF_ANY_GRAPH:
        raise RequestError(
            f"text gate: got {options.text_gate_db:g} dB with the precision {precision}, in which text encoders stay "
            "float; leave it out, or use --precision w4"
        )


def check_denoiser(pipeline: Pipeline, precision: str) -> None:
    """Raises BundleError for activations in 8 bits in a denoiser that is no UNet: none other has been measured."""
    manifest = pipeline.bundle.manifest
    if manifest.denoiser != UNET and precision not in OF_ANY_GRAPH:
        raise BundleError(
            f"{manifest.name}: got a denoiser that is a {manifest.denoiser}, expected a UNet; quantize its weights "
            "alone, with --precision w4"
        )


def check_budget(report: Report, budget_db: float) -> None:
    """Raises FidelityError for pictures in fp16 below the budget: there are no other layers to choose."""
    reached = report.comparison.loss.psnr_db
    if reached is not None and reached < budget_db:
        raise FidelityError(
            f"{report.component}: got pictures of {reached:.2f} dB in fp16, expected at least {budget_db:g} dB, the "
            "budget; nothing was written. Keep the bundle that you have, or lower --budget"
        )


def gated(pipeline: Pipeline, options: CalibrationOptions) -> tuple[str, ...]:
    """The names of the components with a gate: text encoders, then the VAE decoder."""
    encoders = pipeline.bundle.manifest.text_encoders if options.text_gate_db is not None else ()
    return (*encoders, *((DECODER,) if options.vae_gate_db is not None else ()))


def check_encoders(pipeline: Pipeline, options: CalibrationOptions) -> None:
    """Raises RequestError for a gate of text encoders of a model that has none."""
    manifest = pipeline.bundle.manifest
    if options.text_gate_db is not None and not manifest.text_encoders:
        raise RequestError(
            f"text gate: got {options.text_gate_db:g} dB for {manifest.name}, which has no text encoder; leave it out"
        )


def check_float(pipeline: Pipeline, names: Sequence[str], precision: str) -> None:
    """Raises BundleError for a component that is quantized already, or has the precision."""
    bundle = pipeline.bundle
    for name in names:
        component = bundle.manifest.components[name]
        if component.quantization is not None or is_quantized(ir.load(bundle.path(component.file))):
            raise BundleError(
                f"{bundle.folder}: got a {name} that is quantized already, expected a float one; "
                "calibrate one that `latentrt export --precision w16` wrote"
            )
        if precision == component.precision:
            raise BundleError(
                f"{bundle.folder}: got a {name} in {precision} already, expected one in fp32 or w16; "
                "export it with --precision w16"
            )


def gate_of(context: Context, evaluator: Evaluator, quantize: Quantize, name: str, folder: Path) -> Gate:
    """Quantizes the VAE decoder or a text encoder, and writes it if its pictures pass its gate."""
    gate_db = context.options.vae_gate_db if name == DECODER else context.options.text_gate_db
    assert gate_db is not None
    candidate, bundle = quantize(context, evaluator, name), bundle_summary(context.pipeline.bundle)
    pictures = evaluator.decoded(candidate.shown) if name == DECODER else evaluator.drawn(name, candidate.shown)
    comparison = compare(bundle, bundle, evaluator.references, pictures, context.pipeline.engine)
    reached = math.inf if comparison.loss.psnr_db is None else comparison.loss.psnr_db
    context.progress(f"{name} in {candidate.precision}: {reached:.2f} dB, the gate is {gate_db:g} dB")
    return Gate(name, gate_db, comparison, candidate.write(folder) if reached >= gate_db else None)


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


def fingerprint(context: Context, precision: str) -> dict[str, object]:
    """Everything that intermediate results depend on, as JSON. Budgets only decide how the results are used."""
    options = {name: value for name, value in asdict(context.options).items() if name not in INDEPENDENT}
    versions = {name: version(name) for name in ("latentrt", "numpy", "onnx-ir")}
    known = {"bundle": context.pipeline.bundle.sha256, "precision": precision, **versions, **options}
    return dict(json.loads(json.dumps(known)))


def report_settings(options: CalibrationOptions, evaluator: Evaluator, precision: str) -> Settings:
    """The options as the report states them."""
    manifest = evaluator.pipeline.bundle.manifest
    recipe, settings, kind = options.recipe, resolve(evaluator.requests[0], manifest), subject_kind(manifest)
    gates = {"VAE decoder's gate in dB": options.vae_gate_db, "text encoders' gate in dB": options.text_gate_db}
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
        **{name: gate for name, gate in gates.items() if gate is not None},
        **METHODS.get(precision, of_ranges)(recipe),
    }


def of_ranges(recipe: Recipe) -> Settings:
    """The parts of the method for activations in 8 bits, as the report states them."""
    return {
        "ranges": "least squared error" if recipe.clip else "extremes",
        "SmoothQuant": str(recipe.smooth),
        "split skip connections": str(recipe.split),
        "bias correction": str(recipe.correct),
    }


def of_blocks(recipe: Recipe) -> Settings:
    """The parts of the method for weights in 4 bits, as the report states them."""
    return {"input channels of a scale": recipe.block, "error feedback": str(recipe.feedback)}


METHODS = {"w4": of_blocks}
