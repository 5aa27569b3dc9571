"""Plans of TensorRT, its lean runtime and TensorRT-RTX at work: one stream, one activation arena, buffers that stay.

Components run one after the other, so all contexts are given the same memory for activations, as large as the largest
needs. An input that cannot have changed since the last call is not copied again; a call that repeats its shapes is
captured as a CUDA graph the second time and replayed from then on.
"""

from __future__ import annotations

import logging
import math
import mmap
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from latentrt.bundle.manifest import Component
from latentrt.engines.nvidia.bindings import LogCapture, RuntimeVariant, import_bindings
from latentrt.engines.nvidia.cuda import Buffer, Device, Graph, Memory, Stopwatch, Stream, current_device
from latentrt.engines.nvidia.plans import STRIPPED, VERSION_COMPATIBLE, PlanKey, PlanStore
from latentrt.errors import EngineError
from latentrt.tensors import Array, TensorSpec

Sizes = Mapping[str, tuple[int, ...]]

log = logging.getLogger(__name__)


class Gpu:
    """What the engines of a pipeline share: runtime, stream, arena. Made on first use, freed with the last plan."""

    def __init__(self, variant: RuntimeVariant) -> None:
        self.variant = variant
        self.lock = threading.RLock()  # buffers and arena serve one call at a time
        self.users = 0
        self.arena: Memory | None = None

    def acquire(self) -> None:
        """Makes what is shared if this is the first plan. Raises EngineError with no runtime or no GPU."""
        if self.users == 0:
            self.trt = import_bindings(self.variant)
            self.device = current_device()  # before the runtime, which needs a driver even to be destroyed
            self.stream = Stream()
            self.lines = LogCapture(self.trt)
            self.runtime = self.trt.Runtime(self.lines.logger)
        self.users += 1

    def release(self) -> None:
        """Frees what is shared if this was the last plan."""
        self.users -= 1
        if self.users == 0:
            if self.arena:
                self.arena.close()
            self.arena = None
            del self.runtime
            self.stream.close()

    def arena_of(self, size: int) -> Memory:
        """Activation memory of at least `size` bytes; a larger one takes the place of one that is too small."""
        if self.arena is None or self.arena.size < size:
            if self.arena:
                self.arena.close()
                self.arena = None  # should the next line fail
            self.arena = Memory(size)
        return self.arena

    def runs(self, key: PlanKey) -> bool:
        """Whether plans of this key are for this runtime, in this version, on this GPU."""
        lean = "lean" in self.trt.__name__
        return (
            (key.engine, key.version, key.sm) == (self.variant.name, self.trt.__version__, self.device.sm)
            and key.gpu in ("", self.device.name)
            and (not lean or (VERSION_COMPATIBLE in key.flags and STRIPPED not in key.flags))
        )


class Plan:
    """A deserialised plan: weights on the GPU, and a profile for each set of shapes that was asked for.

    graph: the file with the weights of a plan that was built without any.
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
        gpu.lines.errors.clear()
        # A plan made with VERSION_COMPATIBLE carries code for the host; its signature says that it is our own.
        gpu.runtime.engine_host_code_allowed = VERSION_COMPATIBLE in key.flags
        # Mapped, the file is read straight from the system's cache: nothing in Python holds a copy.
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            self.engine = gpu.runtime.deserialize_cuda_engine(content)
        if self.engine is None:
            raise EngineError(
                f"{name}: {gpu.variant.name} cannot load the plan {file.name}: {gpu.lines.drain()}; if memory is "
                "short, close other programs or use --split-guidance; else remove the file and build it again"
            )
        if graph is not None:
            self.refit(graph)
        self.cache = RuntimeCache(self, store) if gpu.variant.jit else None

    def refit(self, graph: Path) -> None:
        """Puts the weights of the lowered graph into the plan. Raises EngineError if they do not fit or not suffice."""
        trt, logger = self.gpu.trt, self.gpu.lines.logger
        refitter = trt.Refitter(self.engine, logger)
        parser = trt.OnnxParserRefitter(refitter, logger)  # it holds the weights until they are in the plan
        if not parser.refit_from_file(str(graph)) or not refitter.refit_cuda_engine():
            raise self.error(f"cannot put the weights of {graph} into the plan")

    def profile(self, index: int) -> Profile:
        """The profile of that index, its context and buffers made on first use."""
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
        """A context that is given its activation memory. Raises EngineError if it cannot be made."""
        trt, engine = self.gpu.trt, self.engine
        strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if self.cache:
            config = engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(strategy)
            config.set_runtime_cache(self.cache.cache)
            # Before the first call, not in the background: a graph would keep the slow kernels of the start.
            config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
            context = engine.create_execution_context(config)
        else:
            context = engine.create_execution_context(strategy)
        if context is None:
            raise self.error("cannot make a context")
        return context

    def error(self, what: str) -> EngineError:
        """An error with the lines that NVIDIA's software logged."""
        return EngineError(f"{self.name}: {self.gpu.variant.name} {what}: {self.gpu.lines.drain()}")

    def close(self, store: PlanStore) -> None:
        """Frees contexts before the engine that they came from."""
        while self.profiles:
            _, profile = self.profiles.popitem()
            profile.close()
            del profile
        if self.cache:
            self.cache.save(store)
        self.cache = self.engine = None


