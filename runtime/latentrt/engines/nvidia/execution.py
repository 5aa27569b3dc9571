"""Execution of plans of TensorRT, TensorRT lean and TensorRT-RTX: one stream, one activation arena, fixed buffers.

Components run one after the other, so all contexts share one arena, as large as the largest needs. An input that cannot
have changed since the last call is not copied again. The second call with the same shapes is captured as a CUDA graph,
which later calls replay.
"""

from __future__ import annotations

import logging
import math
import mmap
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from latentrt.bundle.manifest import Component
from latentrt.engines import cuda_graphs
from latentrt.engines.nvidia.cuda import Buffer, Device, Graph, Stopwatch, Stream
from latentrt.engines.nvidia.gpu import Gpu
from latentrt.engines.nvidia.kept import Kept
from latentrt.engines.nvidia.plans import VERSION_COMPATIBLE, PlanKey, PlanStore
from latentrt.errors import EngineError
from latentrt.tensors import Array, TensorSpec, is_constant
from latentrt.tensors import Tensor as Fed  # `Tensor` here is a plan's own

Sizes = Mapping[str, tuple[int, ...]]

log = logging.getLogger(__name__)


class LoadedPlan:
    """A deserialised plan: weights on the GPU, and the profiles in use, by index.

    graph: for a plan built without weights, the file that has them.
    """

    def __init__(
        self,
        name: str,
        component: Component,
        key: PlanKey,
        file: BinaryIO,
        gpu: Gpu,
        store: PlanStore,
        graph: Path | None = None,
    ) -> None:
        self.name, self.component, self.key, self.gpu = name, component, key, gpu
        self.profiles: dict[int, Profile] = {}
        gpu.log_capture.errors.clear()
        # A plan built with VERSION_COMPATIBLE contains host code; its signature shows that this user built it.
        gpu.runtime.engine_host_code_allowed = VERSION_COMPATIBLE in key.flags
        # Memory-mapped, so that Python holds no copy of the file.
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            self.engine = gpu.runtime.deserialize_cuda_engine(content)
        if self.engine is None:
            raise EngineError(
                f"{name}: {gpu.variant.name} cannot load the plan {file.name}: {gpu.log_capture.drain()}; if memory is "
                "short, close other programs or use --split-guidance; else remove the file and build it again"
            )
        if graph is not None:
            self.refit(graph)
        self.cache = RuntimeCache(self, store) if gpu.variant.jit else None

    def refit(self, graph: Path) -> None:
        """Puts the weights of the lowered graph into the plan. Raises EngineError if they do not fit."""
        trt, logger = self.gpu.trt, self.gpu.log_capture.logger
        refitter = trt.Refitter(self.engine, logger)
        parser = trt.OnnxParserRefitter(refitter, logger)  # keeps the weights alive until they are in the plan
        if not parser.refit_from_file(str(graph)) or not refitter.refit_cuda_engine():
            raise self.error(f"cannot put the weights of {graph} into the plan")

    def profile(self, index: int) -> Profile:
        """The profile of that index; its context and buffers are created on first use."""
        if index not in self.profiles:
            profile = Profile(self, index)
            try:
                profile.allocate()
            except BaseException:
                profile.close()
                raise
            self.profiles[index] = profile
        return self.profiles[index]

    def new_context(self) -> Any:
        """A new execution context without activation memory. Raises EngineError if it cannot be created."""
        trt, engine = self.gpu.trt, self.engine
        strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if self.cache:
            config = engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(strategy)
            config.set_runtime_cache(self.cache.cache)
            # Compile before the first call, not in the background: a graph would keep the slow initial kernels.
            config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
            context = engine.create_execution_context(config)
        else:
            context = engine.create_execution_context(strategy)
        if context is None:
            raise self.error("cannot create a context")
        return context

    def error(self, what: str) -> EngineError:
        """An EngineError with the error lines of NVIDIA's log."""
        return EngineError(f"{self.name}: {self.gpu.variant.name} {what}: {self.gpu.log_capture.drain()}")

    def close(self, store: PlanStore) -> None:
        """Frees the contexts, then the engine that they belong to."""
        while self.profiles:
            _, profile = self.profiles.popitem()
            profile.close()
            del profile
        if self.cache:
            self.cache.save(store)
        self.cache = self.engine = None


