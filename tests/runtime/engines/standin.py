"""A strict stand-in of CUDA's and TensorRT's documented contract, for machines without a GPU.

Device memory is host memory, work in a stream waits until somebody synchronizes it, and components are computed by the
functions that the test gives. Whatever the documentation forbids or leaves undefined fails an assertion: a context that
runs before its shapes, addresses and activation memory are set, a capture without a warm-up, memory that is freed while
work is pending, used after that, or too small. `test_tensorrt_api.py` holds its names and signatures against the real
packages.
"""

import ctypes
import enum
import itertools
import json
import sys
import types
from importlib.machinery import ModuleSpec

import numpy as np

from latentrt.tensors import check, shape_of


class cudaError_t(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorNotReady = 600
    cudaErrorStreamCaptureUnsupported = 900


class cudaMemcpyKind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2
    cudaMemcpyDefault = 4


class cudaStreamCaptureMode(enum.IntEnum):
    cudaStreamCaptureModeThreadLocal = 1


OK = cudaError_t.cudaSuccess


class Stream:
    def __init__(self):
        self.queue, self.captured = [], None

    def put(self, work):
        (self.queue if self.captured is None else self.captured).append(work)


class Cuda:
    """`cuda.bindings.runtime`: functions return (error, *values)."""

    cudaError_t, cudaMemcpyKind, cudaStreamCaptureMode = cudaError_t, cudaMemcpyKind, cudaStreamCaptureMode
    cudaHostAllocDefault, cudaHostAllocMapped, cudaStreamNonBlocking = 0, 2, 1

    def __init__(self, *, integrated=False, capacity=1 << 34, absent=None):
        self.integrated, self.capacity, self.absent = integrated, capacity, absent
        self.memory, self.streams, self.graphs, self.events = {}, {}, {}, {}
        self.handles = itertools.count(1000)
        self.copied = self.launches = self.captures = 0
        self.peak = 0

    def pending(self):
        return any(stream.queue for stream in self.streams.values())

    def allocate(self, size, kind):
        held = sum(len(buffer) for buffer, its in self.memory.values() if its == "device")
        if kind == "device" and held + size > self.capacity:
            return (cudaError_t.cudaErrorMemoryAllocation, None)
        buffer = (ctypes.c_ubyte * (size + 256))()
        address = -(-ctypes.addressof(buffer) // 256) * 256
        self.memory[address] = (buffer, kind)
        self.peak = max(self.peak, held + size)
        return (OK, address)

    def release(self, address, kinds):
        assert not self.pending(), "memory is freed while work is pending"
        assert self.memory.get(address, (None, None))[1] in kinds, "freed twice, or never allocated"
        del self.memory[address]
        return (OK,)

    def bytes_at(self, address, size, kinds):
        """The memory as an array; it must lie within one allocation of one of these kinds that is not freed."""
        for start, (buffer, kind) in self.memory.items():
            if start <= address and address + size <= start + len(buffer) - 256 and kind in kinds:
                return np.ctypeslib.as_array((ctypes.c_ubyte * max(size, 1)).from_address(address))[:size]
        raise AssertionError(f"{size} bytes at {address:#x} are no living {' or '.join(kinds)} memory")

    def cudaGetDevice(self):
        return (self.absent, None) if self.absent else (OK, 0)

    def cudaGetDeviceProperties(self, device):
        fields = {"name": b"Stand-in\0\0", "major": 8, "minor": 7, "integrated": int(self.integrated)}
        return (OK, types.SimpleNamespace(**fields))

    def cudaMemGetInfo(self):
        held = sum(len(buffer) for buffer, kind in self.memory.values() if kind == "device")
        return (OK, self.capacity - held, self.capacity)

    def cudaDriverGetVersion(self):
        return (OK, 12060)

    def cudaRuntimeGetVersion(self):
        return (OK, 12060)

    def cudaMalloc(self, size):
        return self.allocate(size, "device")

    def cudaFree(self, devPtr):
        return self.release(devPtr, {"device"})

    def cudaHostAlloc(self, size, flags):
        return self.allocate(size, "mapped" if flags == self.cudaHostAllocMapped else "pinned")

    def cudaFreeHost(self, ptr):
        return self.release(ptr, {"pinned", "mapped"})

    def cudaHostGetDevicePointer(self, pHost, flags):
        assert self.memory[pHost][1] == "mapped" and flags == 0
        return (OK, pHost)

    def cudaStreamCreateWithFlags(self, flags):
        self.streams[stream := next(self.handles)] = Stream()
        return (OK, stream)

    def cudaStreamDestroy(self, stream):
        assert not self.streams.pop(stream).queue
        return (OK,)

    def cudaStreamSynchronize(self, stream):
        if self.streams[stream].captured is not None:
            return (cudaError_t.cudaErrorStreamCaptureUnsupported,)
        while self.streams[stream].queue:
            self.streams[stream].queue.pop(0)()
        return (OK,)

    def cudaMemcpyAsync(self, dst, src, count, kind, stream):
        to_device = kind == cudaMemcpyKind.cudaMemcpyHostToDevice
        between = {"device", "mapped"}, {"device", "mapped"}
        kinds = [{"device"}, {"pinned"}] if to_device else [{"pinned"}, {"device"}]
        kinds = between if kind == cudaMemcpyKind.cudaMemcpyDefault else kinds

        def copy():
            self.bytes_at(dst, count, kinds[0])[:] = self.bytes_at(src, count, kinds[1])
            self.copied += count if to_device else 0

        self.bytes_at(dst, count, kinds[0]), self.bytes_at(src, count, kinds[1])
        self.streams[stream].put(copy)
        return (OK,)

    def cudaStreamBeginCapture(self, stream, mode):
        assert mode == cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        assert self.streams[stream].captured is None
        self.streams[stream].captured = []
        return (OK,)

    def cudaStreamEndCapture(self, stream):
        captured, self.streams[stream].captured = self.streams[stream].captured, None
        self.captures += 1
        return (OK, captured)

    def cudaGraphInstantiate(self, graph, flags):
        self.graphs[key := next(self.handles)] = list(graph)
        return (OK, key)

    def cudaGraphDestroy(self, graph):
        graph.clear()
        self.captures -= 1
        return (OK,)

    def cudaGraphLaunch(self, graphExec, stream):
        self.launches += 1
        for work in self.graphs[graphExec]:
            self.streams[stream].put(work)
        return (OK,)

    def cudaGraphExecDestroy(self, graphExec):
        assert self.graphs.pop(graphExec) is not None and not self.pending()
        return (OK,)

    def cudaEventCreate(self):
        self.events[event := object()] = None
        return (OK, event)

    def cudaEventRecord(self, event, stream):
        def mark():
            self.events[event] = self.tick = getattr(self, "tick", 0) + 1

        self.events[event] = None
        self.streams[stream].put(mark)
        return (OK,)

    def cudaEventElapsedTime(self, start, end):
        times = (self.events[start], self.events[end])
        return (cudaError_t.cudaErrorNotReady, None) if None in times else (OK, float(times[1] - times[0]))

    def cudaEventDestroy(self, event):
        self.events.pop(event)
        return (OK,)

    def assert_all_freed(self):
        assert not self.memory and not self.streams and not self.graphs and not self.events and not self.captures


class ExecutionContextAllocationStrategy(enum.Enum):
    STATIC, ON_PROFILE_CHANGE, USER_MANAGED = range(3)


class TensorIOMode(enum.Enum):
    NONE, INPUT, OUTPUT = range(3)


class TensorLocation(enum.Enum):
    DEVICE, HOST = range(2)


class DynamicShapesKernelSpecializationStrategy(enum.Enum):
    LAZY, EAGER, NONE = range(3)


class Severity(enum.IntEnum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class ILogger:
    Severity = Severity

    def __init__(self):
        self.started = True


class TensorRT:
    """A fake module `tensorrt`, or `tensorrt_rtx` if `jit`.

    components: those of the bundle. answers: by component, a function from feeds to outputs. activations: by component,
    the bytes that it needs. on_host: inputs that shapes depend on. uncapturable: components that a capture refuses.
    """

    ILogger, TensorIOMode, TensorLocation = ILogger, TensorIOMode, TensorLocation
    ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy
    DynamicShapesKernelSpecializationStrategy = DynamicShapesKernelSpecializationStrategy

    def __init__(self, cuda, components, answers, *, version="10.3.0", jit=False):
        self.cuda, self.components, self.answers, self.jit = cuda, components, answers, jit
        self.__version__ = version
        self.activations, self.on_host, self.uncapturable = {}, set(), set()
        self.deserialized, self.enqueued, self.compiled = 0, 0, 0
        self.Runtime = lambda logger: Runtime(self, logger)
        self.Refitter, self.OnnxParserRefitter = Refitter, OnnxParserRefitter

    @staticmethod
    def nptype(trt_type):
        return trt_type

    def install(self, monkeypatch, folder):
        """Makes `import` find this module."""
        name = "tensorrt_rtx" if self.jit else "tensorrt"
        module = types.ModuleType(name)
        module.__dict__.update({key: getattr(self, key) for key in dir(type(self)) if key[0].isupper()})
        module.__dict__.update({name: getattr(self, name) for name in ("Runtime", "Refitter", "OnnxParserRefitter")})
        module.__dict__.update(nptype=self.nptype, __version__=self.__version__)
        module.__spec__ = ModuleSpec(name, None, is_package=True)
        module.__spec__.submodule_search_locations = [str(folder)]
        monkeypatch.setitem(sys.modules, name, module)
        parent, package = types.ModuleType("cuda"), types.ModuleType("cuda.bindings")
        parent.bindings, package.runtime = package, self.cuda
        for key, value in {"cuda": parent, "cuda.bindings": package, "cuda.bindings.runtime": self.cuda}.items():
            monkeypatch.setitem(sys.modules, key, value)


class Runtime:
    def __init__(self, trt, logger):
        assert isinstance(logger, ILogger) and logger.started, "the logger's base class was not initialised"
        self.trt, self.logger, self.engine_host_code_allowed = trt, logger, False

    def deserialize_cuda_engine(self, serialized_engine):
        self.trt.deserialized += 1
        try:
            plan = json.loads(bytes(memoryview(serialized_engine)))
        except ValueError:
            self.logger.log(Severity.ERROR, "deserialization failed: magic tag does not match")
            return None
        return Engine(self, plan)


class Engine:
    def __init__(self, runtime, plan):
        self.runtime, self.trt, self.profiles = runtime, runtime.trt, plan["profiles"]
        self.name, self.component = plan["component"], runtime.trt.components[plan["component"]]
        self.specs = {spec.name: spec for spec in (*self.component.inputs, *self.component.outputs)}
        self.num_io_tensors = len(self.specs)
        self.device_memory_size_v2 = self.trt.activations.get(self.name, 1000)
        self.whole, self.used = not plan.get("stripped"), False

    def get_tensor_name(self, index):
        return list(self.specs)[index]

    def get_tensor_mode(self, name):
        return TensorIOMode.INPUT if self.specs[name] in self.component.inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name):
        return np.dtype(self.specs[name].dtype).type

    def get_tensor_location(self, name):
        return TensorLocation.HOST if name in self.trt.on_host else TensorLocation.DEVICE

    def create_runtime_config(self):
        assert self.trt.jit, "classic TensorRT 10.3 has no runtime configuration"
        return RuntimeConfig()

    def create_execution_context(self, strategy):
        config = strategy if isinstance(strategy, RuntimeConfig) else RuntimeConfig(strategy)
        assert config.strategy is ExecutionContextAllocationStrategy.USER_MANAGED
        assert self.whole, "a plan without weights is to run"
        self.used = True
        if config.cache is not None and config.cache.content != b"kernels":
            config.cache.content = b"kernels"
            self.trt.compiled += 1
        return Context(self)


class Refitter:
    """Takes the weights of a stripped plan: all of them, before the first context."""

    def __init__(self, engine, logger):
        assert isinstance(logger, ILogger) and not engine.used
        self.engine, self.supplied = engine, False

    def refit_cuda_engine(self):
        assert not self.engine.trt.cuda.pending(), "undefined while work of the engine is pending"
        self.engine.whole |= self.supplied
        return self.supplied


class OnnxParserRefitter:
    def __init__(self, refitter, logger):
        self.refitter, self.logger = refitter, logger

    def refit_from_file(self, model):
        with open(model, "rb") as file:
            self.refitter.supplied = file.read() == f"weights of {self.refitter.engine.name}".encode()
        if not self.refitter.supplied:
            self.logger.log(Severity.ERROR, "failed to refit all the weights in the engine")
        return self.refitter.supplied


class RuntimeConfig:
    def __init__(self, strategy=None):
        self.strategy, self.cache, self.dynamic_shapes_kernel_specialization_strategy = strategy, None, None

    def set_execution_context_allocation_strategy(self, strategy):
        self.strategy = strategy

    def create_runtime_cache(self):
        return RuntimeCache()

    def set_runtime_cache(self, cache):
        self.cache = cache
        return True


class RuntimeCache:
    content = b""

    def serialize(self):
        return self.content

    def deserialize(self, blob):
        self.content = bytes(memoryview(blob))
        return True


class Context:
    def __init__(self, engine):
        self.engine, self.trt, self.cuda = engine, engine.trt, engine.trt.cuda
        self.profile, self.shapes, self.addresses, self.memory = None, {}, {}, (0, 0)
        self.warm = False

    def refuse(self, why):
        self.engine.runtime.logger.log(Severity.ERROR, why)
        return False

    def set_optimization_profile_async(self, profile_index, stream_handle):
        if not 0 <= profile_index < len(self.engine.profiles):
            return self.refuse("profileIndex out of range")
        self.profile, self.shapes, self.warm = profile_index, {}, False
        self.cuda.streams[stream_handle].put(lambda: None)
        return True

    def set_input_shape(self, name, shape):
        assert self.profile is not None and not self.cuda.pending(), "the change of profile was not waited for"
        bounds = {own["name"]: own for own in self.engine.profiles[self.profile]}[name]
        if not all(a <= n <= b for a, n, b in zip(bounds["smallest"], shape, bounds["largest"], strict=True)):
            return self.refuse(f"{name} does not satisfy any optimization profiles")
        self.warm &= self.shapes.get(name) == shape
        self.shapes[name] = shape
        return True

    def get_tensor_shape(self, name):
        inputs = self.engine.component.inputs
        assert self.shapes.keys() == {spec.name for spec in inputs}, "shapes are unknown before all inputs have theirs"
        if name in self.shapes:
            return self.shapes[name]
        tensors = {spec.name: np.broadcast_to(np.zeros((), spec.dtype), self.shapes[spec.name]) for spec in inputs}
        sizes = check(inputs, tensors, "stand-in")
        return shape_of(self.engine.specs[name], sizes)

    def set_tensor_address(self, name, memory):
        assert name in self.engine.specs
        self.warm &= self.addresses.get(name) == memory
        self.addresses[name] = memory
        return True

    def set_device_memory(self, memory, size):
        assert memory % 256 == 0 and size >= self.engine.device_memory_size_v2
        self.memory, self.warm = (memory, size), False

    def is_stream_capturable(self, stream):
        assert self.trt.jit, "only TensorRT-RTX has this"
        return True

    def array(self, name):
        spec, shape = self.engine.specs[name], self.get_tensor_shape(name)
        on_host = self.engine.get_tensor_location(name) is TensorLocation.HOST
        size = int(np.prod(shape)) * np.dtype(spec.dtype).itemsize
        kinds = {"mapped", "pinned"} if on_host else {"device", "mapped"}
        return self.cuda.bytes_at(self.addresses[name], size, kinds).view(spec.dtype).reshape(shape)

    def execute_async_v3(self, stream_handle):
        stream = self.cuda.streams[stream_handle]
        assert self.profile is not None and self.addresses.keys() == self.engine.specs.keys()
        arrays = {name: self.array(name) for name in self.engine.specs}
        self.cuda.bytes_at(*self.memory, {"device"})
        if stream.captured is not None:
            if self.engine.name in self.trt.uncapturable:
                return self.refuse("operation not permitted when stream is capturing")
            assert self.warm, "captured without an enqueue before it"
            assert not any(name in self.trt.on_host for name in arrays), "a graph would keep the old shapes"
        self.warm = True
        self.trt.enqueued += 1
        inputs, memory, shapes = [spec.name for spec in self.engine.component.inputs], self.memory, dict(self.shapes)

        def compute():
            assert shapes == self.shapes, "a graph of other shapes was launched"
            self.cuda.bytes_at(*memory, {"device"})[:] = 0xFF
            outputs = self.trt.answers[self.engine.name]({name: self.array(name).copy() for name in inputs})
            for name, value in outputs.items():
                self.array(name)[...] = value

        stream.put(compute)
        return True
