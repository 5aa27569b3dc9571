"""A checkpoint exported without graphs: the divided modules run in torch, where tracing them would take the most time.

That graphs compute what the modules do is shown elsewhere, for every layer that a family has; see test_families.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from latentrt.bundle.folder import open_bundle
from latentrt.bundle.manifest import Component, Fidelity
from latentrt.pipeline.load import load_tokenizer
from latentrt.pipeline.pipeline import Pipeline
from latentrt.tensors import check
from latentrt_export import export
from latentrt_export.export import ExportOptions


class TorchEngine:
    """A component's module in place of the engine that would run its graph."""

    def __init__(self, module, component):
        self.module, self.component = module, component

    def __call__(self, feeds):
        check(self.component.inputs, feeds, self.component.file)
        with torch.no_grad():
            outputs = self.module(*(torch.from_numpy(np.array(feeds[spec.name])) for spec in self.component.inputs))
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return {spec.name: out.numpy() for spec, out in zip(self.component.outputs, outputs, strict=True)}

    def load(self):
        pass

    unload = close = load


def untraced(checkpoint, folder, options=None, progress=lambda line: None):
    """Returns the pipeline of a checkpoint: loaded, divided and described as an export does, in float32."""
    modules = {}

    def kept(part, folder, _precision, _progress):
        modules[part.name] = part.build().eval()
        (Path(folder) / f"{part.name}.onnx").write_bytes(b"a module")
        file, fidelity = f"{part.name}.onnx", Fidelity(0.0, None, "")
        specs = part.inputs, part.outputs
        return Component(part.role, file, (), "fp32", *specs, fidelity, part.sources, part.controls)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "write_component", kept)
        patch.setattr(export, "with_table", lambda folder, manifest: manifest)
        export.export(checkpoint, folder, options or ExportOptions(), progress)
    bundle = open_bundle(folder)
    engines = {name: TorchEngine(module, bundle.manifest.components[name]) for name, module in modules.items()}
    return Pipeline(bundle, load_tokenizer(bundle), engines, "torch")
