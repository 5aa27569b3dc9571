"""Graphs are written whole, wherever their weights were before."""

import numpy as np
import onnx_ir as ir
import onnxruntime

from latentrt_export.graph.save import save_graph


def test_a_few_weights_left_in_another_graphs_file_come_along(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    out.mkdir()
    weight = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    text = "<ir_version: 10, opset_import: ['' : 18]> graph (float[n, 64] x) => (float[n, 64] y) { y = MatMul(x, w) }"
    model = ir.from_onnx_text(text.replace("'", '"'), [ir.tensor(weight, name="w")])
    ir.save(model, source / "graph.onnx", external_data="graph.onnx.data")

    assert save_graph(ir.load(source / "graph.onnx"), out, "graph") == ()

    rows = np.ones((1, 64), np.float32)
    session = onnxruntime.InferenceSession(out / "graph.onnx", providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"x": rows})[0], rows @ weight, rtol=1e-5)
