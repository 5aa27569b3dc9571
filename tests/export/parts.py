"""Bundles of a few components of the built-in model, or of a graph made in a test: lowered in a blink."""

import shutil
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from latentrt.bundle.catalog import folder_of
from latentrt.bundle.folder import open_bundle, record_files, save_manifest
from latentrt.bundle.manifest import Component, Fidelity
from latentrt.bundle.manifest_json import named_files
from latentrt.tensors import TensorSpec
from latentrt_export.lora_table.table import with_table


def some_of_the_built_in(folder, *names, **changes):
    """A bundle in `folder` with these components alone; changes: by component, what of it is to be another."""
    source = open_bundle(folder_of("emoji"), verify=False)
    components = {name: source.manifest.components[name] for name in names}
    components |= {name: replace(components[name], **change) for name, change in changes.items()}
    return written(folder, source, components)


def of_graph(folder, model, inputs, outputs, *, precision="w16"):
    """A bundle in `folder` whose one component, "part", is the graph `model`."""
    folder.mkdir()
    ir.save(model, folder / "part.onnx")
    component = Component(
        "text_encoder", "part.onnx", (), precision, tuple(inputs), tuple(outputs), Fidelity(0.0, None, "")
    )
    return written(folder, open_bundle(folder_of("emoji"), verify=False), {"part": component})


def written(folder, source, components):
    """The bundle, its manifest written; files that are not there yet are those of `source`."""
    manifest = replace(source.manifest, components=components, files={}, lora_weights="")
    for file in named_files(manifest):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        if not (folder / file).exists():
            shutil.copyfile(source.path(file), folder / file)
    manifest = with_table(folder, manifest)
    save_manifest(folder, replace(manifest, files=record_files(folder, named_files(manifest))))
    return open_bundle(folder)


def graph_of(nodes, inputs, outputs, constants):
    """A graph from values and nodes made by onnx-ir. constants: initialisers, whose values the nodes read."""
    graph = ir.Graph(inputs, outputs, nodes=nodes, initializers=constants, opset_imports={"": 18}, name="test")
    return ir.Model(graph, ir_version=10)


def value(name, shape, dtype=ir.DataType.FLOAT):
    """A value of a graph."""
    return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype))


def constant(name, array):
    """An initialiser."""
    tensor = ir.Tensor(np.asarray(array), name=name)
    return ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)


def node(op_type, inputs, output, **attributes):
    """A node that makes the value `output`."""
    return ir.Node(
        "",
        op_type,
        inputs,
        [ir.convenience.convert_attribute(k, v) for k, v in attributes.items()],
        outputs=[output],
        name=output.name,
    )


def spec_of(one):
    """The TensorSpec of a graph's input or output."""
    return TensorSpec(
        one.name,
        {"FLOAT": "float32", "FLOAT16": "float16", "INT64": "int64"}[one.dtype.name],
        tuple(side if isinstance(side, int) else side.value for side in one.shape),
    )
