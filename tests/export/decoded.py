"""Graphs in few bits with their weights decoded to floats by the standard's definition, and changed there."""

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from safetensors.torch import save_file

from latentrt.lora.places import read_places
from latentrt.tensors import shape_of

SIZES = {"height": 6, "width": 4, "tokens": 7, "n": 2}


def save_lora(path, component, shapes, *, seed=0, rank=3, kind="lora"):
    """Writes a file that changes layers, by path in the checkpoint, as diffusers does; returns what it adds to each.

    kind: "lora", or "diff", a whole difference.
    """
    random, tensors, added = torch.Generator().manual_seed(seed), {}, {}
    for layer, (out, *rest) in shapes.items():
        down, up = torch.randn(rank, *rest, generator=random), torch.randn(out, rank, generator=random)
        down, up = down / down[0].numel() ** 0.5, up.reshape(out, rank, *[1] * (len(rest) - 1))
        whole = (up.double().flatten(1) @ down.double().flatten(1)).reshape(out, *rest)
        added[f"{layer}.weight"] = whole.numpy()
        parts = {"lora_A.weight": down, "lora_B.weight": up} if kind == "lora" else {"diff": whole.float()}
        tensors |= {f"{component}.{layer}.{name}": tensor.contiguous() for name, tensor in parts.items()}
    save_file(tensors, path)
    return added


def layers_of(module, kinds=(torch.nn.Linear,)):
    """The shapes of a module's layers of these kinds, by path."""
    return {name: tuple(one.weight.shape) for name, one in module.named_modules() if isinstance(one, kinds)}


def decoded(path):
    """A graph whose weights in few bits are initialisers of floats, named as what they are decoded to."""
    model = onnx.load(path)
    constants = {one.name: one for one in model.graph.initializer}
    for node in [one for one in model.graph.node if one.op_type == "DequantizeLinear"]:
        settings = {one.name: one.i for one in node.attribute}
        values, scales = (constants[name.removesuffix(".fp32")] for name in node.input[:2])
        values, scales = (numpy_helper.to_array(one).astype(np.float32) for one in (values, scales))
        axis = settings["axis"]
        if "block_size" in settings:
            scales = np.repeat(scales, settings["block_size"], axis)
        else:
            scales = scales.reshape([-1 if one == axis else 1 for one in range(values.ndim)])
        model.graph.initializer.append(numpy_helper.from_array(values * scales, node.output[0]))
        model.graph.node.remove(node)
    return model


def outputs(bundle, component, added, feeds):
    """What the decoded graph computes in float32 with `added`, by key of the checkpoint, added to its weights."""
    known = bundle.manifest.components[component]
    model = decoded(bundle.path(known.file))
    constants = {one.name: one for one in model.graph.initializer}
    places = read_places(bundle)
    for key, change in added.items():
        checkpoint = "text_encoder" if known.role == "text_encoder" else bundle.manifest.denoiser
        for place in places.of(checkpoint, key):
            if place.component == component:
                whole = numpy_helper.to_array(constants[place.name]).astype(np.float64)
                place.of(whole)[...] += change.reshape(place.shape)
                stored = whole.astype(place.initializer.dtype)
                constants[place.name].CopyFrom(numpy_helper.from_array(stored, place.name))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    names = [one.name for one in known.outputs]
    return dict(zip(names, session.run(names, feeds), strict=True))


def random_feeds(component, batch, tokens=2, **sizes):
    """Random inputs of a component. tokens: the largest token's number."""
    random, sizes = np.random.default_rng(0), {**SIZES, "batch": batch, **sizes}
    return {
        one.name: (
            random.standard_normal(shape_of(one, sizes))
            if "float" in one.dtype
            else random.integers(1, tokens, shape_of(one, sizes))
        ).astype(one.dtype)
        for one in component.inputs
    }


def furthest(found, expected):
    """The largest difference of outputs, of the largest value."""
    return max(np.abs(found[name] - one).max() / np.abs(one).max() for name, one in expected.items())
