"""Engines of TensorRT, TensorRT lean and TensorRT-RTX: they select, load and, if needed, build plans for calls."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import cast

from latentrt.bundle.folder import Bundle, open_bundle
from latentrt.bundle.manifest import Component
from latentrt.engines import build_plan
from latentrt.engines.artifacts import graph_digest
from latentrt.engines.nvidia.bindings import VARIANTS
from latentrt.engines.nvidia.execution import LoadedPlan, Profile, Sizes
from latentrt.engines.nvidia.gpu import Gpu
from latentrt.engines.nvidia.lowered import is_current, lowered_graph_of
from latentrt.engines.nvidia.plans import STRIPPED, PlanKey, PlanStore, plan_store
from latentrt.errors import EngineError, LatentError
from latentrt.tensors import Array, Tensor, check

log = logging.getLogger(__name__)


def open_engines(bundle: Bundle, engine: str, *, low_memory: bool = False) -> dict[str, TensorRTEngine]:
    """An engine per component of the bundle; they share the GPU's stream and activation memory."""
    gpu = Gpu(VARIANTS[engine])
    return {name: TensorRTEngine(name, bundle, gpu) for name in bundle.manifest.components}


def open_engine(name: str, component: Component, folder: Path, engine: str) -> TensorRTEngine:
    """The engine of one component of the bundle in `folder`; see `EngineFactory`."""
    return TensorRTEngine(name, open_bundle(folder, verify=False), Gpu(VARIANTS[engine]))


class TensorRTEngine:
    """One component and its loaded plans, by key. Memory on a GPU is not modelled."""

    memory = None

    def __init__(self, name: str, bundle: Bundle, gpu: Gpu) -> None:
        self.name, self.bundle, self.gpu = name, bundle, gpu
        self.component = bundle.manifest.components[name]
        self.store: PlanStore = plan_store(bundle.folder)
        self.graph = graph_digest(bundle.manifest, self.component)
        self.loaded: dict[PlanKey, LoadedPlan] = {}
        self.last: Profile | None = None

    def __call__(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Returns every output by name, in new arrays. Raises ShapeError for wrong feeds, EngineError if the run fails.

        A feed is not copied again if it is the same array as in the previous call, read-only, and owns its memory.
        """
        return cast(dict[str, Array], self.keep(feeds, ()))

    def keep(self, feeds: Mapping[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
        """Returns every output by name; those in `names` stay on the GPU. Raises as a call; see `keeping`."""
        sizes = check(self.component.inputs, feeds, self.name)
        with self.gpu.lock:
            self.last = self.profile_for({name: tuple(feed.shape) for name, feed in feeds.items()}, sizes)
            return self.last.run(feeds, names)

    @property
    def device_ms(self) -> float:
        """Milliseconds of the last call on the GPU, without copies. Raises EngineError before the first call."""
        if self.last is None:
            raise EngineError(f"{self.name}: no call to time; call the engine first")
        return self.last.stopwatch.elapsed_ms

    def load(self) -> None:
        """Loads one plan for this GPU, if there is any and none is loaded; a call may load another for its shapes.

        Raises EngineError without a runtime or a GPU, or with too little memory.
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
        """Frees plans, buffers and graphs, and with the last component the activation memory."""
        with self.gpu.lock:
            self.last = None
            while self.loaded:
                _, plan = self.loaded.popitem()
                plan.close(self.store)
                del plan
                self.gpu.release()

    def close(self) -> None:
        """The same as `unload`; a later call loads again."""
        self.unload()

    def keys(self) -> list[PlanKey]:
        """The keys of this component's plans for this GPU, preferred ones first."""
        current = (key for key in self.store.keys() if is_current(key, self.bundle, self.name))
        return sorted((key for key in current if self.gpu.runs(key)), key=preference)

    def load_plan(self, key: PlanKey) -> LoadedPlan | None:
        """Loads the plan of a key and returns it; None if the file is missing or its signature is wrong."""
        if key not in self.loaded:
            opened = self.store.open(key)
            if opened is None:
                return None
            with opened:
                self.gpu.acquire()
                try:
                    graph = self.weights_of(key) if STRIPPED in key.flags else None
                    self.loaded[key] = LoadedPlan(self.name, self.component, key, opened, self.gpu, self.store, graph)
                except BaseException:
                    self.gpu.release()
                    raise
        return self.loaded[key]

    def weights_of(self, key: PlanKey) -> Path:
        """The lowered graph that a plan was built from, which has its weights. Raises EngineError if it is missing."""
        source = lowered_graph_of(key, self.bundle, self.name, self.store.folders)
        if source is None:
            raise EngineError(
                f"{self.name}: got a plan without weights, expected the lowered graph that has them in "
                f"{self.store.folders[0] / 'lowered'}; copy that folder here too, or build without --stripped"
            )
        return source.graph

    def profile_for(self, shapes: Sizes, sizes: Mapping[str, int]) -> Profile:
        """A profile of a loaded plan that accepts these shapes. Loads a plan if needed, or builds one.

        Raises EngineError with the build command if there is no such plan and none can be built here.
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
            raise EngineError(f"{self.name}: {self.missing_plan(shapes)}; run `{self.build_command(sizes)}`")
        return found

    def build(self, shapes: Sizes, sizes: Mapping[str, int]) -> None:
        """Builds a plan for these shapes. Raises EngineError with the missing plan and the build command."""
        log.warning("%s: %s; building one, which may take minutes", self.name, self.missing_plan(shapes))
        try:
            build_plan(self.gpu.variant.name, self.bundle, self.name, shapes)
        except LatentError as error:
            raise EngineError(
                f"{self.name}: {self.missing_plan(shapes)}; run `{self.build_command(sizes)}` ({error})"
            ) from error

    def load_first(self, shapes: Sizes) -> Profile | None:
        """Loads the first plan on disk that accepts these shapes and returns its profile; None if there is none."""
        for key in self.keys():
            index = key.profile_of(shapes)
            if index is not None and (plan := self.load_plan(key)):
                return plan.profile(index)
        return None

    def missing_plan(self, shapes: Sizes) -> str:
        """The text of an error: the plan needed for these shapes, and the plans that exist."""
        device = self.gpu.device
        inputs = ", ".join(f"{name} {tuple(shape)}" for name, shape in shapes.items())
        others = {
            f"{key.engine} {key.version} on {key.gpu or key.sm}" for key in self.store.keys() if key.graph == self.graph
        }
        return (
            f"got no plan of {self.gpu.variant.name} {self.gpu.trt.__version__} on {device.name} ({device.sm}) for "
            f"{inputs}; there are {'plans of ' + ', '.join(sorted(others)) if others else 'none'}"
        )

    def build_command(self, sizes: Mapping[str, int]) -> str:
        """The command line that builds plans for these sizes."""
        pixels = self.bundle.manifest.latents.factor
        line = f"latentrt build {self.bundle.folder} --target {self.gpu.variant.name}"
        if "width" in sizes and "height" in sizes:
            line += f" --size {sizes['width'] * pixels}x{sizes['height'] * pixels}"
        return line + (f" --batch {sizes['batch']}" if sizes.get("batch", 1) > 2 else "")


def preference(key: PlanKey) -> tuple[bool, int, str]:
    """A sort key: plans with their weights first, then narrow ranges, which are tuned better, then the digest."""
    widths = (math.prod(one.largest) - math.prod(one.smallest) for profile in key.profiles for one in profile)
    return STRIPPED in key.flags, sum(widths), key.digest
