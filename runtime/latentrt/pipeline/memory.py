"""Memory of a run, estimated from the manifest before it starts, and plans that fit a run into a budget.

The constants were measured (docs/cpu.md). The exporter writes the activations of each graph in ONNX Runtime into the
manifest. For graphs without them, and other engines, activations grow with the number of latents and of channels; the
number of channels follows from the time biases of a UNet, and from the square root of the weights of a VAE. Such
estimates are meant to be too high.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from latentrt.bundle.manifest import QUANTIZED_AT_ONCE, Component, Manifest, Precision
from latentrt.bundle.sources import CONTEXT_ROWS, CONTROL_ROLES, DEEP_FEATURES, LOOP_ROLES, SHALLOW_ROLES, Role
from latentrt.engines import ENGINES, Engine, MemoryModel
from latentrt.errors import EngineError, OutOfMemoryError
from latentrt.request.settings import Settings, guided
from latentrt.sampling.tiling import DECODED
from latentrt.tensors import shape_of

# Memory of Python, NumPy and the engine's code.
BASE_BYTES = 100_000_000
# Memory that ONNX Runtime's buffers need, per byte of them: its blocks leave gaps from the second call on.
GAPS = 1.05
# Components that are first called after the last step.
LATE_ROLES: tuple[Role, ...] = ("quantizer", "vae_decoder", "tiny_decoder")
# Added to the activations of a graph for which the manifest has none.
MARGIN_BYTES = 50_000_000
# Bytes of activations where the manifest has none: of a UNet, per row, latent and time-bias channel; of a VAE, per
# latent and square root of the number of weights, fewer if it decodes in stripes. They were measured with VAE_FACTOR
# pixels per latent and side.
UNET_BYTES, VAE_BYTES, STRIPED_BYTES = 5.2, 50.0, 25.0
VAE_FACTOR = 8
# Bytes of attention scores per row and pair of latents, if an engine holds those of all 8 heads at once.
SCORE_BYTES = 4 * 8
FLOAT_BYTES = 4
# Tensors of the distances of all vectors to all of the codebook that a quantizer holds at once.
DISTANCE_TENSORS = 2
# Tensors of the size of its outputs that a T2I-Adapter holds at once.
ADAPTER_TENSORS = 4
WEIGHT_BYTES: dict[Precision, float] = {"fp32": 4, "fp16": 2, "w16": 2, "int8": 1, "w8": 1, "w4": 0.6}


@dataclass(frozen=True)
class MemoryDemand:
    """Facts that decide the memory of a run: images, prompts per step, and height and width in latents.

    encodes: whether the VAE encoder runs. window: side of the UNet's tiles in latents, 0 without tiling. decoder:
    component that decodes latents. steering: components that control images use. kept: of a step cache of features, the
    number of calls whose features are kept. tiles: the number of the UNet's tiles. references: the latents of each
    reference image. steps: of the whole run, for all of which inputs of the denoiser are made before the first.
    """

    images: int
    prompts: int
    height: int
    width: int
    encodes: bool = False
    window: int = 0
    decoder: str = "vae_decoder"
    steering: frozenset[str] = frozenset()
    kept: int = 0
    tiles: int = 1
    references: tuple[int, ...] = ()
    steps: int = 0

    def uses(self, name: str, role: Role) -> bool:
        """Whether the run calls a component."""
        if role in SHALLOW_ROLES and not self.kept:
            return False
        if role in CONTROL_ROLES:
            return name in self.steering
        unused = {"vae_decoder"} - {self.decoder} | (set() if self.encodes else {"vae_encoder"})
        return name not in unused


@dataclass(frozen=True)
class MemoryPlan:
    """A way to run a request in little memory.

    keep: components stay loaded; otherwise each is unloaded after use. split: one UNet call per prompt. peak_bytes:
    estimated peak of memory.
    """

    keep: bool
    split: bool
    peak_bytes: int


@dataclass(frozen=True)
class Budget:
    """The limit of memory in bytes, and the memory model of each component's engine."""

    bytes: int
    models: Mapping[str, MemoryModel]

    def plan(self, manifest: Manifest, demand: MemoryDemand) -> MemoryPlan:
        """The plan of a run within the budget; see `plan` below."""
        return plan(manifest, demand, self.models, self.bytes)