class RuntimeCache:
    """Kernels that TensorRT-RTX compiled for a plan on this GPU: machine code, so signed like a plan."""

    def __init__(self, plan: LoadedPlan, store: PlanStore) -> None:
        key = plan.key
        self.key = PlanKey(
            key.digest, (), ("runtime-cache",), key.engine, key.version, plan.gpu.device.name, plan.gpu.device.sm
        )
        config = plan.engine.create_runtime_config()
        self.cache = config.create_runtime_cache()
        opened = store.open(self.key)
        if opened is not None:
            with opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
                self.cache.deserialize(content)

    def save(self, store: PlanStore) -> None:
        """Stores the kernels for later processes, unless they are already stored."""
        content = memoryview(self.cache.serialize())
        if content.nbytes:
            store.build(self.key, lambda path: None if path.write_bytes(content) else None)


class Profile:
    """One optimisation profile of a plan: a context, a buffer per tensor, and the CUDA graph of repeated calls."""

    def __init__(self, plan: LoadedPlan, index: int) -> None:
        self.plan, self.gpu, self.index = plan, plan.gpu, index
        self.context = plan.new_context()
        self.stopwatch = Stopwatch()
        self.shapes: Sizes = {}
        self.tensors: dict[str, Tensor] = {}
        self.graph: Graph | None = None
        self.arena = 0
        self.repeats = 0

    def allocate(self) -> None:
        """Selects the profile and reads the names of inputs and outputs. Raises EngineError if it is refused."""
        plan, engine, context, trt = self.plan, self.plan.engine, self.context, self.gpu.trt
        if not context.set_optimization_profile_async(self.index, self.gpu.stream.handle):
            raise plan.error(f"refuses profile {self.index}")
        self.gpu.stream.synchronize()
        self.names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        self.inputs = [name for name in self.names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        self.outputs = [spec for spec in plan.component.outputs if spec.name in self.names]
        # Inputs that shapes depend on are read on the host in each call; a replayed graph would keep old values.
        self.on_host = {name for name in self.names if engine.get_tensor_location(name) == trt.TensorLocation.HOST}
        self.capturable = cuda_graphs.wanted() and not self.on_host

    def set_shapes(self, shapes: Sizes) -> None:
        """Sets the shapes of the inputs and allocates all tensors. Raises EngineError if a shape is refused."""
        self.drop_graph()
        self.shapes = {}
        for name in self.inputs:
            if not self.context.set_input_shape(name, tuple(shapes[name])):
                raise self.plan.error(f"refuses {name} of shape {tuple(shapes[name])}")
        for name in self.names:
            self.allocate_tensor(name, tuple(self.context.get_tensor_shape(name)))
        self.shapes = shapes

    def allocate_tensor(self, name: str, shape: tuple[int, ...]) -> None:
        """Allocates a buffer for this shape, unless the tensor has one that is large enough."""
        dtype = np.dtype(self.gpu.trt.nptype(self.plan.engine.get_tensor_dtype(name)))
        size = math.prod(shape) * dtype.itemsize
        if name in self.tensors and self.tensors[name].buffer.size >= size:
            return
        if name in self.tensors:
            self.tensors.pop(name).buffer.close()
        self.tensors[name] = tensor = Tensor(dtype, size, self.gpu.device, on_host=name in self.on_host)
        if not self.context.set_tensor_address(name, tensor.address):
            raise self.plan.error(f"refuses the address of {name}")

    def run(self, feeds: Mapping[str, Fed], names: Collection[str] = ()) -> dict[str, Fed]:
        """Runs the plan and returns its outputs in new arrays; those in `names` stay on the GPU."""
        stream = self.gpu.stream
        shapes = {name: tuple(feeds[name].shape) for name in self.inputs}
        if shapes != self.shapes:
            self.set_shapes(shapes)
        self.set_arena()
        kept = {spec.name: self.place_for(spec) for spec in self.outputs if spec.name in names}
        try:
            for name in self.inputs:
                self.tensors[name].feed(feeds[name], stream)
            self.stopwatch.start(stream)
            self.launch()
            self.stopwatch.stop(stream)
            for name, place in kept.items():
                place.buffer.copy_from(self.tensors[name].buffer, place.buffer.size, stream)
            fetched = {spec: self.shape_of(spec) for spec in self.outputs if spec.name not in kept}
            for spec, shape in fetched.items():
                self.tensors[spec.name].fetch(shape, stream)
        finally:  # the next call writes to the buffers, even after a failure
            stream.synchronize()
        fresh = {spec.name: self.tensors[spec.name].array(shape, spec) for spec, shape in fetched.items()}
        return {**kept, **fresh}

    def shape_of(self, spec: TensorSpec) -> tuple[int, ...]:
        """The shape of an output, for the current shapes of the inputs."""
        return tuple(self.context.get_tensor_shape(spec.name))

    def place_for(self, spec: TensorSpec) -> Kept:
        """Memory on the GPU for an output that is kept."""
        stored, shape = self.tensors[spec.name].dtype, self.shape_of(spec)
        buffer = self.gpu.spares.take(math.prod(shape) * stored.itemsize, integrated=self.gpu.device.integrated)
        return Kept(self.gpu, buffer, shape, stored, np.dtype(spec.dtype))

    def set_arena(self) -> None:
        """Sets the context's activation memory, if another component replaced it since the last call."""
        arena = self.gpu.arena_of(self.plan.engine.device_memory_size_v2)
        if arena.address != self.arena:
            self.context.set_device_memory(arena.address, arena.size)
            self.arena = arena.address
            self.drop_graph()

    def launch(self) -> None:
        """Queues the call: directly the first time, which also warms up, then as a CUDA graph."""
        if self.graph is None and self.repeats > 0 and self.can_capture():
            self.capture()
        if self.graph:
            self.graph.launch(self.gpu.stream)
        else:
            self.enqueue()
        self.repeats += 1

    def can_capture(self) -> bool:
        """Whether the call can be captured now; not while TensorRT-RTX compiles."""
        jit = self.gpu.variant.jit
        return self.capturable and (not jit or self.context.is_stream_capturable(self.gpu.stream.handle))

    def capture(self) -> None:
        """Captures the call. After a failure, calls run without a graph from then on."""
        try:
            self.graph = self.gpu.stream.capture(self.enqueue)
        except EngineError as error:
            log.warning("%s: runs without a CUDA graph: %s", self.plan.name, error)
            self.capturable = False

    def enqueue(self) -> None:
        """Queues the context's kernels in the stream."""
        if not self.context.execute_async_v3(self.gpu.stream.handle):
            raise self.plan.error(f"failed with {self.shapes}")

    def drop_graph(self) -> None:
        """Drops the CUDA graph, whose shapes or addresses changed."""
        if self.graph:
            self.graph.close()
        self.graph, self.repeats = None, 0

    def close(self) -> None:
        """Frees graph, context, events and buffers, in the order of their dependence."""
        self.drop_graph()
        self.context = None
        self.stopwatch.close()
        for tensor in self.tensors.values():
            tensor.buffer.close()


class Tensor:
    """Buffer of an input or output, in the plan's type, and the array that was last copied into it."""

    def __init__(self, dtype: np.dtype[Any], size: int, device: Device, *, on_host: bool) -> None:
        self.dtype, self.on_host = dtype, on_host
        self.buffer = Buffer(size, integrated=device.integrated or on_host)
        self.last: Fed | None = None

    @property
    def address(self) -> int:
        """The address that the context uses."""
        return self.buffer.host_address if self.on_host else self.buffer.address

    def feed(self, fed: Fed, stream: Stream) -> None:
        """Copies an input to the device, unless it is that of the last call and cannot have changed.

        An array cannot change if it is read-only and not a view; a kept output never changes.
        """
        if fed is self.last:
            return
        size = math.prod(fed.shape) * self.dtype.itemsize
        if isinstance(fed, Kept) and fed.stored == self.dtype and not self.on_host:
            self.buffer.copy_from(fed.buffer, size, stream)
        else:
            self.buffer.view(tuple(fed.shape), self.dtype)[...] = np.asarray(fed)
            self.buffer.upload(size, stream)
        self.last = fed if is_constant(fed) else None

    def fetch(self, shape: tuple[int, ...], stream: Stream) -> None:
        """Copies an output to the host."""
        self.buffer.download(math.prod(shape) * self.dtype.itemsize, stream)

    def array(self, shape: tuple[int, ...], spec: TensorSpec) -> Array:
        """The fetched output, in a new array of the component's type."""
        return self.buffer.view(shape, self.dtype).astype(spec.dtype)
