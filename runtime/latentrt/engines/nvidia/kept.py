"""Outputs that stay on the GPU: copies, because the next call of a plan writes its own buffers again."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np

from latentrt.engines.nvidia.cuda import Buffer
from latentrt.engines.nvidia.gpu import Gpu
from latentrt.tensors import Array


class Kept:
    """An output on the GPU, a `latentrt.tensors.DeviceTensor`. stored: its type in the buffer."""

    def __init__(
        self, gpu: Gpu, buffer: Buffer, shape: tuple[int, ...], stored: np.dtype[Any], dtype: np.dtype[Any]
    ) -> None:
        self.gpu, self.buffer, self.shape, self.stored, self.dtype = gpu, buffer, shape, stored, dtype
        weakref.finalize(self, gpu.give_back, buffer)

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """A copy on the host."""
        with self.gpu.lock:
            self.gpu.acquire()  # all plans may be unloaded by now
            try:
                self.buffer.download(self.buffer.size, self.gpu.stream)
                self.gpu.stream.synchronize()
            finally:
                self.gpu.release()
            return self.buffer.view(self.shape, self.stored).astype(dtype or self.dtype)
