import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latentrt.bundle.folder import Bundle
from latentrt.errors import RequestError
from latentrt.pipeline.metadata import read_png
from latentrt.pipeline.pipeline import Pipeline
from latentrt.request.request import Request
from latentrt.request.settings import resolve
from latentrt.sampling.tiling import DECODED, decoded, decoded_in_tiles, encoded_in_tiles, starts, tile_grid, tiled
from latentrt.tensors import Array
from tests.runtime.fake import named


def blurred(x: Array, _sigma: float = 0.0, _window: Any = None) -> Array:
    """A model that looks around and meets nothing but zeros beyond the edges, as convolutions do."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    rows, columns = x.shape[-2:]
    return sum(padded[..., i : i + rows, j : j + columns] * (1 + i + 3 * j) for i in range(3) for j in range(3)) / 45


def noise(rows: int, columns: int) -> Array:
    return np.random.default_rng(0).standard_normal((2, 3, rows, columns)).astype(np.float32)


@pytest.mark.parametrize(
    ("length", "window", "stride", "wraps", "expected"),
    [
        (24, 16, 4, False, [0, 4, 8]),
        (23, 16, 4, False, [0, 4, 7]),
        (16, 16, 4, False, [0]),
        (9, 16, 4, False, [0]),
        (16, 16, 4, True, [0, 4, 8, 12]),
        (9, 16, 4, True, [0, 4, 8]),
    ],
)
def test_where_windows_start(length: int, window: int, stride: int, wraps: bool, expected: list[int]) -> None:
    assert starts(length, window, stride, wraps=wraps) == expected


@pytest.mark.parametrize("seamless", [None, "x", "y", "xy"])
def test_windows_give_the_mean_of_all_that_show_a_place(seamless: Any) -> None:
    x, windows = noise(7, 11), tile_grid(7, 11, 5, 3, seamless)
    total, count = np.zeros((2, 3, 7, 11)), np.zeros((7, 11))
    for rows, columns in windows:
        seen = blurred(x[:, :, rows.ravel()][..., columns])
        for i, row in enumerate(rows.ravel()):
            for j, column in enumerate(columns):
                total[:, :, row, column] += seen[:, :, i, j]
                count[row, column] += 1
    assert count.min() >= 1
    np.testing.assert_allclose(tiled(blurred, windows)(x, 1.0), total / count, rtol=0, atol=1e-6)


def test_a_window_as_large_as_the_picture_is_the_picture() -> None:
    x = noise(7, 11)
    np.testing.assert_array_equal(tiled(blurred, tile_grid(7, 11, 11, 3, None))(x, 1.0), blurred(x))


@pytest.mark.parametrize(("seamless", "axes"), [("x", (-1,)), ("y", (-2,)), ("xy", (-2, -1))])
def test_what_repeats_has_no_edge(seamless: Any, axes: tuple[int, ...]) -> None:
    """Turned by a stride, the latents give the same picture, turned by as much: where it begins does not show."""
    x, shifts = noise(12, 12), (3,) * len(axes)
    seen = tiled(blurred, tile_grid(12, 12, 9, 3, seamless))
    turned = np.roll(seen(x, 1.0), shifts, axes)
    np.testing.assert_allclose(seen(np.roll(x, shifts, axes), 1.0), turned, rtol=0, atol=1e-6)
    picture = decoded(blurred, x, 1, seamless)
    np.testing.assert_array_equal(
        decoded(blurred, np.roll(x, shifts, axes), 1, seamless), np.roll(picture, shifts, axes)
    )
    assert np.abs(np.roll(blurred(x), shifts, axes) - blurred(np.roll(x, shifts, axes))).max() > 0.1


def test_the_unet_sees_windows_and_the_decoder_the_whole(fake: Pipeline, calls: Any) -> None:
    request = Request("a", steps=2, seed=0, guidance=3.0, width=48, height=24, window=24, stride=8, batch=2)
    [*_, last] = fake.steps(request)
    assert {feeds["sample"].shape for feeds in named(calls, "unet")} == {(4, 4, 3, 3)}
    assert len(named(calls, "unet")) == 2 * 4
    assert last.latents.shape == (2, 4, 3, 6)


def test_a_seamless_picture_is_decoded_with_what_comes_next(fake: Pipeline, calls: Any) -> None:
    [image] = fake.generate("a", steps=1, seed=0, width=48, height=24, seamless="x").images
    [feeds] = named(calls, "vae_decoder")
    assert image.size == (48, 24) and feeds["latents"].shape == (1, 4, 3, 6 + 2 * 8)
    np.testing.assert_array_equal(feeds["latents"][..., :6], np.roll(feeds["latents"][..., 8:14], 2, -1))


def test_a_window_of_the_picture_s_size_changes_nothing(fake: Pipeline) -> None:
    options: dict[str, Any] = {"steps": 3, "seed": 0, "width": 32, "height": 24, "init": Image.new("RGB", (32, 24))}
    assert fake.generate("a", **options, window=32).images == fake.generate("a", **options).images


@pytest.mark.parametrize(
    ("options", "settled"),
    [
        ({}, (None, None, None)),
        ({"window": 64}, (64, 16, None)),
        ({"window": 8}, (8, 8, None)),
        ({"seamless": "y"}, (128, 32, "y")),
        ({"window": 64, "stride": 64, "seamless": "x"}, (64, 64, "x")),
    ],
)
def test_defaults(bundle: Bundle, options: dict[str, Any], settled: Any) -> None:
    settings = resolve(Request("a", **options), bundle.manifest)
    assert (settings.window, settings.stride, settings.seamless) == settled


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"stride": 8}, "stride: got 8 without window"),
    ({"window": 100}, "window: got 100, expected a multiple of 8; the nearest are 96 or 104"),
    ({"window": 64, "stride": 20}, "stride: got 20, expected a multiple of 8"),
    ({"window": 64, "stride": 72}, "stride: got 72, expected at most 64, the side of a tile; more leaves gaps"),
    ({"window": 0}, "window: got 0, expected a whole number of at least 1"),
    ({"seamless": "yx"}, "seamless: got 'yx', expected one of x, y, xy"),
    ({"seamless": True}, "seamless: got True, expected one of x, y, xy"),
]


@pytest.mark.parametrize(("options", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_what_is_refused(bundle: Bundle, options: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError) as caught:
        resolve(Request("a", **options), bundle.manifest)
    assert said in str(caught.value)


def test_a_picture_says_how_it_was_seen(fake: Pipeline, tmp_path: Path) -> None:
    result = fake.generate("a", steps=1, seed=0, width=32, height=24, window=16, seamless="xy")
    result.save(tmp_path / "x.png")
    record = read_png(tmp_path / "x.png")
    assert (record["window"], record["stride"], record["seamless"]) == (16, 8, "xy")
    with Image.open(tmp_path / "x.png") as image:
        assert ", Tiling: True, Version: " in image.text["parameters"]  # type: ignore[attr-defined]
    fields = {key: value for key, value in record.items() if key not in ("version", "bundle", "engine")}
    assert fake.generate(**fields).images == result.images


def painted(latents: Array) -> Array:
    """A decoder of 2 pixels per latent that depends on its place alone."""
    return np.tanh(latents).repeat(2, axis=2).repeat(2, axis=3)


@pytest.mark.parametrize("sides", [(DECODED, 8), (129, 8), (8, 225), (150, 131), (12, 300)])
def test_tiles_of_a_decoder_that_sees_one_latent_are_the_picture(sides: tuple[int, int]) -> None:
    sizes: list[tuple[int, ...]] = []

    def noted(latents: Array) -> Array:
        sizes.append(latents.shape)
        return painted(latents)

    latents = noise(*sides)
    np.testing.assert_allclose(decoded_in_tiles(noted, latents, 2), painted(latents), atol=1e-6)
    assert max(max(shape[-2:]) for shape in sizes) <= DECODED
    assert (len(sizes) == 1) == (max(sides) <= DECODED)


@pytest.mark.parametrize("tile", [4, 7, 16])
@pytest.mark.parametrize("sides", [(16, 8), (17, 8), (5, 33)])
def test_tiles_of_an_autoencoder_that_sees_one_latent_are_the_whole(sides: tuple[int, int], tile: int) -> None:
    sizes: list[tuple[int, ...]] = []

    def halved(image: Array) -> Array:
        sizes.append(image.shape[-2:])
        return np.repeat(image[:, :1, ::2, ::2], 5, axis=1)

    latents = noise(*sides)
    image = painted(latents)[:, :3]
    np.testing.assert_allclose(encoded_in_tiles(halved, image, 2, tile), halved(image), atol=1e-6)
    np.testing.assert_allclose(decoded_in_tiles(painted, latents, 2, tile), painted(latents), atol=1e-6)
    assert all(max(one) <= 2 * tile for one in sizes[:-1])


def test_tiles_that_differ_are_blended_without_a_step() -> None:
    heights = itertools.count()

    def rising(latents: Array) -> Array:
        return np.full_like(painted(latents), next(heights))

    picture = decoded_in_tiles(rising, noise(1, 320), 2)
    assert (picture[..., 0], picture[..., -1]) == (pytest.approx(0), pytest.approx(2))
    assert np.diff(picture[0, 0, 0]).min() >= 0
    assert np.diff(picture[0, 0, 0]).max() < 0.04
