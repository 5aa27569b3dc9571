"""Makes a bundle without hoisting: its UNet contains the time embedding and cross-attention's projections, as usual.

These parts, which latentrt computes once before the loop, are then quantized with the UNet. The bundle runs like any
other; the graphs `cross_kv` and `time_bias` only pass their inputs on.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, ValueInfoProto, compose, helper

from latentrt.bundle.folder import Bundle, record_files, save_manifest
from latentrt.bundle.manifest import Component
from latentrt.bundle.manifest_json import named_files
from latentrt.tensors import TensorSpec
from latentrt_export.step_cache import without_step_cache

HOISTED = {"time_bias": ("timestep", (1,)), "cross_kv": ("context", ())}


def write_unhoisted(source: Bundle, folder: Path) -> None:
    """Writes the bundle to the empty `folder`. Its pictures equal those of `source` except for rounding."""
    manifest = without_step_cache(source.manifest)
    shutil.copytree(source.folder, folder, dirs_exist_ok=True)
    parts = manifest.components
    merged = onnx.load(source.path(parts["unet"].file))
    specs = {spec.name: spec for spec in parts["unet"].inputs}
    changed: dict[str, Component] = {}
    for name, (given, added) in HOISTED.items():
        [own] = parts[name].inputs
        merged = joined(onnx.load(source.path(parts[name].file)), merged, name, own, added)
        passed = TensorSpec(name, own.dtype, (*own.shape, *added))
        specs[name] = replace(passed, shape=("batch", *passed.shape[1:]))
        changed[name] = replace(parts[name], file=f"{name}.onnx", data=(), outputs=(passed,))
        onnx.save(passing(given, own, passed, merged), folder / f"{name}.onnx")
    changed["unet"] = replace(parts["unet"], file="unet.onnx", data=(), inputs=tuple(specs.values()))
    onnx.save(merged, folder / "unet.onnx")
    plain = replace(manifest, components={**parts, **changed}, files={})
    save_manifest(folder, replace(plain, files=record_files(folder, named_files(plain))))


def joined(part: ModelProto, unet: ModelProto, name: str, own: TensorSpec, added: Sequence[int]) -> ModelProto:
    """The UNet with `part` before its input `name`. The new input has the part's input shape plus `added` axes."""
    part = compose.add_prefix(part, f"{name}.")
    merged = compose.merge_models(part, unet, [(f"{name}.{name}", name)])
    [before] = [value for value in merged.graph.input if value.name == f"{name}.{own.name}"]
    merged.graph.input.remove(before)
    merged.graph.input.append(value_of(name, replace(own, shape=("batch", *own.shape[1:], *added))))
    # The merge removed the UNet's own input; the part reads the new one, without the added axes.
    squeezed = f"{name}.sides"
    merged.graph.initializer.append(helper.make_tensor(squeezed, onnx.TensorProto.INT64, [1], [len(own.shape)]))
    op, inputs = ("Squeeze", [name, squeezed]) if added else ("Identity", [name])
    merged.graph.node.insert(0, helper.make_node(op, inputs, [before.name], name=f"{name}.given"))
    return merged


def passing(given: str, own: TensorSpec, passed: TensorSpec, like: ModelProto) -> ModelProto:
    """A graph that returns its input, with an additional axis of 1 if `passed` has one."""
    sides = helper.make_tensor("sides", onnx.TensorProto.INT64, [1], [len(own.shape)])
    op, inputs = ("Unsqueeze", [given, "sides"]) if len(passed.shape) > len(own.shape) else ("Identity", [given])
    node = helper.make_node(op, inputs, [passed.name])
    graph = helper.make_graph([node], "passing", [value_of(given, own)], [value_of(passed.name, passed)], [sides])
    return helper.make_model(graph, opset_imports=like.opset_import, ir_version=like.ir_version)


def value_of(name: str, spec: TensorSpec) -> ValueInfoProto:
    """An input or output of a graph."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype))
    return helper.make_tensor_value_info(name, kind, list(spec.shape))
