"""Weights in half precision: of a table, rows are taken before they are cast."""

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import nn

from latentrt.tensors import TensorSpec
from latentrt_export.graph.precision import row_bytes, store_half
from latentrt_export.graph.trace import trace
from latentrt_export.lower.half import half

IDS = TensorSpec("input_ids", "int64", ("batch", 5))


class Tied(nn.Module):
    """A table that is read by rows, and multiplies them as a whole if it is tied."""

    def __init__(self, tied):
        super().__init__()
        torch.manual_seed(0)
        rows = torch.randn(11, 8, generator=torch.Generator().manual_seed(0))
        self.table, self.tied = nn.Embedding.from_pretrained(rows), tied

    def forward(self, input_ids):
        rows = self.table(input_ids)
        return rows @ self.table.weight.T if self.tied else rows * 3


def stored(tied):
    width = 11 if tied else 8
    return store_half(trace(Tied(tied), [IDS], [TensorSpec("rows", "float32", ("batch", 5, width))]))


def run(model, ids):
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"input_ids": ids})[0]


def casts_of_tables(model):
    return [node for node in model.graph if node.op_type == "Cast" and node.inputs[0].is_initializer()]


@pytest.mark.parametrize("tied", [False, True])
def test_rows_are_cast_and_not_the_table(tied):
    model = stored(tied)
    (gather,) = (node for node in model.graph if node.op_type == "Gather")
    assert gather.inputs[0].is_initializer() and gather.outputs[0].dtype == ir.DataType.FLOAT16
    assert len(casts_of_tables(model)) == tied  # a product has a copy of its own, turned
    assert row_bytes(model) == 11 * 8 * 2


@pytest.mark.parametrize("tied", [False, True])
def test_results_are_those_of_the_table_in_half_precision(tied):
    ids = np.array([[0, 10, 3, 3, 1], [7, 2, 9, 5, 0]])
    table = Tied(tied).table.weight.detach().half().float().numpy()
    expected = table[ids] @ table.T if tied else table[ids] * 3
    np.testing.assert_allclose(run(stored(tied), ids), expected, rtol=1e-6, atol=1e-6)


def test_a_graph_in_fp16_reads_the_rows_without_a_cast():
    model = half(stored(tied=False))
    assert [node.op_type for node in model.graph] == ["Gather", "Mul", "Cast"]  # the cast is that of the output
    assert model.graph[1].outputs[0].dtype == ir.DataType.FLOAT16
