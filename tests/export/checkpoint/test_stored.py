"""Tensors of every float that files have, scaled ones too; what is quantized otherwise is refused by its name."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from latentrt.errors import CheckpointError
from latentrt_export.checkpoint.stored import header, read_tensors

WEIGHT = 0.3 * torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
EIGHT = torch.float8_e4m3fn


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, EIGHT, torch.float8_e5m2]
)
def test_floats_of_every_kind_become_float32(tmp_path, dtype):
    save_file({"a.weight": WEIGHT.to(dtype)}, tmp_path / "a.SAFETENSORS")
    found = read_tensors(header(tmp_path / "a.SAFETENSORS"))
    assert found["a.weight"].dtype == torch.float32
    assert torch.equal(found["a.weight"], WEIGHT.to(dtype).float())


@pytest.mark.parametrize("name", ["a.scale_weight", "a.weight_scale"])
@pytest.mark.parametrize("shape", [(), (1,), (6,), (6, 1)], ids=str)
def test_scaled_fp8_is_multiplied(tmp_path, name, shape):
    """As ComfyUI has it; the weight is the product, so both names and the scales of rows are the same arithmetic."""
    scale = torch.rand(shape, generator=torch.Generator().manual_seed(1)) + 0.5
    other = {"scaled_fp8": torch.zeros(2, dtype=EIGHT), "a.scale_input": torch.ones(()), "a.input_scale": torch.ones(1)}
    save_file({"a.weight": WEIGHT.to(EIGHT), name: scale, "a.bias": torch.ones(6), **other}, tmp_path / "a.safetensors")
    found = read_tensors(header(tmp_path / "a.safetensors"))
    assert found.keys() == {"a.weight", "a.bias"}
    rows = scale.reshape(-1, 1) if scale.numel() > 1 else scale.reshape(())
    torch.testing.assert_close(found["a.weight"], WEIGHT.to(EIGHT).float() * rows, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("beside", "said"),
    [
        ({"a.weight.absmax": torch.ones(3)}, "bitsandbytes, 4 bits .*a.weight.absmax"),
        ({"a.weight.quant_state.bitsandbytes__nf4": torch.ones(3, dtype=torch.uint8)}, "NF4"),
        ({"a.SCB": torch.ones(3)}, "bitsandbytes, INT8"),
        ({"b.weight": torch.ones(3, dtype=torch.int8)}, r"\(I8: b.weight\)"),
        ({"b.weight": torch.ones(3, dtype=torch.uint8)}, r"\(U8: b.weight\)"),
        ({"b.qweight": torch.ones(3, dtype=torch.int32)}, "GPTQ"),
        ({"b.weight._data": torch.ones(3, dtype=torch.int8)}, "quanto"),
        ({"a.weight_scale": torch.ones(2, 2)}, r"in blocks, a.weight of \(6, 4\) by \(2, 2\)"),
    ],
)
def test_what_is_quantized_otherwise_is_refused_by_its_name(tmp_path, beside, said):
    save_file({"a.weight": WEIGHT, **beside}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=rf"a.safetensors is quantized \(?.*{said}.*expected floats"):
        header(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "pointer of git-lfs"),
        (b"<!DOCTYPE html><html></html>", "is a web page"),
        (b"", "damaged or incomplete"),
    ],
)
def test_what_is_fetched_instead_of_a_file_is_named(tmp_path, content, said):
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=said):
        header(tmp_path / "a.safetensors")


def test_a_weight_of_many_rows_is_scaled_before_rows_are_taken(tmp_path):
    """A row of a stacked projection, as of open_clip's attention, has its own share of a scale a row."""
    scale = torch.arange(1.0, 7.0)
    save_file({"a.weight": WEIGHT.to(EIGHT), "a.scale_weight": scale}, tmp_path / "a.safetensors")
    stored = header(tmp_path / "a.safetensors")["a.weight"]
    found = read_tensors(
        {"rows": replace(stored, row=2, shape=(3, 4)), "turned": replace(stored, turned=True, shape=(4, 6))}
    )
    whole = WEIGHT.to(EIGHT).float() * scale[:, None]
    assert torch.equal(found["rows"], whole[2:5])
    assert torch.equal(found["turned"], whole.T)
