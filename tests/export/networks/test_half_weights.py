"""Weights held in half precision while they are exported: the same numbers, in half the memory."""

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnxruntime import InferenceSession

from latentrt.bundle.folder import open_bundle
from latentrt.errors import FidelityError
from latentrt_export.checkpoint import load
from latentrt_export.checkpoint.load import load_checkpoint
from latentrt_export.export import ExportOptions, export
from tests.export import klein, pixart
from tests.sweep import sweep

pytestmark = sweep

KINDS = {"klein": (klein, ("text_encoder", "transformer")), "pixart": (pixart, ("text_encoder",))}


@pytest.fixture(scope="module", params=KINDS)
def exported(request, tmp_path_factory):
    """A small checkpoint of a kind, its bundle in w16, and the one that is made with weights held in float32."""
    kind, names = KINDS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch, klein.small_states():
        kind.reference().save_pretrained(folder / "checkpoint")
        export(folder / "checkpoint", folder / "halves", ExportOptions("w16"))
        patch.setattr(load, "may_hold_halves", lambda *_: False)
        export(folder / "checkpoint", folder / "singles", ExportOptions("w16"))
    return folder, names


def outputs(folder, name):
    """What a component makes of fixed random inputs."""
    component = open_bundle(folder).manifest.components[name]
    random, sizes = np.random.default_rng(0), {"batch": 2, "tokens": 7, "height": 4, "width": 6, "n": 2}
    feeds = {}
    for spec in component.inputs:
        shape = [sizes.get(axis, axis) for axis in spec.shape]
        feeds[spec.name] = random.integers(1, 9, shape) if spec.dtype == "int64" else random.normal(size=shape)
        feeds[spec.name] = feeds[spec.name].astype(spec.dtype)
    return InferenceSession(folder / component.file).run(None, feeds)


def test_the_graphs_compute_the_same(exported):
    folder, names = exported
    for name in names:
        for got, expected in zip(outputs(folder / "halves", name), outputs(folder / "singles", name), strict=True):
            np.testing.assert_array_equal(got, expected)


def test_the_files_are_alike(exported):
    folder, names = exported
    for name in names:
        sizes, kinds = [], []
        for made in ("halves", "singles"):
            path = folder / made / f"{name}.onnx"
            constants = [value.const_value for value in ir.load(path).graph.initializers.values()]
            sizes.append(path.stat().st_size)
            kinds.append(sorted((str(one.dtype), tuple(one.shape)) for one in constants if one.size > 16))
        assert kinds[0] == kinds[1]
        assert sizes[0] == pytest.approx(sizes[1], rel=0.05)


def test_a_module_holds_half_the_bytes(exported):
    folder, names = exported
    with klein.small_states():
        checkpoint = load_checkpoint(folder / "checkpoint")
    for name in names:
        whole, halved = checkpoint.components[name].load(), checkpoint.in_halves().components[name].load()
        linear = [one.weight for one in whole.modules() if isinstance(one, torch.nn.Linear)]
        saved = sum(one.numel() * 2 for one in linear)
        bytes_of = [sum(one.numel() * one.element_size() for one in made.parameters()) for made in (whole, halved)]
        assert saved and bytes_of[0] - bytes_of[1] == saved


def test_a_weight_beyond_the_range_is_refused(tmp_path):
    made = klein.reference()
    made.transformer.single_transformer_blocks[0].attn.to_out.weight.data[0, 0] = 70_000.0
    made.save_pretrained(tmp_path / "checkpoint")
    with klein.small_states(), pytest.raises(FidelityError, match=r"to_out.*at most 65504.*--precision fp32"):
        export(tmp_path / "checkpoint", tmp_path / "out", ExportOptions("w16"))
    assert not (tmp_path / "out").exists()
