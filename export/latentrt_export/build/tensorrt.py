"""Plans for NVIDIA's GPUs: every component of a bundle is lowered if needed, parsed, built, signed and stored.

Once the graphs are lowered, only TensorRT or TensorRT-RTX is needed, neither onnx nor torch: a workstation can lower,
and the device builds. A plan for several GPUs, which TensorRT-RTX builds ahead of time, is stored under each GPU's
name.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from latentrt.bundle.catalog import folder_of
from latentrt.bundle.folder import Bundle, open_bundle
from latentrt.device.meminfo import memory
from latentrt.engines.artifacts import graph_digest
from latentrt.engines.nvidia import lowered
from latentrt.engines.nvidia.cuda import current_device, free_memory
from latentrt.engines.nvidia.lowered import Attention, LoweredGraph
from latentrt.engines.nvidia.plans import STRIPPED, PlanKey, PlanStore, plan_store, remove
from latentrt.errors import EngineError
from latentrt.validate import side
from latentrt_export.build.builders import Builder, check_attention, check_refit, gpus_of, open_builder
from latentrt_export.build.plan import BuilderSettings, BuildTask, Progress, write_plan
from latentrt_export.build.profiles import Profile, profile_for, profiles_of

MEMINFO = Path("/proc/meminfo")

Lines = Callable[[str], None]


@dataclass(frozen=True)
class BuildOptions:
    """Options of a build.

    target: "tensorrt" or "tensorrt-rtx". gpus: architectures such as "sm86"; empty for all that the builder knows.
    sizes: (width, height) in pixels; empty for the bundle's default. batches: rows per UNet call. memory_bytes: memory
    limit of the build. settings: settings of the builder.
    """

    target: str
    gpus: tuple[str, ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()
    batches: tuple[int, ...] = (1, 2)
    attention: Attention = "decomposed"
    memory_bytes: int | None = None
    settings: BuilderSettings = BuilderSettings()


@dataclass(frozen=True)
class BuiltPlan:
    """A plan. floats: float type of layers that are not INT8. seconds: time to build it; None if it was there."""

    component: str
    floats: str
    gpu: str
    path: Path
    bytes: int
    seconds: float | None


@dataclass(frozen=True)
class BuildContext:
    """Values that all builds of a run share."""

    bundle: Bundle
    store: PlanStore
    builder: Builder
    gpus: tuple[str, ...]
    settings: BuilderSettings

    def key(self, source: LoweredGraph, profiles: tuple[Profile, ...], gpu: str) -> PlanKey:
        """The key of a lowered graph's plan: everything that the plan depends on."""
        manifest, device = self.bundle.manifest, self.builder.device
        component = manifest.components[source.lowered.component]
        return PlanKey(
            graph=graph_digest(manifest, component),
            profiles=profiles,
            flags=(source.flag, *self.settings.flags),
            engine=self.builder.variant.name,
            version=self.builder.version,
            gpu=device.name if device else "",
            sm=gpu,
        )


def build(
    source: str | Path,
    options: BuildOptions,
    lines: Lines = lambda line: None,
    progress: Progress = lambda name, step, steps: None,
) -> Iterator[BuiltPlan]:
    """Yields every component's plans, when they are ready. Existing plans are not built again.

    source: a bundle's folder or a built-in model's name. Raises BundleError, EngineError for plans that cannot be built
    here, RequestError for options that the builder does not take, OutputError where nothing can be written.
    """
    bundle = open_bundle(folder_of(source))
    store, defaults, pixels = (
        plan_store(bundle.folder),
        bundle.manifest.defaults,
        bundle.manifest.latents.pixel_multiple,
    )
    sizes = options.sizes or ((defaults.width, defaults.height),)
    for width, height in sizes:
        side("width", width, pixels)
        side("height", height, pixels)
    sources = lowered_sources(bundle, store, options.attention, lines)
    builder = open_builder(options.target)
    if options.attention == "operator":
        check_attention(builder)
    if options.settings.refit or options.settings.stripped:
        check_refit(builder)
    context = BuildContext(bundle, store, builder, gpus_of(builder, options.gpus), settings_of(builder, options))
    for name, graph in sources.items():
        check_memory(graph, options.memory_bytes)
        yield from build_component(context, graph, profiles_of(bundle, name, sizes, options.batches), lines, progress)


