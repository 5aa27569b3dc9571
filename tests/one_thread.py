"""How small models are exported, calibrated and drawn with in tests."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """The small modules are so small that threads cost more than they bring: an export takes half the time.

    So would collecting garbage between components, if it went through all that torch and diffusers have imported.
    """
    gc.freeze()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        for module in ("latentrt.engines.onnx.session", "latentrt_export.graph.session"):
            patch.setattr(f"{module}.usable_cores", lambda: 1)
        yield
    torch.set_num_threads(threads)
    gc.unfreeze()
