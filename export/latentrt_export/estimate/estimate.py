"""Estimates of a bundle on a device: least time per step and per picture, memory, and the limiting resource."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from latentrt.bundle.folder import Bundle
from latentrt.bundle.manifest import QUANTIZED_AT_ONCE, Manifest
from latentrt.bundle.sources import CLASS_LABEL, denoiser_in
from latentrt.conditioning.image_embedding import AUGMENTOR, embedding_components
from latentrt.conditioning.prior import PRIOR, PRIOR_ENCODER
from latentrt.conditioning.text import from_text
from latentrt.request.settings import Settings, guided
from latentrt.request.step_cache import cache_plan
from latentrt.tensors import shape_of
from latentrt_export.estimate.devices import Device
from latentrt_export.estimate.roofline import PRECISIONS, Precision, PrecisionName, Roofline, roofline, weight_bytes
from latentrt_export.graph.costs import Cost, cost_of

# CUDA context and engine, as measured by a user of an Orin Nano (github.com/ace-step/ACE-Step-1.5/issues/1192).
CONTEXT_BYTES = 500_000_000
# Shared memory that the system keeps: of 8 GiB, about 5.2 GiB are free beside a desktop of about 0.8 GiB.
SYSTEM_BYTES = 2_200_000_000

# After a graph's name: its calls on the positive prompt alone, where others have both.
POSITIVE = ", positive"
# The graphs that `latentrt calibrate` quantizes; the others compute in FP16.
QUANTIZED: Mapping[PrecisionName, tuple[str, ...]] = {
    "int8": ("unet", "unet_shallow"),
    "w4": ("unet", "unet_shallow", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3"),
}


@dataclass(frozen=True)
class Call:
    """A graph's cost at the sizes of a request, and its number of calls.

    always: precision of a graph that is the same in every bundle, such as SDXL's VAE.
    """

    cost: Cost
    times: int
    always: PrecisionName | None = None


@dataclass(frozen=True)
class Estimate:
    """Estimate of a request on a device: seconds are lower bounds, bytes are estimates; nothing is measured.

    step: one call of the denoiser. seconds: the whole request. activation_bytes: of the largest graph. resident_bytes:
    all graphs loaded. least_bytes: one graph loaded at a time. room_bytes: free memory of the device.
    """

    step: Roofline
    seconds: float
    weight_bytes: int
    activation_bytes: int
    resident_bytes: int
    least_bytes: int
    room_bytes: int

    @property
    def fits(self) -> str:
        """ "all at once", "one at a time", or "no"."""
        if self.resident_bytes <= self.room_bytes:
            return "all at once"
        return "one at a time" if self.least_bytes <= self.room_bytes else "no"


def calls_of(bundle: Bundle, settings: Settings) -> dict[str, Call]:
    """Returns the calls of a request by component, in order. Weights are not read.

    The UNet is called as often as the sampler does, on the negative prompt too if any step is guided. With a step cache
    the shallow UNet takes its place in calls that are not full. The quantizer of a VQ model is called once per stripe.
    """
    manifest = bundle.manifest
    images, prompts = len(settings.seeds), prompts_of(settings, manifest)
    per_prompt = (name for name, one in manifest.hoisted.items() if from_text(one) or CLASS_LABEL in one.sources)
    texts = (*manifest.text_encoders, *per_prompt)
    batches = dict.fromkeys(texts, prompts) | {name: 1 for name in manifest.hoisted if name not in texts}
    denoising = denoiser_calls(manifest, settings)
    batches |= {name: images * rows for name, (rows, _) in denoising.items()} | {settings.decoder: 1}
    latents = settings.width * settings.height // manifest.latents.factor**2
    stripes = {name: images * -(-latents // QUANTIZED_AT_ONCE) for name in manifest.of_role("quantizer")}
    batches |= dict.fromkeys(stripes, 1)
    embedding = embedding_calls(manifest, settings)
    batches |= {name: batch for name, (batch, _) in embedding.items()}
    times = {settings.decoder: images, **stripes}
    times |= {name: count for name, (_, count) in (denoising | embedding).items()}
    return {
        name: Call(call_cost(bundle, name.removesuffix(POSITIVE), settings, batch), times.get(name, 1))
        for name, batch in batches.items()
    }


def call_cost(bundle: Bundle, name: str, settings: Settings, batch: int) -> Cost:
    """The cost of one call of a component at the settings' size. Weights are not read."""
    manifest, component = bundle.manifest, bundle.manifest.components[name]
    sizes = manifest.sizes(settings.width, settings.height, n=settings.steps, batch=batch)
    shapes = {spec.name: shape_of(spec, sizes) for spec in component.inputs}
    return cost_of(ir.load(bundle.path(component.file)), shapes)


