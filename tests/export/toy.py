"""A small UNet-like graph with every form of layer that the exporter writes, and random weights from a fixed seed."""

import numpy as np
import onnx_ir as ir
import onnxruntime

FLOATS = {"fp32": np.float32, "fp16": np.float16, "w16": np.float32}
SHAPES = {"sample": (1, 4, 8, 6), "time": (1, 6)}
CHANNELS, WIDE = 16, 24


class Writer:
    """Writes nodes one after another; values are called after their modules."""

    def __init__(self, precision):
        self.precision, self.random = precision, np.random.default_rng(0)
        self.nodes, self.initializers = [], []

    def constant(self, name, array):
        tensor = ir.tensor(array, name=name)
        value = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
        self.initializers.append(value)
        return value

    def parameter(self, name, *shape, scale=0.0, offset=0.0):
        """A weight or bias, stored as the precision has it."""
        fan = np.sqrt(np.prod(shape[1:])) if len(shape) > 1 else 4
        array = (offset + (scale or 1 / fan) * self.random.standard_normal(shape)).astype(np.float32)
        if self.precision != "w16":
            return self.constant(name, array.astype(FLOATS[self.precision]))
        stored = self.constant(f"{name}.fp16", array.astype(np.float16))
        return self.node("Cast", f"{name}.fp32", stored, to=ir.DataType.FLOAT)

    def node(self, op, name, *inputs, **attributes):
        node = ir.node(op, list(inputs), attributes, name=f"{name}/{op}")
        node.outputs[0].name = name
        self.nodes.append(node)
        return node.outputs[0]

    def conv(self, name, x, before, after, side=3, stride=1, bias=True):
        weight = self.parameter(f"net.{name}.weight", after, before, side, side)
        biases = [self.parameter(f"net.{name}.bias", after)] if bias else []
        return self.node("Conv", name, x, weight, *biases, pads=[side // 2] * 4, strides=[stride] * 2)

    def linear(self, name, x, before, after, bias=True, turned=False):
        if turned:
            weight = self.node("Transpose", f"{name}.turned", self.parameter(f"net.{name}.weight", after, before))
        else:
            weight = self.parameter(f"net.{name}.weight.{before}x{after}", before, after)
        product = self.node("MatMul", name, x, weight)
        if not bias:
            return product
        return self.node("Add", f"{name}.biased", self.parameter(f"net.{name}.bias", after), product)

    def swish(self, name, x):
        return self.node("Mul", f"{name}.swish", x, self.node("Sigmoid", f"{name}.sigmoid", x))


def build(precision="fp32"):
    """Returns the model: convolutions, attention between linear layers, a residual each, and a skip concatenation."""
    w = Writer(precision)
    sample = ir.Value(name="sample", shape=ir.Shape(["batch", 4, "height", "width"]))
    time = ir.Value(name="time", shape=ir.Shape(["batch", 6]))
    dtype = ir.DataType.from_numpy(np.dtype(FLOATS[precision]))
    sample.dtype = time.dtype = dtype
    first = w.conv("conv_in", sample, 4, CHANNELS)
    x = w.conv("block.conv1", w.swish("block.one", first), CHANNELS, CHANNELS)
    embedded = w.node(
        "Gemm",
        "block.time",
        time,
        w.parameter("net.block.time.weight", CHANNELS, 6),
        w.parameter("net.block.time.bias", CHANNELS),
        transB=1,
    )
    wide = w.node("Unsqueeze", "block.time.wide", embedded, w.constant("sides", np.array([2, 3])))
    x = w.conv("block.conv2", w.swish("block.two", w.node("Add", "block.timed", x, wide)), CHANNELS, CHANNELS)
    x = w.node("Add", "block.out", first, x)
    x = attention(w, x)
    down = w.conv("down.conv", x, CHANNELS, WIDE, stride=2, bias=False)
    ends = [w.constant(f"end{place}", np.array([place])) for place in (0, 2, 4)]
    parts = [
        w.node("Slice", f"up.side{place}", w.node("Shape", f"up.shape{place}", value), *ends[place : place + 2])
        for place, value in enumerate((down, x))
    ]
    sizes = w.node("Concat", "up.sizes", *parts, axis=0)
    nearest = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    up = w.node("Resize", "up.resized", down, None, None, sizes, **nearest)
    joined = w.node("Concat", "up.joined", up, x, axis=1)
    last = w.conv("up.conv_shortcut", joined, WIDE + CHANNELS, CHANNELS, side=1)
    prediction = w.conv("conv_out", w.swish("up", last), CHANNELS, 4)
    graph = ir.Graph(
        [sample, time], [prediction], nodes=w.nodes, initializers=w.initializers, opset_imports={"": 18}, name="toy"
    )
    return annotated(ir.Model(graph, ir_version=10), dtype)


def attention(w, x):
    """One head of self-attention over the pixels, with its LayerNorm before and its residual after."""
    rows = w.node("Reshape", "attn.rows", x, w.constant("rows", np.array([0, CHANNELS, -1])))
    rows = w.node("Transpose", "attn.turned", rows, perm=[0, 2, 1])
    scale = w.parameter("net.attn.norm.weight", CHANNELS, offset=1)
    normed = w.node(
        "LayerNormalization", "attn.norm", rows, scale, w.parameter("net.attn.norm.bias", CHANNELS), axis=-1
    )
    q, k, v = (w.linear(f"attn.to_{part}", normed, CHANNELS, CHANNELS, bias=False) for part in "qkv")
    scores = w.node("MatMul", "attn.scores", q, w.node("Transpose", "attn.keys", k, perm=[0, 2, 1]))
    mixed = w.node("MatMul", "attn.mixed", w.node("Softmax", "attn.softmax", scores, axis=-1), v)
    rows = w.node("Add", "attn.out", w.linear("attn.to_out.0", mixed, CHANNELS, CHANNELS, turned=True), rows)
    turned = w.node("Transpose", "attn.back", rows, perm=[0, 2, 1])
    return w.node("Reshape", "attn.image", turned, w.node("Shape", "attn.sides", x))


def annotated(model, dtype):
    """The model as the exporter leaves it: each value has a shape and a type."""
    from latentrt_export.graph.shapes import annotate_shapes

    annotate_shapes(model)
    assert model.graph.outputs[0].dtype == dtype
    return model


def feeds(precision="fp32", batch=2, seed=1):
    """Random inputs of the model."""
    random = np.random.default_rng(seed)
    return {
        name: random.standard_normal((batch, *shape[1:])).astype(FLOATS[precision]) for name, shape in SHAPES.items()
    }


def run(model, inputs, folder, *, optimize=False, extra=()):
    """The outputs of the model in ONNX Runtime by name, and the graph that was run. extra: more values to return."""
    model = model.clone()
    values = {value.name: value for node in model.graph for value in node.outputs}
    model.graph.outputs.extend(values[name] for name in extra if not values[name].is_graph_output())
    path, optimized = folder / "run.onnx", folder / "optimized.onnx"
    ir.save(model, path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    options.optimized_model_filepath = str(optimized)
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_EXTENDED if optimize else levels.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True)), ir.load(optimized)
