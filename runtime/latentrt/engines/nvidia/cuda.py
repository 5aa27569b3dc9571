"""CUDA buffers, streams, events and graphs for the TensorRT engine, through NVIDIA's bindings, without torch."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from latentrt.errors import EngineError
from latentrt.tensors import Array

ALIGNMENT = 256

ADVICE = {
    "cudaErrorInsufficientDriver": "the NVIDIA driver is missing or older than these CUDA bindings; see `nvidia-smi`, "
    "update the driver, or run with --engine cpu",
    "cudaErrorNoDevice": "no NVIDIA GPU is visible; check `nvidia-smi` and CUDA_VISIBLE_DEVICES, or run with "
    "--engine cpu",
    "cudaErrorMemoryAllocation": "too little GPU memory; close other programs, generate a smaller picture, or use "
    "--split-guidance",
}


def bindings() -> ModuleType:
    """NVIDIA's runtime bindings. Raises EngineError if they are not installed."""
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise EngineError(
            f"the TensorRT engine needs cuda-python ({error}): run `pip install 'latentrt[tensorrt]'`, "
            "or `pip install 'latentrt[jetson]'` on a Jetson"
        ) from error
    module: ModuleType = runtime
    return module


def call(function: str, *arguments: Any) -> Any:
    """Calls a function of the CUDA runtime and returns its values. Raises EngineError with the error and advice."""
    cuda = bindings()
    try:
        error, *values = getattr(cuda, function)(*arguments)
    except RuntimeError as missing:  # the bindings load the driver's library at the first call
        raise EngineError(f"CUDA: {function} failed ({missing}); {ADVICE['cudaErrorInsufficientDriver']}") from missing
    if error != cuda.cudaError_t.cudaSuccess:
        advice = ADVICE.get(error.name, "see `latentrt doctor`")
        raise EngineError(f"CUDA: {function} failed with {error.name}; {advice}")
    return values[0] if len(values) == 1 else tuple(values)


@dataclass(frozen=True)
class Device:
    """A GPU. sm: architecture, such as "sm87". integrated: it shares memory with the processor, as on a Jetson."""

    name: str
    sm: str
    integrated: bool


def current_device() -> Device:
    """The current GPU. Raises EngineError if no GPU can be used."""
    properties = call("cudaGetDeviceProperties", call("cudaGetDevice"))
    name = properties.name.split(b"\0")[0].decode()
    return Device(name, f"sm{properties.major}{properties.minor}", bool(properties.integrated))


def free_memory() -> tuple[int, int]:
    """Free and total bytes of the GPU's memory."""
    free, total = call("cudaMemGetInfo")
    return int(free), int(total)


def allocate(function: str, size: int, *arguments: Any) -> int:
    """Allocates `size` bytes and returns their address. Raises EngineError with the size if memory is too little."""
    try:
        return int(call(function, size, *arguments))
    except EngineError as error:
        raise EngineError(f"{error} (requested {size / 1e6:.1f} MB)") from error


class Memory:
    """Device memory, freed by `close`."""

    def __init__(self, size: int) -> None:
        """Allocates at least `size` bytes. Raises EngineError with the size if memory is too little."""
        self.size = max(size, ALIGNMENT)
        self.address = allocate("cudaMalloc", self.size)

    def close(self) -> None:
        """Frees the memory; work that uses it must have ended."""
        address, self.address = self.address, 0
        if address:
            call("cudaFree", address)