def prompts_of(settings: Settings, manifest: Manifest) -> int:
    """The rows of a guided call, for one picture."""
    return 2 if guided(settings, manifest) else 1


def denoiser_calls(manifest: Manifest, settings: Settings) -> dict[str, tuple[int, int]]:
    """Returns the rows, for one picture, and the number of calls of the denoiser and the shallow one.

    Calls on the positive prompt alone, beside others on both, are listed apart: the graph's name and POSITIVE.
    """
    calls = settings.schedule.calls(settings.noise_schedule(manifest))
    spec, (low, high) = settings.step_cache, settings.guidance.sigmas
    full = cache_plan(spec, calls).full if spec else range(len(calls.sigmas))
    found = Counter[tuple[str, int]]()
    for number, sigma in enumerate(calls.sigmas):
        rows = prompts_of(settings, manifest) if low <= sigma <= high else 1
        if number in full or spec is None:
            found[manifest.denoiser, rows] += 1
        elif spec.of != "prediction":
            name = manifest.shallow if spec.features else manifest.denoiser
            found[name or manifest.denoiser, 1 if spec.guidance else rows] += 1
    ordered = sorted(found.items(), key=lambda one: (one[0][0], -one[0][1]))
    most = {name: max(rows for other, rows in found if other == name) for name, _ in found}
    return {name if rows == most[name] else name + POSITIVE: (rows, count) for (name, rows), count in ordered}


def embedding_calls(manifest: Manifest, settings: Settings) -> dict[str, tuple[int, int]]:
    """Returns the rows and the number of calls of what makes the image embedding of unCLIP models, by component."""
    spec, images = settings.image_embedding, len(settings.seeds)
    if spec is None:
        return {}
    known = {AUGMENTOR: (1, images), PRIOR: (2, images * spec.prior_steps), PRIOR_ENCODER: (2, 1)}
    return {name: known.get(name, (1, 1)) for name in sorted(embedding_components(manifest))}


def estimate(calls: Mapping[str, Call], precision: PrecisionName, device: Device) -> Estimate:
    """Returns the estimate of these calls on a device.

    At "int8" only the UNet is quantized, at "w4" the denoiser and text encoders; the rest is fp16.
    """
    how = {name: precision_of(name, call, precision) for name, call in calls.items()}
    bounds = {name: roofline(call.cost, how[name], device) for name, call in calls.items()}
    # A graph's weights count once, however it is called.
    weights = {name: weight_bytes(one.cost, how[name]) * (POSITIVE not in name) for name, one in calls.items()}
    activations = {name: call.cost.activation_elements * how[name].activation_bytes for name, call in calls.items()}
    return Estimate(
        step=bounds[denoiser_in(bounds)],
        seconds=sum(call.times * bounds[name].seconds for name, call in calls.items()),
        weight_bytes=sum(weights.values()),
        activation_bytes=max(activations.values()),
        resident_bytes=CONTEXT_BYTES + sum(weights.values()) + max(activations.values()),
        least_bytes=CONTEXT_BYTES + max(weights[name] + activations[name] for name in calls),
        room_bytes=int(device.memory_gb * 1e9) - (SYSTEM_BYTES if device.shared else 0),
    )


def precision_of(name: str, call: Call, precision: PrecisionName) -> Precision:
    """The precision of a graph in a bundle of that precision."""
    quantized = QUANTIZED.get(precision)
    float_here = quantized is not None and name.removesuffix(POSITIVE) not in quantized
    return PRECISIONS[call.always or ("fp16" if float_here else precision)]
