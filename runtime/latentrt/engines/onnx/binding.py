"""Calls of an ONNX Runtime session whose inputs and outputs lie on a device, and their CUDA graphs.

A CUDA graph replays the kernels of a call at the addresses of that call. So a captured call has its own buffers: inputs
are copied into them, if they changed, and outputs out of them. ONNX Runtime captures per `gpu_graph_id`; -1 is a call
without a graph (its CUDA execution provider, `CUDAGraphManager`).
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from latentrt.engines import telemetry
from latentrt.tensors import Array, Tensor, TensorSpec, is_constant, shape_of, symbols_of

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, OrtValue, RunOptions

log = logging.getLogger(__name__)

Shapes = tuple[tuple[str, tuple[int, ...]], ...]
GRAPH_ID, NO_GRAPH = "gpu_graph_id", -1
# Each graph has buffers for all inputs and outputs, and ONNX Runtime frees none before the session is dropped.
MOST_GRAPHS = 8
# The first calls of a graph are compared with plain ones: the capture, and a replay, whose latents are others. Largest
# difference, of the largest value: some kernels add up in another order every time.
PROOFS, TOLERANCE = 2, 0.01


class CaptureError(Exception):
    """A call with a CUDA graph failed, or gave other results; the session must not be used again."""


class OrtTensor:
    """A tensor on a device, in memory of ONNX Runtime: a `DeviceTensor`. Its buffer belongs to it alone."""

    def __init__(self, value: OrtValue, dtype: str) -> None:
        self.value, self.shape, self.dtype = value, tuple(value.shape()), np.dtype(dtype)

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """A copy on the host."""
        return copied(self.value).astype(self.dtype if dtype is None else dtype, copy=False)


class Constants:
    """Copies of arrays that cannot change, on a device, each as long as its array lives."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.values: dict[int, tuple[weakref.ref[Array], OrtValue]] = {}

    def value(self, array: Array) -> OrtValue:
        """The copy of an array, made at its first use."""
        key = id(array)
        if key not in self.values:
            value = empty(array.shape, array.dtype, self.device)
            value.update_inplace(array)
            self.values[key] = (weakref.ref(array, lambda _: self.values.pop(key, None)), value)
        return self.values[key][1]


class GraphChoice:
    """Decides which calls run as a CUDA graph: from the second call of a shape on, for the first few shapes.

    A run with a single step, and the tiles at the edges of a picture, would only pay for a capture.
    """

    def __init__(self, most: int = MOST_GRAPHS) -> None:
        self.most, self.numbers = most, dict[Shapes, int]()
        self.seen = set[Shapes]()

    def number(self, shapes: Shapes) -> int:
        """The number of the graph for a call with inputs of these shapes, counted from 1; `NO_GRAPH` for none."""
        if shapes in self.numbers:
            return self.numbers[shapes]
        if shapes not in self.seen:
            self.seen.add(shapes)
            return NO_GRAPH
        if len(self.numbers) == self.most:
            return NO_GRAPH
        self.numbers[shapes] = len(self.numbers) + 1
        return self.numbers[shapes]


class BoundSession:
    """A session, and the tensors of its calls on a device.

    graphs: whether the session was created for CUDA graphs and calls are captured.
    """

    def __init__(
        self, session: InferenceSession, outputs: Sequence[TensorSpec], device: str, *, graphs: bool = False
    ) -> None:
        self.session, self.outputs, self.device, self.graphs = session, outputs, device, graphs
        self.constants, self.choice = Constants(device), GraphChoice()
        self.captured: dict[int, CapturedCall] = {}

    def __call__(
        self, feeds: Mapping[str, Tensor], sizes: Mapping[str, int], kept: Collection[str]
    ) -> dict[str, Tensor]:
        """Returns every output by name; those in `kept` stay on the device.

        sizes: of the symbols of the inputs. Raises CaptureError if a call with a CUDA graph fails, or if one of the
        first gives other results than a plain call.
        """
        number = self.number(feeds, sizes)
        if number == NO_GRAPH:
            return self.plain(feeds, sizes, kept)
        try:
            if number not in self.captured:
                self.captured[number] = CapturedCall(self, feeds, sizes, number)
            call = self.captured[number]
            outputs = call(feeds, kept)
            if call.proofs < PROOFS:
                check_alike(outputs, self.plain(feeds, sizes, kept))
                call.proofs += 1
            return outputs
        except CaptureError:
            raise
        except Exception as error:  # ONNX Runtime's own errors share no base but Exception
            raise CaptureError(str(error)) from error

    def number(self, feeds: Mapping[str, Tensor], sizes: Mapping[str, int]) -> int:
        """The number of the call's CUDA graph; `NO_GRAPH` for none."""
        known = all(symbols_of(spec) <= sizes.keys() for spec in self.outputs)
        shapes = tuple((name, tuple(feed.shape)) for name, feed in sorted(feeds.items()))
        return self.choice.number(shapes) if self.graphs and known else NO_GRAPH

    def plain(self, feeds: Mapping[str, Tensor], sizes: Mapping[str, int], kept: Collection[str]) -> dict[str, Tensor]:
        """The outputs of a call without a CUDA graph: inputs on the device are bound where they lie."""
        binding = self.session.io_binding()
        placed = {name: self.placed(feed) for name, feed in feeds.items()}  # older bindings do not keep them alive
        for name, value in placed.items():
            binding.bind_ortvalue_input(name, value)
        for spec in self.outputs:
            if spec.name not in kept:
                binding.bind_output(spec.name)
            elif symbols_of(spec) <= sizes.keys():
                # Not in the session's arena: graphs captured later would use that memory too.
                binding.bind_ortvalue_output(spec.name, empty(shape_of(spec, sizes), spec.dtype, self.device))
            else:
                binding.bind_output(spec.name, self.device)
        run(self.session, binding, run_options(NO_GRAPH))
        values = zip(self.outputs, binding.get_outputs(), strict=True)
        return {spec.name: OrtTensor(one, spec.dtype) if spec.name in kept else one.numpy() for spec, one in values}

    def placed(self, feed: Tensor) -> OrtValue:
        """A feed on the device."""
        if isinstance(feed, OrtTensor):
            return feed.value
        array = np.ascontiguousarray(feed)
        if array is feed and is_constant(array):
            return self.constants.value(array)
        return telemetry.onnxruntime().OrtValue.ortvalue_from_numpy(array, self.device)


