"""What the export tests share."""

import gc

import pytest
import torch


@pytest.fixture(scope="module")
def one_thread():
    """The small modules are so small that threads cost more than they bring: an export takes half the time.

    So would collecting garbage between components, if it went through all that torch and diffusers have imported.
    """
    gc.freeze()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("latentrt.engines.onnxruntime.usable_cores", lambda: 1)
        patch.setattr("latentrt.export.frugal.usable_cores", lambda: 1)
        yield
    torch.set_num_threads(threads)
    gc.unfreeze()