class Buffer:
    """Memory of one tensor: pinned host memory and device memory; both are the same on an integrated GPU.

    address: on the device. Contents stay between calls.
    """

    def __init__(self, size: int, *, integrated: bool) -> None:
        cuda = bindings()
        self.size = max(size, 1)
        self.memory = None if integrated else Memory(self.size)
        flags = cuda.cudaHostAllocMapped if integrated else cuda.cudaHostAllocDefault
        try:
            self.host_address = allocate("cudaHostAlloc", self.size, flags)
        except EngineError:
            if self.memory:
                self.memory.close()
            raise
        pinned = (ctypes.c_ubyte * self.size).from_address(self.host_address)
        self.host: Array = np.ctypeslib.as_array(pinned)
        self.address = (
            self.memory.address if self.memory else int(call("cudaHostGetDevicePointer", self.host_address, 0))
        )

    def view(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """The host memory as an array; valid until `close`."""
        view: Array = self.host[: math.prod(shape) * dtype.itemsize].view(dtype).reshape(shape)
        return view

    def upload(self, size: int, stream: Stream) -> None:
        """Queues a copy of the first `size` bytes to the device."""
        if self.memory:
            kind = bindings().cudaMemcpyKind.cudaMemcpyHostToDevice
            call("cudaMemcpyAsync", self.address, self.host_address, size, kind, stream.handle)

    def download(self, size: int, stream: Stream) -> None:
        """Queues a copy of the first `size` bytes to the host."""
        if self.memory:
            kind = bindings().cudaMemcpyKind.cudaMemcpyDeviceToHost
            call("cudaMemcpyAsync", self.host_address, self.address, size, kind, stream.handle)

    def copy_from(self, other: Buffer, size: int, stream: Stream) -> None:
        """Queues a copy of the first `size` bytes of another buffer, from device to device."""
        kind = bindings().cudaMemcpyKind.cudaMemcpyDefault  # that of an integrated GPU's host memory differs
        call("cudaMemcpyAsync", self.address, other.address, size, kind, stream.handle)

    def close(self) -> None:
        """Frees host and device memory; views must not be used afterwards."""
        if self.host_address:
            if self.memory:
                self.memory.close()
            call("cudaFreeHost", self.host_address)
            self.host_address = self.address = 0


class Spares:
    """Buffers that no kept output needs any more. To allocate pinned memory at every step would cost more than a copy.

    A buffer is given back when its last user is garbage-collected, which may be in any thread and at any time. So it is
    freed only by `take` and `close`, which are called while the GPU has no work.
    """

    def __init__(self) -> None:
        self.buffers: list[Buffer] = []

    def take(self, size: int, *, integrated: bool) -> Buffer:
        """A buffer of `size` bytes: a spare one, or a new one. Frees spare ones of other sizes."""
        while self.buffers:
            buffer = self.buffers.pop()
            if buffer.size == size:
                return buffer
            buffer.close()
        return Buffer(size, integrated=integrated)

    def close(self) -> None:
        """Frees all."""
        while self.buffers:
            self.buffers.pop().close()


class Stream:
    """A CUDA stream, independent of the default stream."""

    def __init__(self) -> None:
        self.handle = int(call("cudaStreamCreateWithFlags", bindings().cudaStreamNonBlocking))

    def synchronize(self) -> None:
        """Waits for all queued work. Raises EngineError if any of it failed."""
        call("cudaStreamSynchronize", self.handle)

    def capture(self, enqueue: Callable[[], None]) -> Graph:
        """Captures the work that `enqueue` puts into the stream as a graph, without running it.

        Raises the errors of `enqueue`, and EngineError if the work cannot be captured.
        """
        mode = bindings().cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        call("cudaStreamBeginCapture", self.handle, mode)
        captured = None
        try:
            try:
                enqueue()
            finally:  # an open capture would make every later call on the stream fail
                error, captured = bindings().cudaStreamEndCapture(self.handle)
            if error != bindings().cudaError_t.cudaSuccess:
                raise EngineError(f"CUDA: cudaStreamEndCapture failed with {error.name}")
            return Graph(call("cudaGraphInstantiate", captured, 0))
        finally:
            if captured is not None:
                call("cudaGraphDestroy", captured)

    def close(self) -> None:
        """Destroys the stream."""
        call("cudaStreamDestroy", self.handle)


class Graph:
    """A CUDA graph: one launch repeats captured work, with the same addresses and shapes."""

    def __init__(self, executable: Any) -> None:
        self.executable = executable

    def launch(self, stream: Stream) -> None:
        """Queues the graph in the stream."""
        call("cudaGraphLaunch", self.executable, stream.handle)

    def close(self) -> None:
        """Destroys the graph."""
        call("cudaGraphExecDestroy", self.executable)


class Stopwatch:
    """Two events around work in a stream, which measure the time on the device, without Python's overhead."""

    def __init__(self) -> None:
        self.begin, self.end = call("cudaEventCreate"), call("cudaEventCreate")

    def start(self, stream: Stream) -> None:
        """Queues the first event."""
        call("cudaEventRecord", self.begin, stream.handle)

    def stop(self, stream: Stream) -> None:
        """Queues the second event."""
        call("cudaEventRecord", self.end, stream.handle)

    @property
    def elapsed_ms(self) -> float:
        """Milliseconds between the events; the stream must be synchronized first."""
        return float(call("cudaEventElapsedTime", self.begin, self.end))

    def close(self) -> None:
        """Destroys the events."""
        call("cudaEventDestroy", self.begin)
        call("cudaEventDestroy", self.end)
