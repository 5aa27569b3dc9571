"""Ways to compute one self-attention on a CPU, timed in turn and compared with float64: docs/cpu.md.

    python -m benchmarks.attention [--tokens 4096] [--heads 8] [--width 40] [--batch 2] [--rounds 9]

The default is the longest attention of Stable Diffusion 1.5 at 512x512 with guidance. Every way gets the same query,
key and value, (batch, heads, tokens, width), and gives the same shape. The row of a way that the processor or an engine
does not have says why.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from benchmarks.machine import machine, one_line
from latentrt.device.cores import usable_cores
from latentrt.engines import telemetry
from latentrt.engines.onnx.session import new_options

Array = NDArray[Any]
Feeds = Mapping[str, Array]
Way = Callable[[Feeds], Array]
FLOAT, OPSET, CONTRIB = TensorProto.FLOAT, 23, "com.microsoft"


def node(kind: str, inputs: str, outputs: str, domain: str = "", **attributes: Any) -> onnx.NodeProto:
    """A node with inputs and outputs that are named in a line."""
    return helper.make_node(kind, inputs.split(), outputs.split(), domain=domain, **attributes)


# Graphs from q, k, v to o. The query is scaled already, as in every graph that latentrt exports.
KEY = node("Transpose", "k", "kt", perm=[0, 1, 3, 2])
SOFTMAX = [node("Softmax", "s", "p", axis=-1), node("MatMul", "p v", "o")]
DECOMPOSED = [KEY, node("MatMul", "q kt", "s"), *SOFTMAX]


def graph(nodes: list[onnx.NodeProto], shape: tuple[int, ...], **constants: Array) -> bytes:
    """A model of these nodes, serialised."""
    values = [helper.make_tensor_value_info(name, FLOAT, shape) for name in "qkvo"]
    stored = [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()]
    made = helper.make_graph(nodes, "attention", values[:3], values[3:], stored)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)]
    content: bytes = helper.make_model(made, opset_imports=opsets, ir_version=10).SerializeToString()
    return content


def fused(shape: tuple[int, ...]) -> bytes:
    """ONNX Runtime's operator, which computes tiles of scores; it takes (batch, tokens, heads x width)."""
    batch, heads, tokens, width = shape
    rows = [
        one
        for name in "qkv"
        for one in (
            node("Transpose", name, f"{name}t", perm=[0, 2, 1, 3]),
            node("Reshape", f"{name}t flat", f"{name}f"),
        )
    ]
    rows += [
        node("MultiHeadAttention", "qf kf vf", "f", CONTRIB, num_heads=heads, scale=1.0),
        node("Reshape", "f split", "ft"),
        node("Transpose", "ft", "o", perm=[0, 2, 1, 3]),
    ]
    flat, split = np.array([batch, tokens, heads * width]), np.array([batch, tokens, heads, width])
    return graph(rows, shape, flat=flat, split=split)