def build_plan(engine: str, bundle: Bundle, component: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Builds the plan for inputs of `shapes` on the GPU of this machine; see `latentrt.engines.build_plan`."""
    store, options = plan_store(bundle.folder), BuildOptions(engine)
    source = lowered_sources(bundle, store, options.attention)[component]
    builder = open_builder(engine)
    check_memory(source, None)
    gpus = gpus_of(builder, (current_device().sm,))
    context = BuildContext(bundle, store, builder, gpus, settings_of(builder, options))
    for _ in build_component(context, source, (profile_for(bundle, component, shapes),)):
        pass


def lower_only(source: str | Path, attention: Attention, lines: Lines = lambda line: None) -> list[Path]:
    """Lowers all components that are not lowered yet, for a build elsewhere; returns the folders of all components."""
    bundle = open_bundle(folder_of(source))
    sources = lowered_sources(bundle, plan_store(bundle.folder), attention, lines)
    return [source.folder for source in sources.values()]


def lowered_sources(
    bundle: Bundle, store: PlanStore, attention: Attention, lines: Lines = lambda line: None
) -> dict[str, LoweredGraph]:
    """The lowered graph of every component; missing ones are made. Raises EngineError if that lacks onnx-ir."""

    def found() -> dict[str, LoweredGraph]:
        graphs = (lowered.find(bundle, store.folders, name, attention) for name in bundle.manifest.components)
        return {graph.lowered.component: graph for graph in graphs if graph is not None}

    sources = found()
    if len(sources) < len(bundle.manifest.components):
        try:
            from latentrt_export.lower.tensorrt import lower
        except ImportError as error:
            raise EngineError(
                f"{bundle.folder}: got graphs that are not lowered yet, which needs {error.name}: run `latentrt build "
                "--lower-only` on a workstation with `pip install 'latentrt[cpu,export]'`, then copy the bundle here"
            ) from error
        lower(bundle, store.writable(), attention, lines)
        sources = found()
    return sources


def settings_of(builder: Builder, options: BuildOptions) -> BuilderSettings:
    """The settings with the memory that the options allow.

    On a GPU that shares its memory with the system, builders would use three quarters of the memory, and every kernel
    as much. There the limits are a half for the build, and an eighth per kernel.
    """
    settings, memory = options.settings, options.memory_bytes
    if memory is not None:
        return replace(settings, build_bytes=memory, workspace_bytes=memory // 2)
    if builder.device is not None and builder.device.integrated:
        _, total = free_memory()
        return replace(settings, build_bytes=total // 2, workspace_bytes=total // 8)
    return settings


def check_memory(source: LoweredGraph, allowed: int | None) -> None:
    """Raises EngineError if memory cannot hold the weights twice: for the builder, and in the plan.

    allowed: bytes; None for the system's free memory.
    """
    needed = 2 * source.bytes
    found = memory(MEMINFO)
    free = allowed if allowed is not None else found["available_bytes"] if found else needed
    if free < needed:
        raise EngineError(
            f"{source.lowered.component}: got {free / 1e9:.3g} GB of memory, expected at least {needed / 1e9:.3g} GB "
            "for its plan; close other programs, give --memory with swap counted in, or build ahead of time on a "
            "larger machine with --target tensorrt-rtx"
        )


def build_component(
    context: BuildContext,
    source: LoweredGraph,
    profiles: tuple[Profile, ...],
    lines: Lines = lambda line: None,
    progress: Progress = lambda name, step, steps: None,
) -> Iterator[BuiltPlan]:
    """Yields the plan of one component for each GPU; one build makes all missing plans."""
    name, store = source.lowered.component, context.store
    keys = {gpu: context.key(source, profiles, gpu) for gpu in context.gpus}
    missing = [gpu for gpu, key in keys.items() if store.find(key) is None]
    made: dict[str, float] = {}

    def make(path: Path) -> None:
        lines(f"{name}: building for {', '.join(missing)}")
        start = time.perf_counter()
        task = BuildTask(name, source.graph, profiles, tuple(missing), context.settings, timing_cache(context))
        write_plan(context.builder, task, path, progress)
        made.update(dict.fromkeys(missing, time.perf_counter() - start))

    while missing and not made:  # another process may have built the first one, for unknown GPUs
        first = store.build(keys[missing[0]], make)
        for gpu in missing[1:] if made else ():
            store.build(keys[gpu], partial(link, first))
        missing = missing[1:]
    for gpu, key in keys.items():
        path = store.find(key)
        if path is None:
            raise EngineError(f"{name}: the plan that was just built is gone; run the command again")
        drop_superseded(store, key)
        yield BuiltPlan(name, source.lowered.floats, gpu, path, path.stat().st_size, made.get(gpu))


def timing_cache(context: BuildContext) -> Path:
    """The file of the builder's timings, for its version on this GPU."""
    builder = context.builder
    gpu = "".join(letter if letter.isalnum() else "-" for letter in builder.device.name) if builder.device else "any"
    return context.store.writable() / f"timing-{builder.variant.name}-{builder.version}-{gpu}.cache"


def link(plan: Path, path: Path) -> None:
    """Links a plan under a second name, or copies it if the file system has no links."""
    path.unlink(missing_ok=True)
    with suppress(OSError):
        os.link(plan, path)
        return
    shutil.copyfile(plan, path)


def drop_superseded(store: PlanStore, key: PlanKey) -> None:
    """Removes plans that differ from `key` in build flags only: the newest is the one that the user asked for.

    A stripped plan and a whole plan serve different purposes; both stay.
    """
    for other in store.keys():
        same_end = (STRIPPED in other.flags) == (STRIPPED in key.flags)
        if other != key and same_end and replace(other, flags=key.flags) == key:
            for folder in store.folders:
                remove(folder / f"{other.digest}.plan")
