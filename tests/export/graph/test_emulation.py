"""Emulated graphs take little memory: a weight in 4 bits is decoded for its product, and is gone after it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LAYERS, WIDTH = 16, 2048
DECODED_BYTES = LAYERS * WIDTH * WIDTH * 4
MEASURED = """
import re, sys
from pathlib import Path
import numpy as np
from latentrt_export.graph.emulation import emulated_session

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

before = peak()
session = emulated_session(Path(sys.argv[1]))
[output] = session.run(None, {"x": np.ones((4, int(sys.argv[2])), np.float16)})
assert np.isfinite(output).all()
print(peak() - before)
"""


def save(path: Path) -> None:
    """Writes products with weights in 4 bits, one after the other."""
    random, nodes, constants, x = np.random.default_rng(0), [], [], "x"
    for layer in range(LAYERS):
        packed = random.integers(0, 256, WIDTH * WIDTH // 2, dtype=np.uint8).tobytes()
        constants.append(helper.make_tensor(f"q{layer}", TensorProto.INT4, [WIDTH, WIDTH], packed, raw=True))
        scales = (1e-3 * random.random((WIDTH // 32, WIDTH))).astype(np.float16)
        constants.append(numpy_helper.from_array(scales, f"scales{layer}"))
        decoded = [f"q{layer}", f"scales{layer}"]
        nodes.append(helper.make_node("DequantizeLinear", decoded, [f"w{layer}"], axis=0, block_size=32))
        nodes.append(helper.make_node("MatMul", [x, f"w{layer}"], [x := f"y{layer}"]))
    shapes = {f"w{layer}": [WIDTH, WIDTH] for layer in range(LAYERS)}
    shapes |= {f"y{layer}": [4, WIDTH] for layer in range(LAYERS)}
    known = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, shape) for name, shape in shapes.items()]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, [4, WIDTH]) for name in ("x", x)]
    graph = helper.make_graph(nodes, "graph", ends[:1], ends[1:], constants, value_info=known)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)


def test_weights_are_decoded_one_by_one(tmp_path):
    save(path := tmp_path / "graph.onnx")
    command = [sys.executable, "-c", MEASURED, str(path), str(WIDTH)]
    taken = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert taken < DECODED_BYTES