class RuntimeCache:
    """The kernels that TensorRT-RTX compiled for a plan on this GPU; they are machine code, so signed like a plan."""

    def __init__(self, plan: Plan, store: PlanStore) -> None:
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
        """Keeps what was compiled, the first time; it saves the next process that work."""
        content = memoryview(self.cache.serialize())
        if content.nbytes:
            store.build(self.key, lambda path: None if path.write_bytes(content) else None)


class Profile:
    """One profile of a plan: a context, a buffer for each tensor, and the graph of a call that repeats itself."""

    def __init__(self, plan: Plan, index: int) -> None:
        self.plan, self.gpu, self.index = plan, plan.gpu, index
        self.context = plan.new_context()
        self.watch = Stopwatch()
        self.shapes: Sizes = {}
        self.tensors: dict[str, Tensor] = {}
        self.graph: Graph | None = None
        self.arena = 0
        self.repeats = 0

    def allocate(self) -> None:
        """Selects the profile and reads what the plan takes and gives. Raises EngineError when it is refused."""
        plan, engine, context, trt = self.plan, self.plan.engine, self.context, self.gpu.trt
        if not context.set_optimization_profile_async(self.index, self.gpu.stream.handle):
            raise plan.error(f"refuses profile {self.index}")
        self.gpu.stream.synchronize()
        self.names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        self.inputs = [name for name in self.names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        self.outputs = [spec for spec in plan.component.outputs if spec.name in self.names]
        # Values that shapes depend on are read on the host, at each call: a replay would keep the old ones.
        self.on_host = {name for name in self.names if engine.get_tensor_location(name) == trt.TensorLocation.HOST}
        self.capturable = not self.on_host

    def shape(self, shapes: Sizes) -> None:
        """Tells the context the shapes of its inputs and gives every tensor room. Raises EngineError for a refusal."""
        self.forget()
        self.shapes = {}
        for name in self.inputs:
            if not self.context.set_input_shape(name, tuple(shapes[name])):
                raise self.plan.error(f"refuses {name} of shape {tuple(shapes[name])}")
        for name in self.names:
            self.make_room(name, tuple(self.context.get_tensor_shape(name)))
        self.shapes = shapes

    def make_room(self, name: str, shape: tuple[int, ...]) -> None:
        """Gives a tensor a buffer for this shape, unless the one that it has is large enough."""
        dtype = np.dtype(self.gpu.trt.nptype(self.plan.engine.get_tensor_dtype(name)))
        size = math.prod(shape) * dtype.itemsize
        if name in self.tensors and self.tensors[name].buffer.size >= size:
            return
        if name in self.tensors:
            self.tensors.pop(name).buffer.close()
        self.tensors[name] = tensor = Tensor(dtype, size, self.gpu.device, on_host=name in self.on_host)
        if not self.context.set_tensor_address(name, tensor.address):
            raise self.plan.error(f"refuses the address of {name}")

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs for these feeds, in new arrays."""
        stream = self.gpu.stream
        shapes = {name: feeds[name].shape for name in self.inputs}
        if shapes != self.shapes:
            self.shape(shapes)
        self.place()
        try:
            for name in self.inputs:
                self.tensors[name].feed(feeds[name], stream)
            self.watch.start(stream)
            self.launch()
            self.watch.stop(stream)
            fetched = {spec.name: tuple(self.context.get_tensor_shape(spec.name)) for spec in self.outputs}
            for name, shape in fetched.items():
                self.tensors[name].fetch(shape, stream)
        finally:  # the next call writes to the buffers, also after one that failed
            stream.synchronize()
        return {spec.name: self.tensors[spec.name].array(fetched[spec.name], spec) for spec in self.outputs}

    def place(self) -> None:
        """Gives the context its activation memory, which another component may have moved since the last call."""
        arena = self.gpu.arena_of(self.plan.engine.device_memory_size_v2)
        if arena.address != self.arena:
            self.context.set_device_memory(arena.address, arena.size)
            self.arena = arena.address
            self.forget()

    def launch(self) -> None:
        """Puts the call into the stream: as it is the first time, which also warms up, as a graph from the second."""
        if self.graph is None and self.repeats > 0 and self.can_capture():
            self.capture()
        if self.graph:
            self.graph.launch(self.gpu.stream)
        else:
            self.enqueue()
        self.repeats += 1

    def can_capture(self) -> bool:
        """Whether the call can be captured now; TensorRT-RTX may still be compiling."""
        jit = self.gpu.variant.jit
        return self.capturable and (not jit or self.context.is_stream_capturable(self.gpu.stream.handle))

    def capture(self) -> None:
        """Captures the call; one that cannot be is never tried again, and runs as it is."""
        try:
            self.graph = self.gpu.stream.capture(self.enqueue)
        except EngineError as error:
            log.warning("%s: runs without a CUDA graph: %s", self.plan.name, error)
            self.capturable = False

    def enqueue(self) -> None:
        """Has the context put its kernels into the stream."""
        if not self.context.execute_async_v3(self.gpu.stream.handle):
            raise self.plan.error(f"failed with {self.shapes}")

    def forget(self) -> None:
        """Drops the graph, which holds the shapes and addresses of its capture."""
        if self.graph:
            self.graph.close()
        self.graph, self.repeats = None, 0

    def close(self) -> None:
        """Frees graph, context, events and buffers, in that order: each uses the next."""
        self.forget()
        self.context = None
        self.watch.close()
        for tensor in self.tensors.values():
            tensor.buffer.close()


class Tensor:
    """An input's or output's buffer, in the type that the plan declares, and what was last copied into it."""

    def __init__(self, dtype: np.dtype[Any], size: int, device: Device, *, on_host: bool) -> None:
        self.dtype, self.on_host = dtype, on_host
        self.buffer = Buffer(size, integrated=device.integrated or on_host)
        self.last: Array | None = None

    @property
    def address(self) -> int:
        """What the context is told."""
        return self.buffer.host_address if self.on_host else self.buffer.address

    def feed(self, array: Array, stream: Stream) -> None:
        """Copies an input to the device, unless it is there.

        It is there if it is the very array of the last call, and cannot have changed since: read-only, no view.
        """
        if array is self.last:
            return
        self.buffer.view(array.shape, self.dtype)[...] = array
        self.buffer.upload(array.size * self.dtype.itemsize, stream)
        self.last = array if array.flags.owndata and not array.flags.writeable else None

    def fetch(self, shape: tuple[int, ...], stream: Stream) -> None:
        """Copies an output to the host."""
        self.buffer.download(math.prod(shape) * self.dtype.itemsize, stream)

    def array(self, shape: tuple[int, ...], spec: TensorSpec) -> Array:
        """The output that was fetched, in a new array of the type that the component declares."""
        return self.buffer.view(shape, self.dtype).astype(spec.dtype)
