"""LoRA files added to transformers at run time: the picture of the fused file, and of diffusers' load_lora_weights."""

import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from safetensors.torch import save_file

from latentrt.bundle.folder import Bundle, record_files
from latentrt.errors import BundleError, CheckpointError
from latentrt.lora.files import Lora
from latentrt.lora.places import read_places
from latentrt.lora.weights import changed_weights
from latentrt_export.export import ExportOptions
from latentrt_export.lora_table.table import with_table
from tests.export import klein, sd3
from tests.export.decoded import layers_of, save_lora
from tests.export.pairs import exported
from tests.sweep import sweep

pytestmark = pytest.mark.usefixtures("one_thread")

LEAST_DB = 100.0
SCALE = 0.7


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The small FLUX.2 klein in fp32 on both sides."""
    made = klein.opened_pair(tmp_path_factory.mktemp("klein"))
    with made.ours:
        yield made


def styled(made, file):
    """The model on both sides with a file."""
    made.pair.theirs.load_lora_weights(file.parent, weight_name=file.name, adapter_name="a")
    made.pair.theirs.set_adapters(["a"], [SCALE])
    return replace(made, pair=replace(made.pair, ours=made.ours.with_loras({file: SCALE})))


def test_every_layer_of_klein(small, tmp_path):
    shapes = layers_of(klein.build_transformer())
    assert {"norm_out.linear", "context_embedder", "double_stream_modulation_txt.linear"} < shapes.keys()
    save_lora(file := tmp_path / "a.safetensors", "transformer", shapes)
    both = styled(small, file)
    found = [both.psnr(steps=steps, batch=batch) for steps, batch in ((1, 1), (2, 3))]
    small.pair.theirs.unload_lora_weights()
    without = both.psnr(steps=1)
    with klein.small_states():
        options = ExportOptions(loras=(Lora(file, SCALE),))
        fused = exported(small.pair.folder / "checkpoint", tmp_path / "fused", options)
    with fused, both.ours as added:
        request = {"prompt": "cats", "seed": 0, "steps": 2, **klein.SIZE}
        pictures = [np.asarray(one.generate(**request).images[0]) for one in (fused, added, small.ours)]
    print(*(f"{one:.1f} dB" for one in found), f"without {without:.1f} dB")
    assert min(found) >= LEAST_DB and without < 40
    assert (pictures[0] == pictures[1]).all() and (pictures[0] != pictures[2]).any()


def test_the_modulations_of_version_0_2_are_fused(small, tmp_path):
    """Its graph of them is one layer, in another order of rows."""
    bundle, width = small.ours.bundle, klein.build_transformer().inner_dim
    model = onnx.load(bundle.path(bundle.manifest.components["time_bias"].file))
    stacked = numpy_helper.from_array(np.zeros((17 * width, width), np.float32), "project.weight")
    kept = [one for one in model.graph.initializer if not one.name.startswith("projections.")]
    del model.graph.initializer[:]
    model.graph.initializer.extend([*kept, stacked])
    folder = shutil.copytree(bundle.folder, tmp_path / "bundle")
    onnx.save(model, folder / "time_bias.onnx")
    manifest = with_table(folder, bundle.manifest)
    older = Bundle(folder, replace(manifest, files={**manifest.files, **record_files(folder, ["time_bias.onnx"])}), "")
    whole, found = read_places(bundle).shapes(), read_places(older)
    assert found.shapes() == whole and not found.of("transformer", "norm_out.linear.weight")
    save_lora(file := tmp_path / "a.safetensors", "transformer", {"norm_out.linear": (2 * width, width)})
    with pytest.raises(BundleError, match=r"norm_out.linear.weight.* in another order; fuse the file"):
        changed_weights(older, [Lora(file)])


def test_a_layer_that_the_model_does_not_have(small, tmp_path):
    tensors = {f"transformer.a.lora_{way}.weight": torch.ones(2, 2) for way in ("A", "B")}
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"changes layers that .* does not have|names that are not known"):
        small.ours.with_loras({tmp_path / "a.safetensors": 1.0})


@sweep
def test_every_layer_of_sd3(tmp_path):
    with (made := sd3.opened_pair(tmp_path)).ours:
        shapes = layers_of(sd3.build_transformer())
        del shapes["proj_out"]
        save_lora(file := tmp_path / "a.safetensors", "transformer", shapes)
        both = styled(made, file)
        found = [both.psnr(steps=steps, batch=batch, guidance=3.0) for steps, batch in ((1, 1), (2, 3))]
        made.pair.theirs.unload_lora_weights()
        print(*(f"{one:.1f} dB" for one in found))
        assert min(found) >= LEAST_DB and both.psnr(steps=1, guidance=3.0) < 60
        save_lora(file, "transformer", {"proj_out": tuple(sd3.build_transformer().proj_out.weight.shape)})
        with pytest.raises(BundleError, match=r"proj_out.weight.* in another order; fuse the file"):
            made.ours.with_loras({file: SCALE})
