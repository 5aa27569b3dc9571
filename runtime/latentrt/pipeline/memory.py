"""Memory of a run: estimated from the manifest before the run starts, and planned to fit a budget.

The estimates are fits to measurements (docs/cpu.md). Activations grow with the number of latents and of channels; the
width of a UNet's time biases and the square root of a VAE's weights stand for the channels. Estimates are a little too
high on purpose.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from latentrt.bundle.manifest import Component, Manifest, Precision
from latentrt.bundle.sources import CONTROL_ROLES, Role
from latentrt.engines import ENGINES, Engine, MemoryModel
from latentrt.errors import EngineError, OutOfMemoryError
from latentrt.request.settings import Settings, guided
from latentrt.tensors import shape_of

# Python, NumPy, the engine's code.
BASE_BYTES = 150_000_000
# Bytes of activations: of a UNet, per row, latent and channel of its time biases; of a VAE, per latent and square root
# of its number of weights, and fewer if it decodes in stripes.
UNET_BYTES, VAE_BYTES, STRIPED_BYTES = 5.2, 50.0, 25.0
# Engines that hold attention scores hold them for all heads at once, 8 at the level with most latents.
SCORE_BYTES = 4 * 8
FLOAT_BYTES = 4
# Tensors of the size of a T2I-Adapter's outputs that are in memory at once.
ADAPTER_TENSORS = 4
WEIGHT_BYTES: dict[Precision, int] = {"fp32": 4, "fp16": 2, "w16": 2, "int8": 1, "w8": 1}


@dataclass(frozen=True)
class Demand:
    """Properties of a run that decide its memory: images, prompts per step, height and width in latents.

    encodes: True for a run from an image. window: side of a tile in latents; 0 without tiling. decoder: the component
    that decodes latents. steering: the components of the run's control images.
    """

    images: int
    prompts: int
    height: int
    width: int
    encodes: bool = False
    window: int = 0
    decoder: str = "vae_decoder"
    steering: frozenset[str] = frozenset()

    def uses(self, name: str, role: Role) -> bool:
        """True if the run calls a component."""
        if role in CONTROL_ROLES:
            return name in self.steering
        unused = {"vae_decoder"} - {self.decoder} | (set() if self.encodes else {"vae_encoder"})
        return name not in unused


@dataclass(frozen=True)
class Plan:
    """Memory plan of a run.

    keep: True if components stay loaded; False if each is unloaded after its stage. split: one UNet call per prompt.
    peak_bytes: estimated peak memory.
    """

    keep: bool
    split: bool
    peak_bytes: int


@dataclass(frozen=True)
class Budget:
    """The memory limit of a run in bytes, and the memory model of each component's engine."""

    bytes: int
    models: Mapping[str, MemoryModel]

    def plan(self, manifest: Manifest, demand: Demand) -> Plan:
        """The plan of a run within the budget; see `plan`."""
        return plan(manifest, demand, self.models, self.bytes)


def demand_of(settings: Settings, prompts: int, manifest: Manifest) -> Demand:
    """The demand of a run with these settings. prompts: number of prompts between ANDs."""
    pixels = manifest.latents.factor
    rows, columns = settings.height // pixels, settings.width // pixels
    window, works = (settings.tiling.window or 0) // pixels, guided(settings, manifest)
    prompts += works + (works and (settings.guidance.image or 1) > 1)
    encodes = settings.init_image is not None or "masked_image" in manifest.extra_channels
    steering = frozenset[str]().union(*(manifest.networks_of(control.name) for control in settings.controls.images))
    return Demand(len(settings.seeds), prompts, rows, columns, encodes, window, settings.decoder, steering)


def smaller(engine: str, engines: Mapping[str, Engine], manifest: Manifest, demand: Demand) -> str:
    """Advice for a run that ran out of memory: a smaller run that would fit, for an error message."""
    if engine not in modelled():
        return "ask for fewer or smaller images"
    models = memory_models(engine, engines)
    least = min(one.peak_bytes for one in candidates(manifest, demand, models))
    return f"in half of the memory, {remedy(manifest, demand, models, least // 2)}"


def modelled() -> list[str]:
    """Names of the engines whose memory is modelled."""
    return [name for name, kind in ENGINES.items() if kind.memory is not None]


def memory_models(name: str, engines: Mapping[str, Engine]) -> dict[str, MemoryModel]:
    """The memory model of each component's engine. Raises EngineError for an engine without one."""
    models = {component: engine.memory for component, engine in engines.items()}
    known = {component: model for component, model in models.items() if model is not None}
    if name not in modelled() or len(known) < len(models):
        raise EngineError(
            f"memory budget: got the engine {name}, expected {' or '.join(modelled())}; leave the budget out, or use "
            "--engine cpu"
        )
    return known


