"""Bit-for-bit equality with PyTorch's normals where this machine allows it, and tolerances where not.

With AVX2 PyTorch computes blocks of sixteen with a logarithm and a cosine of its
own, whose bits are followed. Without it, it takes the C library's, which differ by a few units of the last place.
`tests/runtime/sampling/test_torch_cpu.py` and `test_brownian.py` hold the bits on any processor, against
values that are on record.
"""

import numpy as np
import torch

SAME_BITS = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


def assert_same(ours: np.ndarray, theirs: np.ndarray, of: object = "", *, ulp: int = 0, near: float = 5e-6) -> None:
    """Asserts equal bits, but for `ulp` units of the last place; where that cannot be, values that are `near`."""
    assert (ours.shape, ours.dtype) == (theirs.shape, np.float32), of
    if not SAME_BITS:
        np.testing.assert_allclose(ours, theirs, rtol=near, atol=near, err_msg=str(of))
    elif ulp:
        np.testing.assert_array_max_ulp(ours, theirs, maxulp=ulp)
    else:
        assert ours.tobytes() == theirs.tobytes(), of