def demand_of(settings: Settings, prompts: int, manifest: Manifest) -> MemoryDemand:
    """The demand of a run with these settings. prompts: the number of prompts joined by AND."""
    pixels = manifest.latents.factor
    rows, columns = settings.height // pixels, settings.width // pixels
    window, works = (settings.tiling.window or 0) // pixels, guided(settings, manifest)
    prompts += works + (works and (settings.guidance.image or 1) > 1)
    from_image = settings.init_image is not None and (not manifest.upscales or settings.skipped > 0)
    references = tuple(one.width * one.height // pixels**2 for one in settings.references.images)
    if settings.init_image and settings.init_image.shown:
        references = (rows * columns, *references)
    encodes = from_image or "masked_image" in manifest.extra_channels or bool(references)
    steering = frozenset[str]().union(*(manifest.networks_of(control.name) for control in settings.controls.images))
    kept = settings.step_cache.order + 1 if settings.step_cache and settings.step_cache.features else 0
    return MemoryDemand(
        len(settings.seeds),
        prompts,
        rows,
        columns,
        encodes,
        window,
        settings.decoder,
        steering,
        kept,
        len(settings.tiling.tiles(settings.width, settings.height, pixels)) or 1,
        references,
        settings.schedule.length,
    )


def smaller_request(engine: str, engines: Mapping[str, Engine], manifest: Manifest, demand: MemoryDemand) -> str:
    """Text that suggests a smaller request, for one that ran out of memory."""
    if engine not in modelled_engines():
        return "ask for fewer or smaller images"
    models = memory_models(engine, engines)
    least = min(one.peak_bytes for one in candidates(manifest, demand, models))
    return f"in half of the memory, {suggestion(manifest, demand, models, least // 2)}"


def modelled_engines() -> list[str]:
    """Names of the engines whose memory is modelled."""
    return [name for name, kind in ENGINES.items() if kind.memory is not None]


def memory_models(name: str, engines: Mapping[str, Engine]) -> dict[str, MemoryModel]:
    """The memory model of each component's engine. Raises EngineError for an engine that has none."""
    models = {component: engine.memory for component, engine in engines.items()}
    known = {component: model for component, model in models.items() if model is not None}
    if name not in modelled_engines() or len(known) < len(models):
        raise EngineError(
            f"memory budget: got the engine {name}, expected {' or '.join(modelled_engines())}; leave the budget out, "
            "or use --engine cpu"
        )
    return known


def plan(manifest: Manifest, demand: MemoryDemand, models: Mapping[str, MemoryModel], budget: int) -> MemoryPlan:
    """Returns the fastest plan that fits into `budget` bytes.

    models: by component. Raises OutOfMemoryError with the memory needed and a request that would fit.
    """
    plans = list(candidates(manifest, demand, models))
    for one in plans:
        if one.peak_bytes <= budget:
            return one
    least = min(one.peak_bytes for one in plans)
    raise OutOfMemoryError(
        f"memory budget: got {budget / 1e9:.2f} GB, expected at least {least / 1e9:.2f} GB for {demand_text(demand)}; "
        f"{suggestion(manifest, demand, models, budget)}{older_bundle(manifest, models)}"
    )


def older_bundle(manifest: Manifest, models: Mapping[str, MemoryModel]) -> str:
    """Text that says that the bundle lacks figures for the estimate, which is too high without; "" if it has them."""
    figured = (name for name, one in manifest.components.items() if one.role in ("denoiser", "vae_decoder"))
    if all(manifest.components[name].activations or not models[name].scores for name in figured):
        return ""
    return (
        "; the bundle is of an earlier version and lacks the memory of its activations, so that this estimate is too "
        "high: `latentrt upgrade` on the bundle's folder, with the extra `export` installed, adds it"
    )


def candidates(manifest: Manifest, demand: MemoryDemand, models: Mapping[str, MemoryModel]) -> Iterator[MemoryPlan]:
    """All plans, fastest first: a second UNet call per step costs less time than loading components for each run."""
    used = {name: one for name, one in manifest.components.items() if demand.uses(name, one.role)}
    weights = {name: weight_bytes(manifest, one, models[name]) for name, one in used.items()}
    loading = {name: loading_bytes(manifest, one, models[name]) for name, one in used.items()}
    loop = sum(weight for name, weight in weights.items() if in_loop(used[name]))  # these stay loaded between steps
    early = sum(weight for name, weight in weights.items() if used[name].role not in LATE_ROLES)
    tables = sum(table_bytes(one, demand) for one in used.values())
    for keep, split in itertools.product((True, False), (False, True)):
        peaks = []
        for name, one in used.items():
            per_call = replace(demand, prompts=1) if split and in_loop(one) else demand
            alone = loop if in_loop(one) else weights[name]
            cached = kept_bytes(manifest, demand) if in_loop(one) else 0
            calling = cached + (sum(weights.values()) if keep else alone)
            before = (sum(weights.values()) if one.role in LATE_ROLES else early) if keep else alone
            peaks.append(calling + activation_bytes(manifest, name, per_call, models[name]))
            peaks.append(before - weights[name] + max(loading[name], weights[name]))
        yield MemoryPlan(keep, split, round(BASE_BYTES + tables + max(peaks)))


def weight_bytes(manifest: Manifest, component: Component, model: MemoryModel) -> float:
    """Bytes in memory of a loaded component's weights. Of weights in 4 and in 8 bits, each kind counts as its own."""
    size, wide = unmapped_bytes(manifest, component, model), component.eight_bit_bytes
    return (size - wide) * model.weights[component.precision] + wide * model.weights["w8"]


def loading_bytes(manifest: Manifest, component: Component, model: MemoryModel) -> float:
    """Bytes in memory while a component is loaded; 0 where they are no more than afterwards."""
    factors = model.packing if component.data else model.loading
    return unmapped_bytes(manifest, component, model) * factors.get(component.precision, 0)


def unmapped_bytes(manifest: Manifest, component: Component, model: MemoryModel) -> int:
    """The bytes of a component's files that are in memory once it is loaded."""
    mapped = component.row_bytes if model.maps and component.data else 0
    return file_bytes(manifest, component) - mapped


def in_loop(component: Component) -> bool:
    """Whether a component is called between the first step and the last."""
    return component.role in LOOP_ROLES


def kept_bytes(manifest: Manifest, demand: MemoryDemand) -> int:
    """Bytes of the features that a step cache keeps, and of those that a call makes or takes."""
    if not demand.kept or manifest.shallow is None:
        return 0
    sides = (min(side, demand.window or side) for side in (demand.height, demand.width))
    sizes = {"batch": demand.images * demand.prompts, **dict(zip(("height", "width"), sides, strict=True))}
    spec = manifest.components[manifest.shallow].input(DEEP_FEATURES)
    each = math.prod(shape_of(spec, sizes)) * np.dtype(spec.dtype).itemsize
    return each * (demand.kept * demand.tiles + 1)


def table_bytes(component: Component, demand: MemoryDemand) -> int:
    """Bytes of what a hoisted graph makes for all steps, and for all prompts where these differ; 0 for all others."""
    per = {one for source in component.sources.values() for one in source.per}
    if component.role != "hoisted" or "step" not in per:
        return 0
    rows = {"n": demand.steps * (demand.prompts if "prompt" in per else 1)}
    return sum(math.prod(shape_of(spec, rows)) * np.dtype(spec.dtype).itemsize for spec in component.outputs)


def activation_bytes(manifest: Manifest, name: str, demand: MemoryDemand, model: MemoryModel) -> float:
    """Bytes of activations in one call of a component."""
    component, latents = manifest.components[name], latents_per_call(manifest, name, demand)
    rows = demand.prompts * demand.images if in_loop(component) else 1
    if component.activations and (model.scores or is_transformer(component)):
        figures = ((each, pairs if model.scores else 0.0) for each, pairs in component.activations)
        return GAPS * rows * max(latents * each + latents**2 * pairs for each, pairs in figures)
    return MARGIN_BYTES + usual_activation_bytes(manifest, component, demand, latents, model)


def is_transformer(component: Component) -> bool:
    """Whether a denoiser is a transformer, for which the constants of UNets mean nothing."""
    return any(source.kind == "positions" for source in component.sources.values())


def usual_activation_bytes(
    manifest: Manifest, component: Component, demand: MemoryDemand, latents: int, model: MemoryModel
) -> float:
    """Bytes of activations in one call of a component for which the manifest has none. latents: of one row."""
    if in_loop(component):
        rows = demand.prompts * demand.images
        attended = latents / component.attention_factor**2
        scores = SCORE_BYTES * rows * attended**2 if model.scores else 0
        return UNET_BYTES * rows * latents * time_bias_width(manifest) + scores
    if component.role in ("vae_encoder", "vae_decoder", "tiny_decoder", "controlnet_hint"):
        attends = component.role in ("vae_encoder", "vae_decoder")
        scores = FLOAT_BYTES * latents**2 if model.scores and attends else 0
        each = STRIPED_BYTES if model.striped and component.role == "vae_decoder" else VAE_BYTES
        each *= (manifest.latents.factor / VAE_FACTOR) ** 2  # most of the memory is at the pixels' resolution
        return each * latents * math.sqrt(file_bytes(manifest, component) / WEIGHT_BYTES[component.precision]) + scores
    if component.role == "hoisted":
        return table_bytes(component, demand)
    if component.role == "quantizer":
        vectors, channels = min(latents, QUANTIZED_AT_ONCE), component.inputs[0].shape[-1]
        codebook = file_bytes(manifest, component) / FLOAT_BYTES / int(channels)
        return DISTANCE_TENSORS * FLOAT_BYTES * vectors * codebook
    if component.role == "t2i_adapter":
        sizes = {"batch": 1, "height": demand.height, "width": demand.width}
        return ADAPTER_TENSORS * FLOAT_BYTES * sum(math.prod(shape_of(spec, sizes)) for spec in component.outputs)
    return 0


def latents_per_call(manifest: Manifest, name: str, demand: MemoryDemand) -> int:
    """Latents of one row in a call of a component: those of a tile where it sees tiles, and what stands beside them."""
    component, most, more = manifest.components[name], 0, 0
    if in_loop(component):
        most, more = demand.window, sum(demand.references) + joint_tokens(manifest, component)
    elif component.role == "vae_decoder" and manifest.upscales:
        most = DECODED
    latents = more + math.prod(min(side, most or side) for side in (demand.height, demand.width))
    return max(latents, *demand.references) if component.role == "vae_encoder" and demand.references else latents


def joint_tokens(manifest: Manifest, component: Component) -> int:
    """Latents that weigh as much as a text's tokens beside them in attention; 0 where a denoiser attends to them apart.

    A token weighs as much as a patch.
    """
    joint = any(source.name == CONTEXT_ROWS for source in component.sources.values())
    return manifest.sizes()["tokens"] * component.attention_factor**2 if joint else 0


def time_bias_width(manifest: Manifest) -> int:
    """Width of the denoiser's time biases: the channels of all its ResNets, and of those of ControlNets."""
    denoiser = manifest.components[manifest.denoiser]
    stepwise = {
        name for name, source in denoiser.sources.items() if source.kind == "component" and "step" in source.per
    }
    widths = (spec.shape[-1] for spec in denoiser.inputs if spec.name in stepwise)
    return sum(width for width in widths if isinstance(width, int))


def file_bytes(manifest: Manifest, component: Component) -> int:
    """The bytes of a component's graph and weights."""
    return sum(manifest.files[file].bytes for file in (component.file, *component.data))


def demand_text(demand: MemoryDemand) -> str:
    """The images and size of a demand, as text."""
    images = "an image" if demand.images == 1 else f"{demand.images} images"
    return f"{images} of {demand.width}x{demand.height} latents"


def suggestion(manifest: Manifest, demand: MemoryDemand, models: Mapping[str, MemoryModel], budget: int) -> str:
    """Text that suggests what fits the budget: fewer images, else a smaller picture, else another bundle."""

    def fits(variant: MemoryDemand) -> bool:
        return any(one.peak_bytes <= budget for one in candidates(manifest, variant, models))

    pixels, multiple = manifest.latents.factor, manifest.latents.multiple
    fewer = [count for count in range(demand.images - 1, 0, -1) if fits(replace(demand, images=count))]
    if fewer:
        return f"--batch {fewer[0]} fits"
    for eighths in range(7, 0, -1):
        width, height = (max(1, side * eighths // 8 // multiple) * multiple for side in (demand.width, demand.height))
        if fits(replace(demand, images=1, width=width, height=height)):
            return f"--batch 1 --size {width * pixels}x{height * pixels} fits"
    return "no size fits: use `latentrt build --target cpu`, or an INT8 bundle, which `latentrt calibrate` makes"
