"""T2I-Adapters as modules, what a UNet of several levels makes of their features, and adapters that do not fit.

Pictures are held against diffusers' pipelines in test_controls.py and test_families.py.
"""

import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel

from latentrt.errors import CheckpointError
from latentrt.tensors import TensorSpec, shape_of
from latentrt_export.checkpoint.adapters import with_adapters
from latentrt_export.checkpoint.load import load_checkpoint
from latentrt_export.checkpoint.named import NamedNetwork, check_names
from latentrt_export.graph.trace import trace
from latentrt_export.networks.adapter_network import AdapterNetwork, feature_specs, features_of, places_of
from latentrt_export.networks.hoist import CrossKV, HoistedUNet
from latentrt_export.networks.residuals import layout_of, residual_specs
from latentrt_export.networks.time_bias import TimeBias
from tests.export import tiny
from tests.export.adapters import build_adapter
from tests.export.tiny_families import UNET

LEVELS = {**UNET, "block_out_channels": (32, 64, 64)}
ATTENDS, PLAIN = "CrossAttn{}Block2D", "{}Block2D"
UNETS = {"light": (ATTENDS, ATTENDS, PLAIN), "xl_middle": (PLAIN, ATTENDS, ATTENDS)}


def unet_of(name):
    """A UNet of three levels that an adapter fits."""
    kinds = UNETS[name]
    blocks = {
        "down_block_types": tuple(kind.format("Down") for kind in kinds),
        "up_block_types": tuple(kind.format("Up") for kind in reversed(kinds)),
    }
    return tiny.seeded(lambda: UNet2DConditionModel(**{**LEVELS, **blocks}))


@pytest.mark.parametrize("name", ["depth", "sketch", "light", "xl", "xl_middle"])
@pytest.mark.parametrize(("height", "width"), [(56, 80), (24, 40)])
def test_features_are_those_of_diffusers_with_zeros_beyond_the_image(name, height, width):
    network, random = build_adapter(name), torch.Generator().manual_seed(0)
    image = torch.rand(2, network.config.in_channels, height, width, generator=random)
    expected = network(F.pad(image, (0, -width % network.downscale_factor, 0, -height % network.downscale_factor)))
    sizes = {"batch": 2, "height": height // 8, "width": width // 8}
    specs = feature_specs(features_of(network, 8))
    got = AdapterNetwork(network, 8)(image)
    assert [tuple(one.shape) for one in got] == [shape_of(spec, sizes) for spec in specs]
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", UNETS)
def test_a_unet_of_three_levels_takes_features_where_diffusers_does(name):
    unet, random = unet_of(name), torch.Generator().manual_seed(0)
    found = features_of(build_adapter(name), 8)
    assert found in (places_of(unet), places_of(unet)[:-1])
    sizes = {"batch": 2, "height": 9, "width": 12}
    features = [torch.randn(shape_of(spec, sizes), generator=random) for spec in feature_specs(found)]
    sample, context = torch.randn(2, 4, 9, 12, generator=random), torch.randn(2, 5, 32, generator=random)
    with torch.no_grad():
        expected, plain = (
            unet(sample, torch.tensor([7, 7]), context, down_intrablock_additional_residuals=added).sample
            for added in ([one.clone() for one in features], None)
        )
        time_bias, cross_kv = TimeBias(unet)(torch.tensor([7.0, 7.0])), CrossKV(unet)(context)
        got = HoistedUNet(unet, features=len(features))(sample, time_bias, cross_kv, *features)
    assert (expected - plain).abs().max() > 0.1
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)


def test_shapes_inside_a_unet_that_images_steer_are_those_of_its_levels():
    """What comes in for a level, "height/4", is what the convolutions down to it make of the height."""
    unet = unet_of("light")
    layout, features = layout_of(unet), places_of(unet)[:-1]
    kv, bias = CrossKV(unet).project.out_features, TimeBias(unet).project.out_features
    inputs = (
        TensorSpec("sample", "float32", ("batch", 4, "height", "width")),
        TensorSpec("time_bias", "float32", ("batch", bias)),
        TensorSpec("cross_kv", "float32", ("batch", "tokens", kv)),
        *residual_specs(layout),
        *feature_specs(features),
    )
    output = TensorSpec("prediction", "float32", ("batch", 4, "height", "width"))
    model = trace(HoistedUNet(unet, layout, len(features)), inputs, (output,))
    shapes = {str(value.shape[2]) for node in model.graph for value in node.outputs if len(value.shape or ()) == 4}
    assert {side for side in shapes if "height" in side and "*" not in side} == {
        "height",
        "floor(height/2 - 1/2) + 1",
        "floor(floor(height/2 - 1/2)/2) + 1",
    }


def test_adapters_that_do_not_fit_and_names_that_two_have(tmp_path):
    tiny.save_diffusers_folder(tmp_path / "checkpoint")
    checkpoint = load_checkpoint(tmp_path / "checkpoint")
    build_adapter("xl").save_pretrained(tmp_path / "xl")
    for path, message in (
        (tmp_path / "xl", r"channels \(\(1, 32\), \(1, 64\)\), expected \(\(0, 32\), \(1, 64\)\)"),
        (tmp_path / "nothing", "no T2I-Adapter at"),
        (tmp_path / "checkpoint" / "unet", "does not fit its config"),
    ):
        with pytest.raises(CheckpointError, match=message):
            with_adapters(checkpoint, [NamedNetwork("depth", path)])
    with pytest.raises(CheckpointError, match="got the name 'depth'"):
        check_names([NamedNetwork("depth", tmp_path / "one"), NamedNetwork("depth", tmp_path / "other")])