def plan(manifest: Manifest, demand: Demand, models: Mapping[str, MemoryModel], budget: int) -> Plan:
    """Returns the fastest plan that fits into `budget` bytes.

    models: by component. Raises OutOfMemoryError that names the memory needed, and a smaller run that fits.
    """
    plans = list(candidates(manifest, demand, models))
    for one in plans:
        if one.peak_bytes <= budget:
            return one
    least = min(one.peak_bytes for one in plans)
    raise OutOfMemoryError(
        f"memory budget: got {budget / 1e9:.2f} GB, expected at least {least / 1e9:.2f} GB for {described(demand)}; "
        f"{remedy(manifest, demand, models, budget)}"
    )


def candidates(manifest: Manifest, demand: Demand, models: Mapping[str, MemoryModel]) -> Iterator[Plan]:
    """All plans, the fastest first: a second UNet call per step costs less time than loading components again."""
    used = {name: one for name, one in manifest.components.items() if demand.uses(name, one.role)}
    weights = {name: file_bytes(manifest, one) * models[name].weights[one.precision] for name, one in used.items()}
    for keep, split in itertools.product((True, False), (False, True)):
        asked = replace(demand, prompts=1) if split else demand
        live = {name: live_bytes(manifest, name, asked, models[name]) for name in used}
        # Components of the loop stay loaded from step to step.
        loop = sum(weight for name, weight in weights.items() if in_loop(used[name]))
        apart = {name: loop if in_loop(used[name]) else weight for name, weight in weights.items()}
        loaded = {name: sum(weights.values()) if keep else apart[name] for name in used}
        yield Plan(keep, split, round(BASE_BYTES + max(loaded[name] + live[name] for name in used)))


def in_loop(component: Component) -> bool:
    """True if a component is called at every step."""
    return component.role in ("denoiser", "controlnet")


def live_bytes(manifest: Manifest, name: str, demand: Demand, model: MemoryModel) -> float:
    """Estimated bytes of activations of one call of a component."""
    component, latents = manifest.components[name], demand.height * demand.width
    if in_loop(component):
        latents = math.prod(min(side, demand.window or side) for side in (demand.height, demand.width))
        rows = demand.prompts * demand.images
        scores = SCORE_BYTES * rows * latents**2 if model.scores else 0
        return UNET_BYTES * rows * latents * time_bias_width(manifest) + scores
    if component.role in ("vae_encoder", "vae_decoder", "tiny_decoder", "controlnet_hint"):
        attends = component.role in ("vae_encoder", "vae_decoder")
        scores = FLOAT_BYTES * latents**2 if model.scores and attends else 0
        each = STRIPED_BYTES if model.striped and component.role == "vae_decoder" else VAE_BYTES
        return each * latents * math.sqrt(file_bytes(manifest, component) / WEIGHT_BYTES[component.precision]) + scores
    if component.role == "t2i_adapter":
        sizes = {"batch": 1, "height": demand.height, "width": demand.width}
        return ADAPTER_TENSORS * FLOAT_BYTES * sum(math.prod(shape_of(spec, sizes)) for spec in component.outputs)
    return 0


def time_bias_width(manifest: Manifest) -> int:
    """The width of the denoiser's inputs made for each step: the channels of all ResNets, ControlNets' included."""
    denoiser = manifest.components[manifest.denoiser]
    stepwise = {
        name for name, source in denoiser.sources.items() if source.kind == "component" and "step" in source.per
    }
    widths = (spec.shape[-1] for spec in denoiser.inputs if spec.name in stepwise)
    return sum(width for width in widths if isinstance(width, int))


def file_bytes(manifest: Manifest, component: Component) -> int:
    """The bytes of a component's graph and weights."""
    return sum(manifest.files[file].bytes for file in (component.file, *component.data))


def described(demand: Demand) -> str:
    """The demand as text for a message."""
    images = "an image" if demand.images == 1 else f"{demand.images} images"
    return f"{images} of {demand.width}x{demand.height} latents"


def remedy(manifest: Manifest, demand: Demand, models: Mapping[str, MemoryModel], budget: int) -> str:
    """A suggestion that fits the budget, as options: fewer images, else a smaller picture, else another bundle."""

    def fits(asked: Demand) -> bool:
        return any(one.peak_bytes <= budget for one in candidates(manifest, asked, models))

    pixels = manifest.latents.factor
    fewer = [count for count in range(demand.images - 1, 0, -1) if fits(replace(demand, images=count))]
    if fewer:
        return f"--batch {fewer[0]} fits"
    for eighths in range(7, 0, -1):
        width, height = (max(1, side * eighths // 8) for side in (demand.width, demand.height))
        if fits(replace(demand, images=1, width=width, height=height)):
            return f"--batch 1 --size {width * pixels}x{height * pixels} fits"
    return "no size fits: use `latentrt build --target cpu`, or an INT8 bundle, which `latentrt calibrate` makes"
