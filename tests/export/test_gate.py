"""The gate of an exported graph sees what a GPU would compute, fp16's overflow too."""

import pytest
import torch
from torch import nn

from latentrt.errors import FidelityError
from latentrt.tensors import TensorSpec
from latentrt_export.export import write_component
from latentrt_export.networks.component import Part, Probe


class Peak(nn.Module):
    """tanh, by way of products `scale` and `scale` squared times as large."""

    def __init__(self, scale):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([scale]), requires_grad=False)

    def forward(self, x):
        return torch.tanh(x) * self.scale * self.scale / self.scale / self.scale


def part_of(scale):
    x = torch.linspace(-4, 4, 12).reshape(1, 12)
    given, made = (TensorSpec(name, "float32", ("batch", 12)) for name in "xy")
    return Part(
        "peak", lambda: Peak(scale), (given,), (made,), (Probe({"x": x}, (torch.tanh(x),)),), role="vae_decoder"
    )


@pytest.mark.parametrize(("precision", "scale"), [("fp32", 1000.0), ("w16", 1000.0), ("fp16", 100.0)])
def test_values_within_range_pass(tmp_path, precision, scale):
    assert write_component(part_of(scale), tmp_path, precision, lambda line: None).fidelity.relative_error < 2e-3


def test_a_product_beyond_fp16_is_found(tmp_path):
    with pytest.raises(FidelityError, match="peak: got relative error .* expected PSNR at least 40 dB"):
        write_component(part_of(1000.0), tmp_path, "fp16", lambda line: None)
