"""The CUDA layer on a real NVIDIA GPU: memory, streams, graphs, events and errors."""

import time

import numpy as np
import pytest

from latentrt.engines.nvidia import cuda
from latentrt.engines.nvidia.execution import Tensor
from latentrt.errors import EngineError
from latentrt.tensors import TensorSpec
from tests.runtime.engines.gpu import without_gpu

LARGE = 256 << 20


WHY = without_gpu()
pytestmark = pytest.mark.skipif(bool(WHY), reason=WHY)


@pytest.fixture
def stream():
    stream = cuda.Stream()
    yield stream
    stream.close()


@pytest.fixture
def buffers():
    """A function that makes buffers, which are freed after the test."""
    made = []

    def make(size, *, integrated=False):
        made.append(cuda.Buffer(size, integrated=integrated))
        return made[-1]

    yield make
    for buffer in made:
        buffer.close()


def copy(target, source, size, stream):
    """Copies between two addresses on the GPU."""
    cuda.call("cudaMemcpyAsync", target, source, size, cuda.bindings().cudaMemcpyKind.cudaMemcpyDefault, stream.handle)


def test_the_device_is_described():
    device, (free, total) = cuda.current_device(), cuda.free_memory()
    assert device.name and device.sm.startswith("sm")
    assert 0 < free <= total


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int64])
@pytest.mark.parametrize("shape", [(1,), (3, 5), (2, 4, 96, 64)])
def test_a_buffer_goes_there_and_back(buffers, stream, dtype, shape):
    expected = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    buffer = buffers(expected.nbytes)
    view = buffer.view(shape, np.dtype(dtype))
    view[...] = expected
    buffer.upload(expected.nbytes, stream)
    stream.synchronize()
    view[...] = 0
    buffer.download(expected.nbytes, stream)
    stream.synchronize()
    assert np.array_equal(view, expected)


def test_mapped_memory_is_the_gpus_own(buffers, stream):
    """As on a Jetson: GPU and host use the same memory, and nothing is copied."""
    source, target, size = buffers(4096, integrated=True), buffers(4096, integrated=True), 4096
    source.host[...] = np.arange(size) % 251
    source.upload(size, stream)
    copy(target.address, source.address, size, stream)
    target.download(size, stream)
    stream.synchronize()
    assert np.array_equal(target.host, source.host)


def test_a_graph_repeats_its_work_on_what_is_there_then(buffers, stream):
    source, target, size = buffers(4096), buffers(4096), 4096

    def work():
        source.upload(size, stream)
        copy(target.address, source.address, size, stream)
        target.download(size, stream)

    target.host[...] = 7
    graph = stream.capture(work)
    stream.synchronize()
    assert np.all(target.host == 7)
    for value in (1, 2, 3):
        source.host[...] = value
        graph.launch(stream)
        stream.synchronize()
        assert np.all(target.host == value)
    graph.close()


def test_a_capture_that_fails_leaves_a_stream_that_works(buffers, stream):
    with pytest.raises(EngineError, match="cudaStreamSynchronize failed with cudaErrorStreamCapture"):
        stream.capture(stream.synchronize)
    with pytest.raises(ZeroDivisionError):
        stream.capture(lambda: 1 / 0)
    buffer = buffers(16)
    graph = stream.capture(lambda: buffer.upload(16, stream))
    graph.launch(stream)
    stream.synchronize()
    graph.close()


def test_events_time_the_gpu(stream):
    watch, source, target = cuda.Stopwatch(), cuda.Memory(LARGE), cuda.Memory(LARGE)
    start = time.perf_counter()
    watch.start(stream)
    for _ in range(100):
        copy(target.address, source.address, LARGE, stream)
    watch.stop(stream)
    with pytest.raises(EngineError, match="cudaEventElapsedTime failed with cudaErrorNotReady"):
        watch.elapsed_ms  # noqa: B018
    stream.synchronize()
    whole_ms = 1e3 * (time.perf_counter() - start)
    assert 0 < watch.elapsed_ms <= whole_ms
    terabytes_a_second = 100 * LARGE / watch.elapsed_ms / 1e9
    assert terabytes_a_second < 20  # or nothing was copied
    for each in (watch, source, target):
        each.close()


@pytest.mark.parametrize("make", [cuda.Memory, lambda size: cuda.Buffer(size, integrated=True)])
def test_too_little_memory_names_what_was_wanted(make):
    with pytest.raises(EngineError, match=r"failed with cudaErrorMemoryAllocation; .* \(requested 1125899906\.8 MB\)"):
        make(1 << 50)
    cuda.Memory(1024).close()  # what comes after is not refused


def test_memory_comes_back():
    cuda.Memory(1).close()
    before = cuda.free_memory()[0]
    memory = cuda.Memory(LARGE)
    assert before - cuda.free_memory()[0] >= LARGE
    memory.close()
    memory.close()
    assert cuda.free_memory()[0] == before


def test_a_wrong_address_is_an_error(buffers, stream):
    with pytest.raises(EngineError, match="cudaMemcpyAsync failed with cudaErrorInvalidValue; see `latentrt doctor`"):
        copy(0, buffers(16).address, 16, stream)


def test_a_tensor_is_copied_when_it_may_have_changed(stream):
    """A read-only array that owns its memory is not copied again; the plan's type may differ from the component's."""
    device, spec = cuda.current_device(), TensorSpec("x", "float32", (4,))
    tensor = Tensor(np.dtype(np.float16), 8, device, on_host=False)
    writeable, fixed, zeros = np.ones(4, np.float32), np.full(4, 2, np.float32), cuda.Buffer(8, integrated=False)
    fixed.flags.writeable = False
    zeros.host[...] = 0
    zeros.upload(8, stream)

    def after(array):
        """The buffer on the GPU after the array was fed, the buffer zeroed, and the array fed again."""
        tensor.feed(array, stream)
        copy(tensor.address, zeros.address, 8, stream)
        tensor.feed(array, stream)
        stream.synchronize()
        tensor.fetch((4,), stream)
        stream.synchronize()
        return tensor.array((4,), spec)

    assert after(writeable).tolist() == [1, 1, 1, 1]
    assert after(fixed).tolist() == [0, 0, 0, 0]
    assert after(fixed.copy()).dtype == np.float32
    tensor.buffer.close()
    zeros.close()
