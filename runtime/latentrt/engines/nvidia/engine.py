"""TensorRT, its lean runtime and TensorRT-RTX: which plan of a component takes a call, and what to do without one."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path

from latentrt.bundle.folder import Bundle, open_bundle
from latentrt.bundle.manifest import Component
from latentrt.engines import build_plan
from latentrt.engines.artifacts import graph_digest
from latentrt.engines.nvidia.bindings import VARIANTS
from latentrt.engines.nvidia.execution import Gpu, Plan, Profile, Sizes
from latentrt.engines.nvidia.lowered import is_current, source_of
from latentrt.engines.nvidia.plans import STRIPPED, PlanKey, PlanStore, plan_store
from latentrt.errors import EngineError, LatentError
from latentrt.tensors import Array, check

log = logging.getLogger(__name__)


def open_engines(bundle: Bundle, engine: str, *, low_memory: bool = False) -> dict[str, TensorRTEngine]:
    """An engine for each component of the bundle; they share the GPU's stream and activation memory."""
    gpu = Gpu(VARIANTS[engine])
    return {name: TensorRTEngine(name, bundle, gpu) for name in bundle.manifest.components}


def open_engine(name: str, component: Component, folder: Path, engine: str) -> TensorRTEngine:
    """The engine of one component of the bundle in `folder`; see `EngineFactory`."""
    return TensorRTEngine(name, open_bundle(folder, verify=False), Gpu(VARIANTS[engine]))


class TensorRTEngine:
    """One component, with the plans that its calls needed so far, by key. Memory on a GPU is not modelled."""

    memory = None

    def __init__(self, name: str, bundle: Bundle, gpu: Gpu) -> None:
        self.name, self.bundle, self.gpu = name, bundle, gpu
        self.component = bundle.manifest.components[name]
        self.store: PlanStore = plan_store(bundle.folder)
        self.graph = graph_digest(bundle.manifest, self.component)
        self.loaded: dict[PlanKey, Plan] = {}
        self.last: Profile | None = None

    def __call__(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Every output by name, in new arrays. Raises ShapeError for feeds that do not fit, EngineError if it fails.

        A feed that is read-only, owns its memory and is the same array as in the call before is not copied again.
        """
        sizes = check(self.component.inputs, feeds, self.name)
        with self.gpu.lock:
            self.last = self.profile_for({name: feed.shape for name, feed in feeds.items()}, sizes)
            return self.last.run(feeds)

    @property
    def device_ms(self) -> float:
        """Milliseconds that the last call took on the GPU, copies left out. Raises EngineError before the first."""
        if self.last is None:
            raise EngineError(f"{self.name}: nothing ran yet, so there is no time; call it first")
        return self.last.watch.elapsed_ms

    def load(self) -> None:
        """Loads a plan, if one fits this GPU and none is loaded; which one a call needs, only its feeds say.

        Raises EngineError with no runtime, no GPU, or too little memory.
        """
        with self.gpu.lock:
            if not self.loaded:
                self.gpu.acquire()
                try:
                    for key in self.keys():
                        if self.load_plan(key):
                            break
                finally:
                    self.gpu.release()

    def unload(self) -> None:
        """Frees plans, buffers and graphs; the arena too, when no other component is loaded."""
        with self.gpu.lock:
            self.last = None
            while self.loaded:
                _, plan = self.loaded.popitem()
                plan.close(self.store)
                del plan
                self.gpu.release()

    def close(self) -> None:
        """The same as `unload`: nothing else is held, and a later call would load again."""
        self.unload()

    def keys(self) -> list[PlanKey]:
        """The keys of this component's plans that run here, those that are best to have first."""
        current = (key for key in self.store.keys() if is_current(key, self.bundle, self.name))
        return sorted((key for key in current if self.gpu.runs(key)), key=preference)

    def load_plan(self, key: PlanKey) -> Plan | None:
        """The loaded plan of that key; None when the file is not there, or not to be trusted."""
        if key not in self.loaded:
            opened = self.store.open(key)
            if opened is None:
                return None
            with opened:
                self.gpu.acquire()
                try:
                    graph = self.weights_of(key) if STRIPPED in key.flags else None
                    self.loaded[key] = Plan(self.name, self.component, key, opened, self.gpu, self.store, graph)
                except BaseException:
                    self.gpu.release()
                    raise
        return self.loaded[key]

    def weights_of(self, key: PlanKey) -> Path:
        """The lowered graph that a plan was built from. Raises EngineError when it is not there."""
        source = source_of(key, self.bundle, self.name, self.store.folders)
        if source is None:
            raise EngineError(
                f"{self.name}: got a plan without weights, expected the lowered graph that has them in "
                f"{self.store.folders[0] / 'lowered'}; copy that folder here too, or build without --stripped"
            )
        return source.graph

    def profile_for(self, shapes: Sizes, sizes: Mapping[str, int]) -> Profile:
        """The profile that takes these shapes, its plan loaded; built first when there is none and a builder is here.

        Raises EngineError that names the command that builds it.
        """
        for key, plan in self.loaded.items():
            if (index := key.profile_of(shapes)) is not None:
                return plan.profile(index)
        self.gpu.acquire()
        try:
            found = self.load_first(shapes)
            if found is None:
                self.build(shapes, sizes)
                found = self.load_first(shapes)
        finally:
            self.gpu.release()
        if found is None:
            raise EngineError(f"{self.name}: {self.missing(shapes)}; run `{self.command(sizes)}`")
        return found

    def build(self, shapes: Sizes, sizes: Mapping[str, int]) -> None:
        """Has a plan built for these shapes. Raises EngineError that says what is missing and how to make it."""
        log.warning("%s: %s; building one, which may take minutes", self.name, self.missing(shapes))
        try:
            build_plan(self.gpu.variant.name, self.bundle, self.name, shapes)
        except LatentError as error:
            raise EngineError(f"{self.name}: {self.missing(shapes)}; run `{self.command(sizes)}` ({error})") from error

    def load_first(self, shapes: Sizes) -> Profile | None:
        """The first profile among the plans on disk that takes these shapes."""
        for key in self.keys():
            index = key.profile_of(shapes)
            if index is not None and (plan := self.load_plan(key)):
                return plan.profile(index)
        return None

    def missing(self, shapes: Sizes) -> str:
        """What there is in place of the plan that is wanted."""
        device = self.gpu.device
        wanted = ", ".join(f"{name} {tuple(shape)}" for name, shape in shapes.items())
        others = {
            f"{key.engine} {key.version} on {key.gpu or key.sm}" for key in self.store.keys() if key.graph == self.graph
        }
        return (
            f"got no plan of {self.gpu.variant.name} {self.gpu.trt.__version__} on {device.name} ({device.sm}) for "
            f"{wanted}; there are {'those of ' + ', '.join(sorted(others)) if others else 'none'}"
        )

    def command(self, sizes: Mapping[str, int]) -> str:
        """The command line that builds plans which take these sizes."""
        pixels = self.bundle.manifest.latents.factor
        line = f"latentrt build {self.bundle.folder} --target {self.gpu.variant.name}"
        if "width" in sizes and "height" in sizes:
            line += f" --size {sizes['width'] * pixels}x{sizes['height'] * pixels}"
        return line + (f" --batch {sizes['batch']}" if sizes.get("batch", 1) > 2 else "")


def preference(key: PlanKey) -> tuple[bool, int, str]:
    """The lower the better: plans that have their weights, and narrow ones, which are tuned better; then by name."""
    sizes = (math.prod(own.largest) - math.prod(own.smallest) for profile in key.profiles for own in profile)
    return STRIPPED in key.flags, sum(sizes), key.digest