class CapturedCall:
    """The calls with inputs of one shape, at fixed addresses: the first is captured, the others are replays."""

    def __init__(self, bound: BoundSession, feeds: Mapping[str, Tensor], sizes: Mapping[str, int], number: int) -> None:
        self.bound, self.options, self.proofs = bound, run_options(number), 0
        self.binding = bound.session.io_binding()
        self.inputs = {name: Slot(empty(feed.shape, feed.dtype, bound.device)) for name, feed in feeds.items()}
        self.outputs = {spec.name: empty(shape_of(spec, sizes), spec.dtype, bound.device) for spec in bound.outputs}
        for name, slot in self.inputs.items():
            self.binding.bind_ortvalue_input(name, slot.value)
        for name, value in self.outputs.items():
            self.binding.bind_ortvalue_output(name, value)

    def __call__(self, feeds: Mapping[str, Tensor], kept: Collection[str]) -> dict[str, Tensor]:
        """Returns every output by name, copied; those in `kept` stay on the device."""
        for name, slot in self.inputs.items():
            slot.fill(feeds[name], self.bound)
        run(self.bound.session, self.binding, self.options)
        return {
            spec.name: self.moved(spec) if spec.name in kept else copied(self.outputs[spec.name])
            for spec in self.bound.outputs
        }

    def moved(self, spec: TensorSpec) -> OrtTensor:
        """An output in a buffer of its own, since the next call writes to the same addresses."""
        fixed = self.outputs[spec.name]
        value = empty(fixed.shape(), spec.dtype, self.bound.device)
        copy_on_device(fixed, value)
        return OrtTensor(value, spec.dtype)


class Slot:
    """The buffer of an input of a captured call, and what it holds if that cannot change."""

    def __init__(self, value: OrtValue) -> None:
        self.value = value
        self.held: Callable[[], Tensor | None] = lambda: None

    def fill(self, feed: Tensor, bound: BoundSession) -> None:
        """Copies a feed into the buffer, unless the buffer holds it."""
        if self.held() is feed:
            return
        self.held = lambda: None  # in case the next lines fail
        if is_constant(feed):
            copy_on_device(bound.placed(feed), self.value)
            self.held = weakref.ref(feed)
        else:
            self.value.update_inplace(np.ascontiguousarray(feed))


def check_alike(outputs: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raises CaptureError if the outputs of a captured call are not those of a plain one."""
    for name, want in expected.items():
        one, other = np.asarray(outputs[name], np.float32), np.asarray(want, np.float32)
        if not np.array_equal(one, other, equal_nan=True):
            with np.errstate(invalid="ignore"):  # the difference of infinities
                difference, largest = np.abs(one - other).max(), np.abs(other).max()
            if not difference <= TOLERANCE * largest:
                raise CaptureError(f"got {name} that differs by {difference:.3g} from a plain call's, of {largest:.3g}")


def run_options(number: int) -> RunOptions:
    """The options of a run with the CUDA graph of this number; `NO_GRAPH` for one without."""
    options: RunOptions = telemetry.onnxruntime().RunOptions()
    options.add_run_config_entry(GRAPH_ID, str(number))
    return options


def run(session: InferenceSession, binding: Any, options: RunOptions) -> None:
    """Runs a session with bound tensors, and waits for the device."""
    binding.synchronize_inputs()
    session.run_with_iobinding(binding, options)
    binding.synchronize_outputs()


def empty(shape: Sequence[int], dtype: Any, device: str) -> OrtValue:
    """A tensor on a device, whose contents are undefined; its memory is not of any session's arena."""
    value: OrtValue = telemetry.onnxruntime().OrtValue.ortvalue_from_shape_and_type(shape, np.dtype(dtype), device)
    return value


def copied(value: OrtValue) -> Array:
    """A tensor's copy on the host; ONNX Runtime returns a view for one that lies there."""
    return np.array(value.numpy())


def copy_on_device(source: OrtValue, target: OrtValue) -> None:
    """Copies a tensor to another of the same shape and device, by way of the host where ONNX Runtime cannot do so."""
    try:
        target.update_inplace(source)
    except (TypeError, RuntimeError):  # versions that copy from NumPy arrays alone
        target.update_inplace(copied(source))
