"""A GPU as the engines of a pipeline share it: runtime, stream, activation memory, spare buffers."""

from __future__ import annotations

import threading

from latentrt.engines.nvidia.bindings import LogCapture, RuntimeVariant, import_bindings
from latentrt.engines.nvidia.cuda import Buffer, Memory, Spares, Stream, current_device
from latentrt.engines.nvidia.plans import STRIPPED, VERSION_COMPATIBLE, PlanKey


class Gpu:
    """Runtime, stream and arena of a pipeline's engines. Created with the first plan, freed with the last."""

    def __init__(self, variant: RuntimeVariant) -> None:
        self.variant = variant
        self.lock = threading.RLock()  # buffers and arena serve one call at a time
        self.users = 0
        self.arena: Memory | None = None
        self.spares = Spares()

    def acquire(self) -> None:
        """Adds a user; the first one creates runtime and stream. Raises EngineError without a runtime or a GPU."""
        if self.users == 0:
            self.trt = import_bindings(self.variant)
            self.device = current_device()  # first, since a runtime without a driver cannot even be destroyed
            self.stream = Stream()
            self.log_capture = LogCapture(self.trt)
            self.runtime = self.trt.Runtime(self.log_capture.logger)
        self.users += 1

    def release(self) -> None:
        """Removes a user; the last one frees runtime, stream and arena."""
        self.users -= 1
        if self.users == 0:
            if self.arena:
                self.arena.close()
            self.arena = None
            self.spares.close()
            del self.runtime
            self.stream.close()

    def give_back(self, buffer: Buffer) -> None:
        """Takes back the buffer of a kept output; frees it if no component is loaded any more."""
        self.spares.buffers.append(buffer)
        if not self.users:
            self.spares.close()

    def arena_of(self, size: int) -> Memory:
        """The activation memory, replaced by a larger one if it has less than `size` bytes."""
        if self.arena is None or self.arena.size < size:
            if self.arena:
                self.arena.close()
                self.arena = None  # in case the next line fails
            self.arena = Memory(size)
        return self.arena

    def runs(self, key: PlanKey) -> bool:
        """Whether this runtime, in this version, runs plans of this key on this GPU."""
        lean = "lean" in self.trt.__name__
        return (
            (key.engine, key.version, key.sm) == (self.variant.name, self.trt.__version__, self.device.sm)
            and key.gpu in ("", self.device.name)
            and (not lean or (VERSION_COMPATIBLE in key.flags and STRIPPED not in key.flags))
        )
