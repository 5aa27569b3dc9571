"""What a quantized component says of itself: shares, its place in bundle.json, and its lines in `inspect`."""

import json
from dataclasses import replace

import pytest

from latentrt.bundle.manifest_json import read, write
from latentrt.bundle.quantization import LayerLoss, PictureLoss, Quantization
from latentrt.cli.inspect import lines_of
from latentrt.storage.json_codec import TypedError

LAYERS = (
    LayerLoss("conv_in", 10, "the first convolution", None),
    LayerLoss("down.conv", 70, None, 31.5),
    LayerLoss("down.to_q", 20, None, 42.0),
)
LOSS = PictureLoss(100, 31.24, 25.01, 0.98765, 0.9, (0.01, 0.02))
QUANTIZED = Quantization("cpu", "0" * 64, {"images": 32, "range": "mse", "share": 0.5}, 200, 12_500_000, LAYERS, LOSS)


@pytest.fixture
def quantized(bundle):
    """The built-in bundle, its UNet quantized by its own account."""
    unet = replace(bundle.manifest.components["unet"], precision="int8", quantization=QUANTIZED)
    return replace(bundle, manifest=replace(bundle.manifest, components={**bundle.manifest.components, "unet": unet}))


def test_shares_are_of_multiply_adds():
    assert (QUANTIZED.share_of_layers, QUANTIZED.share_of_graph) == (0.9, 0.45)


def test_a_graph_without_layers_has_no_share():
    nothing = replace(QUANTIZED, layers=(), macs=0)
    assert (nothing.share_of_layers, nothing.share_of_graph) == (0, 0)


def test_the_manifest_carries_it(quantized):
    assert read(write(quantized.manifest)) == quantized.manifest
    assert write(read(write(quantized.manifest))) == write(quantized.manifest)


@pytest.mark.parametrize("precision", ["int8", "w8"])
def test_a_quantized_precision_needs_no_figures(bundle, precision):
    document = json.loads(write(bundle.manifest))
    document["components"]["unet"]["precision"] = precision
    unet = read(json.dumps(document)).components["unet"]
    assert (unet.precision, unet.quantization) == (precision, None)


def test_bytes_in_eight_bits_are_read_from_where_0_2_0_wrote_them(quantized):
    components = quantized.manifest.components
    unet = replace(components["unet"], precision="w4", eight_bit_bytes=1234)
    manifest = replace(quantized.manifest, components={**components, "unet": unet})
    document = json.loads(write(manifest))
    assert document["components"]["unet"]["eight_bit_bytes"] == 1234
    figures = document["components"]["unet"]["quantization"]
    figures["eight_bit_bytes"] = document["components"]["unet"].pop("eight_bit_bytes")
    assert read(json.dumps(document)) == manifest


def test_components_that_are_not_quantized_have_no_entry(quantized):
    components = json.loads(write(quantized.manifest))["components"]
    assert [name for name, component in components.items() if "quantization" in component] == ["unet"]


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("colour", 1, ".components.unet.quantization.colour: unknown key"),
        ("macs", "many", ".components.unet.quantization.macs: got 'many', expected an integer"),
        ("settings", {"a": []}, ".components.unet.quantization.settings.a: got []"),
        ("layers", [{"name": "x"}], ".components.unet.quantization.layers[0].macs: missing"),
    ],
)
def test_it_is_read_as_strictly_as_the_rest(quantized, key, value, said):
    document = json.loads(write(quantized.manifest))
    document["components"]["unet"]["quantization"][key] = value
    with pytest.raises(TypedError) as caught:
        read(json.dumps(document))
    assert str(caught.value).startswith(said)


def test_inspect_tells_share_and_loss(quantized):
    lines = list(lines_of(quantized))
    (place,) = (index for index, line in enumerate(lines) if line.startswith("unet  int8  "))
    assert lines[place + 1 : place + 3] == [
        "  for cpu: 90.0% of its layers' MACs in INT8, 45.0% of all; 1 of 3 layers in float; before 12.5 MB",
        "  pictures: PSNR 31.2 dB, worst 25.0; SSIM 0.9877, worst 0.9000; 100 pictures, 2 steps",
    ]


def test_inspect_tells_when_nothing_differs(quantized):
    same = replace(QUANTIZED, loss=replace(LOSS, psnr_db=None, worst_psnr_db=None, ssim=1.0, worst_ssim=1.0))
    components = {"unet": replace(quantized.manifest.components["unet"], quantization=same)}
    some = replace(quantized.manifest, components=components)
    assert "  pictures: none of 100 differs" in list(lines_of(replace(quantized, manifest=some)))
