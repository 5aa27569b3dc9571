"""Networks that enlarge a picture in one call: ONNX files of ESRGAN's kind, compared with the network in torch."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import Tensor, nn

import latentrt
from latentrt.cli import cli
from latentrt.errors import EngineError, RequestError
from latentrt.pipeline.metadata import read_png


class Network(nn.Module):
    """A residual block of dense convolutions and nearest-neighbour enlarging, as in RRDBNet of Wang et al. (2018).

    unshuffle: pixels per side that are folded into channels first, as Real-ESRGAN's network for a factor of 2 does.
    """

    def __init__(self, doublings: int = 2, unshuffle: int = 1, planes: int = 3) -> None:
        super().__init__()
        self.doublings, self.fold = doublings, nn.PixelUnshuffle(unshuffle)
        self.first = nn.Conv2d(planes * unshuffle**2, 8, 3, padding=1)
        self.dense = nn.ModuleList(nn.Conv2d(8 * (one + 1), 8, 3, padding=1) for one in range(3))
        self.last = nn.Conv2d(8, planes, 3, padding=1)

    def forward(self, picture: Tensor) -> Tensor:
        features = [self.first(self.fold(picture))]
        for layer in self.dense:
            features.append(nn.functional.leaky_relu(layer(torch.cat(features, 1)), 0.2))
        found = features[0] + 0.2 * features[-1]
        for _ in range(self.doublings):
            found = nn.functional.interpolate(found, scale_factor=2.0, mode="nearest")
        return self.last(found) + 0.5


@dataclass
class Saved:
    """A network and its file."""

    network: Network
    file: Path

    def expected(self, picture: Image.Image) -> np.ndarray:
        pixels = torch.from_numpy(np.asarray(picture, np.float32).transpose(2, 0, 1)[None] / 255)
        with torch.no_grad():
            found = self.network(pixels).clamp(0, 1)[0].permute(1, 2, 0).numpy()
        return (found * 255).round().astype(np.uint8)


def save(file: Path, side: int | None = None, half: bool = False, **options: int) -> Saved:
    torch.manual_seed(0)
    network = Network(**options).eval()
    example = torch.rand(1, network.first.in_channels // network.fold.downscale_factor**2, side or 32, side or 32)
    axes = None if side else {"input": {2: "height", 3: "width"}, "output": {2: "rows", 3: "columns"}}
    traced, example = (network.half(), example.half()) if half else (network, example)
    names = {"input_names": ["input"], "output_names": ["output"], "dynamic_axes": axes}
    torch.onnx.export(traced, (example,), str(file), dynamo=False, **names)
    return Saved(network.float(), file)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("networks")


@pytest.fixture(scope="module")
def saved(folder):
    return save(folder / "x4.onnx")


def noise(width, height, mode="RGB"):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 4), np.uint8)
    return Image.fromarray(pixels).convert(mode)


def difference(one, other):
    return np.abs(np.asarray(one, np.int16) - np.asarray(other, np.int16)).max()


pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("size", [(32, 32), (48, 16), (80, 64)])
def test_a_picture_of_one_tile_is_that_of_torch(saved, size):
    done = latentrt.Enlarger(saved.file).enlarge(noise(*size))
    assert done.image.size == (4 * size[0], 4 * size[1])
    assert difference(done.image, saved.expected(noise(*size))) <= 1  # a value at a half may be rounded to either side


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (17, 33)])
def test_any_size_is_enlarged_as_torch_does_away_from_the_border(saved, size):
    done = np.asarray(latentrt.Enlarger(saved.file).enlarge(noise(*size)).image)
    whole = saved.expected(noise(*size))
    assert done.shape == whole.shape
    inner = (slice(0, max(0, 4 * (size[1] - 8))), slice(0, max(0, 4 * (size[0] - 8))))
    assert difference(done[inner], whole[inner]) <= 1 if done[inner].size else True


def test_tiles_are_blended(saved):
    picture = noise(96, 80)
    calls = []
    done = latentrt.Enlarger(saved.file).enlarge(
        picture, tile=48, progress=lambda done, total: calls.append((done, total))
    )
    off = np.abs(np.asarray(done.image, np.float32) - saved.expected(picture))
    assert off.mean() < 0.5  # only the pixels nearest to a tile's border see less than in the whole
    assert calls == [(one, 6) for one in range(1, 7)]


@pytest.mark.parametrize(("options", "factor"), [({"doublings": 1}, 2), ({"doublings": 2, "unshuffle": 2}, 2)])
def test_other_factors(tmp_path, options, factor):
    made = save(tmp_path / "x2.onnx", **options)
    enlarger = latentrt.Enlarger(made.file)
    done = enlarger.enlarge(noise(48, 32))
    assert enlarger.factor == factor and done.image.size == (96, 64)
    assert difference(done.image, made.expected(noise(48, 32))) <= 1
    assert enlarger.enlarge(noise(5, 3)).image.size == (10, 6)


def test_a_network_of_fixed_size_gets_tiles_of_that_size(tmp_path):
    made = save(tmp_path / "fixed.onnx", side=32)
    enlarger = latentrt.Enlarger(made.file)
    assert difference(enlarger.enlarge(noise(32, 32)).image, made.expected(noise(32, 32))) <= 1
    for size in ((5, 70), (70, 33), (3, 2)):
        assert enlarger.enlarge(noise(*size)).image.size == (4 * size[0], 4 * size[1])
    with pytest.raises(RequestError, match="tile: got 48, expected a multiple of 32"):
        enlarger.enlarge(noise(32, 32), tile=48)


def test_half_precision(tmp_path):
    made = save(tmp_path / "half.onnx", half=True)
    done = latentrt.Enlarger(made.file).enlarge(noise(32, 32))
    assert difference(done.image, made.expected(noise(32, 32))) <= 2


def test_passes_transparency_and_metadata(saved, tmp_path):
    enlarger = latentrt.Enlarger(saved.file)
    once = enlarger.enlarge(noise(20, 12, "RGBA"))
    assert (once.image.mode, once.image.size) == ("RGBA", (80, 48))
    twice = enlarger.enlarge(noise(20, 12), times=2)
    assert twice.image.size == (320, 192)
    twice.save(tmp_path / "a.png")
    told = read_png(tmp_path / "a.png")
    assert told["network"]["name"] == "x4.onnx" and len(told["network"]["sha256"]) == 64
    assert (told["width"], told["height"], told["times"]) == (320, 192, 2)
    with pytest.raises(RequestError, match="JPEG"):
        once.save(tmp_path / "a.jpg")


def test_other_files_are_refused(tmp_path):
    grey = save(tmp_path / "grey.onnx", planes=1)
    with pytest.raises(EngineError, match=r"grey.onnx: got input tensor\(float\) .*expected one input and one output"):
        latentrt.Enlarger(grey.file)
    (tmp_path / "text.onnx").write_text("no network")
    with pytest.raises(EngineError, match=r"text.onnx: ONNX Runtime cannot load it"):
        latentrt.Enlarger(tmp_path / "text.onnx")
    with pytest.raises(EngineError, match="got the engine openvino, expected onnxruntime or cuda"):
        latentrt.Enlarger(grey.file, "openvino")


def test_the_command(saved, tmp_path):
    noise(20, 12).save(tmp_path / "in.png")
    command = ["upscale", str(tmp_path / "in.png"), "--bundle", str(saved.file), "--out", str(tmp_path / "out.png")]
    done = CliRunner().invoke(cli, [*command, "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["settings"]["tile"] == 256 and told["seconds"]["network"] > 0
    assert Image.open(tmp_path / "out.png").size == (80, 48)
    refused = CliRunner().invoke(cli, [*command, "--steps", "5"])
    assert "--steps: got 5 with an ONNX file" in str(refused.exception)