def striped(shape: tuple[int, ...], rows: int) -> bytes:
    """Stripes of the query, each with its own softmax, so that a stripe's scores of a head stay in the cache."""
    count = max(1, shape[2] // rows)
    nodes = [KEY, node("Split", "q", " ".join(f"q{i}" for i in range(count)), axis=2, num_outputs=count)]
    for i in range(count):
        nodes += [node("MatMul", f"q{i} kt", f"s{i}"), node("Softmax", f"s{i}", f"p{i}", axis=-1)]
        nodes.append(node("MatMul", f"p{i} v", f"o{i}"))
    return graph([*nodes, node("Concat", " ".join(f"o{i}" for i in range(count)), "o", axis=2)], shape)


def padded(shape: tuple[int, ...], width: int) -> bytes:
    """Heads padded with zeros to a width that the products' kernels have; the scores are the same."""
    pads = np.array([0] * 7 + [width - shape[3]])
    nodes = [node("Pad", f"{name} pads", f"{name}w") for name in "qk"]
    turned = node("Transpose", "kw", "kt", perm=[0, 1, 3, 2])
    return graph([*nodes, turned, node("MatMul", "qw kt", "s"), *SOFTMAX], shape, pads=pads)


def wider(width: int) -> list[int]:
    """The next two widths of heads that products like."""
    return [one for one in (48, 64, 96, 128, 160, 192, 256) if one > width][:2]


def quantized(shape: tuple[int, ...]) -> bytes:
    """Scores as products of 8-bit integers, with one scale per tensor."""
    nodes = [KEY, *(node("DynamicQuantizeLinear", one, f"{one}8 {one}scale {one}zero") for one in ("q", "kt"))]
    nodes += [
        node("MatMulInteger", "q8 kt8 qzero ktzero", "i"),
        node("Cast", "i", "f", to=FLOAT),
        node("Mul", "qscale ktscale", "scale"),
        node("Mul", "f scale", "s"),
    ]
    return graph([*nodes, *SOFTMAX], shape)


def halves(shape: tuple[int, ...], kind: int) -> bytes:
    """Scores and their softmax stored in 16 bits."""
    nodes = [KEY, node("MatMul", "q kt", "f"), node("Cast", "f", "s", to=kind), node("Softmax", "s", "p16", axis=-1)]
    return graph([*nodes, node("Cast", "p16", "p", to=FLOAT), node("MatMul", "p v", "o")], shape)


def operator(shape: tuple[int, ...]) -> bytes:
    """ONNX's own operator of opset 23."""
    return graph([node("Attention", "q k v", "o", scale=1.0)], shape)


def onnxruntime_way(content: bytes) -> Way:
    """A graph in ONNX Runtime, with the options of latentrt's sessions."""
    session = telemetry.onnxruntime().InferenceSession(content, new_options(), providers=["CPUExecutionProvider"])
    return lambda feeds: session.run(None, dict(feeds))[0]  # type: ignore[no-any-return]


def in_onnxruntime(make: Callable[..., bytes], *arguments: Any) -> Way:
    """The graph that `make` makes of the arguments, in ONNX Runtime."""
    return onnxruntime_way(make(*arguments))


def openvino_way(content: bytes, **hints: str) -> Way:
    """A graph in OpenVINO."""
    core = telemetry.openvino().Core()
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": str(usable_cores()), **hints}
    compiled = core.compile_model(core.read_model(content), "CPU", options)
    kept = str(compiled.get_property("INFERENCE_PRECISION_HINT"))
    if hints and hints["INFERENCE_PRECISION_HINT"] not in kept:
        raise ValueError(f"this processor computes in {kept}")
    request = compiled.create_infer_request()
    return lambda feeds: request.infer(dict(feeds))[0]  # type: ignore[no-any-return]


def torch_way(feeds: Feeds) -> Array:
    """PyTorch's fused attention, as diffusers calls it."""
    import torch

    with torch.inference_mode():
        parts = [torch.from_numpy(feeds[name]) for name in "qkv"]
        return torch.nn.functional.scaled_dot_product_attention(*parts, scale=1.0).numpy()  # type: ignore[no-any-return]


def ways(shape: tuple[int, ...]) -> dict[str, Callable[[], Way]]:
    """What is compared, by name; each is opened on its own, because an engine may refuse it."""
    plain = graph(DECOMPOSED, shape)
    return {
        "ONNX Runtime, products and softmax": lambda: onnxruntime_way(plain),
        "MultiHeadAttention": lambda: onnxruntime_way(fused(shape)),
        "ONNX's Attention": lambda: onnxruntime_way(operator(shape)),
        **{f"stripes of {rows} rows": partial(in_onnxruntime, striped, shape, rows) for rows in (32, 128, 512)},
        **{f"heads padded to {width}": partial(in_onnxruntime, padded, shape, width) for width in wider(shape[3])},
        "scores in 8-bit integers": lambda: onnxruntime_way(quantized(shape)),
        "scores stored in fp16": lambda: onnxruntime_way(halves(shape, TensorProto.FLOAT16)),
        "scores stored in bf16": lambda: onnxruntime_way(halves(shape, TensorProto.BFLOAT16)),
        "OpenVINO, products and softmax": lambda: openvino_way(plain),
        "OpenVINO, ONNX's Attention": lambda: openvino_way(operator(shape)),
        "OpenVINO, stripes of 128 rows": lambda: openvino_way(striped(shape, 128)),
        "OpenVINO, hint bf16": lambda: openvino_way(plain, INFERENCE_PRECISION_HINT="bf16"),
        "OpenVINO, hint f16": lambda: openvino_way(plain, INFERENCE_PRECISION_HINT="f16"),
        "PyTorch, scaled_dot_product_attention": lambda: torch_way,
    }


def exact(feeds: Feeds) -> Array:
    """The attention in float64, head by head."""
    batch, heads, *_ = feeds["q"].shape
    out = np.empty(feeds["q"].shape)
    for at in np.ndindex(batch, heads):
        scores = feeds["q"][at].astype(np.float64) @ feeds["k"][at].astype(np.float64).T
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        out[at] = weights @ feeds["v"][at] / weights.sum(axis=-1, keepdims=True)
    return out


def decibels(out: Array, expected: Array) -> float:
    """The signal-to-noise ratio of a result, in dB."""
    noise = float(np.mean((out - expected) ** 2))
    return float(10 * np.log10(float(np.mean(expected**2)) / noise)) if noise else float("inf")


def table(shape: tuple[int, ...], rounds: int) -> Iterator[str]:
    """Yields the rows: loss, seconds, and the time divided by that of the first way in the same round."""
    random = np.random.default_rng(0)
    feeds = {name: random.standard_normal(shape, np.float32) for name in "qkv"}
    feeds["q"] *= shape[3] ** -0.5
    expected, opened, lines, refused = exact(feeds), {}, [], []
    for name, make in ways(shape).items():
        try:
            opened[name] = make()
            lines.append((name, decibels(opened[name](feeds), expected)))
        except Exception as error:  # each engine has errors of its own
            opened.pop(name, None)
            refused.append(f"| {name} | | | not here: {str(error).splitlines()[0][:90]} |")
    taken: dict[str, list[float]] = {name: [] for name in opened}
    for _ in range(rounds):
        for name, way in opened.items():
            start = time.perf_counter()
            way(feeds)
            taken[name].append(time.perf_counter() - start)
    first = next(iter(taken.values()))
    yield "| way | dB | s, median | of the first (range) |"
    yield "|---|---|---|---|"
    for name, loss in lines:
        ratios = [one / other for one, other in zip(taken[name], first, strict=True)]
        spread = f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        yield f"| {name} | {loss:.0f} | {median(taken[name]):.3f} | {spread} |"
    yield from refused


def main() -> None:
    """Prints the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("batch", 2), ("heads", 8), ("tokens", 4096), ("width", 40), ("rounds", 9)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    print(one_line(machine()), flush=True)
    for line in table((given.batch, given.heads, given.tokens, given.width), given.rounds):
        print(line, flush=True)


if __name__ == "__main__":
    main()
