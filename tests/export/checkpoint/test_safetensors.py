"""The runtime's reader of .safetensors files: what the format's own package reads, and nothing of a damaged file."""

import json
import os

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from latentrt.errors import CheckpointError
from latentrt.storage.safetensors import open_tensors

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.bool]
EIGHT_BITS = [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz]


@pytest.mark.parametrize("dtype", EIGHT_BITS, ids=str)
def test_floats_of_eight_bits_are_those_of_torch(tmp_path, dtype):
    every = torch.arange(256, dtype=torch.uint8).view(dtype)
    save_file({"x": every.reshape(16, 16)}, tmp_path / "x.safetensors")
    read = open_tensors(tmp_path / "x.safetensors").tensors["x"].read()
    np.testing.assert_array_equal(read, every.float().numpy().reshape(16, 16), strict=True)
    assert np.isfinite(read).sum() >= 248


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tensors_of_every_type_are_those_of_the_package(tmp_path, dtype):
    random = torch.Generator().manual_seed(0)
    tensors = {"a.b": torch.randn(3, 1, 5, generator=random).mul(100).to(dtype), "alpha": torch.tensor(5).to(dtype)}
    tensors["none"] = torch.zeros(0, 3, dtype=dtype)
    save_file(tensors, tmp_path / "x.safetensors", {"note": "of no weight"})
    found = open_tensors(tmp_path / "x.safetensors")
    assert found.notes == {"note": "of no weight"} and found.tensors.keys() == tensors.keys()
    for key, tensor in tensors.items():
        np.testing.assert_array_equal(found.tensors[key].read(), tensor.float().numpy(), strict=True)


def content(header, data=b"\0" * 8):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(first=0, last=8, shape=(2,), dtype="F32"):
    return {"x": {"dtype": dtype, "shape": shape, "data_offsets": [first, last]}}


BAD = {
    "empty": b"",
    "short": b"\x10\0\0",
    "header longer than the file": (1 << 40).to_bytes(8, "little") + b"{}",
    "header is no JSON": content(b"{"),
    "header is no text": content(b"\xff\xfe"),
    "header is a list": content([1]),
    "header is deep": content(b"[" * 100_000),
    "entry is a number": content({"x": 1}),
    "entry without a shape": content({"x": {"dtype": "F32", "data_offsets": [0, 8]}}),
    "data beyond the end": content(entry(0, 8), b"\0" * 7),
    "data before the start": content(entry(-8, 0)),
    "data of another size": content(entry(0, 4)),
    "data backwards": content(entry(8, 0)),
    "negative sides": content(entry(shape=(-1, -2))),
    "metadata of a number": content({"__metadata__": 3}),
    "metadata with a number": content({"__metadata__": {"format": 3}, **entry()}),
    "a key twice": content(b'{"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "x": {}}'),
    "a shape of text": content(entry(shape="2")),
    "a fraction": content(entry(0.0, 8.0)),
    "a type of numbers": content(entry(dtype=["F32"], shape=(3,), last=-1)),
}


@pytest.mark.parametrize("case", BAD)
def test_a_damaged_file_is_one_error(tmp_path, case):
    (tmp_path / "x.safetensors").write_bytes(BAD[case])
    with pytest.raises(CheckpointError, match=r"x\.safetensors is damaged or incomplete .*fetch it again"):
        open_tensors(tmp_path / "x.safetensors")


def test_metadata_may_be_null_as_for_the_package(tmp_path):
    (path := tmp_path / "x.safetensors").write_bytes(content({"__metadata__": None, **entry()}))
    with safe_open(path, "np") as package:
        assert package.keys() == ["x"] and package.metadata() is None
    assert open_tensors(path).notes == {}


def test_another_kind_of_file_and_one_that_changed_are_errors(tmp_path):
    file = tmp_path / "x.safetensors"
    for path, message in ((tmp_path / "x.ckpt", "is of type '.ckpt'"), (file, "cannot be read .No such file")):
        with pytest.raises(CheckpointError, match=message):
            open_tensors(path)
    (tmp_path / "A.SafeTensors").write_bytes(content(entry()))
    assert open_tensors(tmp_path / "A.SafeTensors").tensors.keys() == {"x"}
    file.write_bytes(content(entry()))
    found = open_tensors(file)
    os.utime(file, ns=(0, 0))
    with pytest.raises(CheckpointError, match="changed since it was opened"):
        found.tensors["x"].read()


def test_a_type_that_numpy_does_not_have_is_an_error_where_it_is_read(tmp_path):
    path = tmp_path / "a.safetensors"
    header = json.dumps({"a": {"dtype": "F4", "shape": [4], "data_offsets": [0, 2]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(2))
    tensor = open_tensors(path).tensors["a"]
    with pytest.raises(CheckpointError, match="has a tensor of type 'F4', expected one of F64, "):
        tensor.read()
