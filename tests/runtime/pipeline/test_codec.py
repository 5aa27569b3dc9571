"""The autoencoder alone."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import latentrt
from latentrt.errors import BundleError, RequestError
from tests.runtime.fake import psnr


def test_a_picture_of_the_model_survives(emoji):
    picture = emoji.generate("a red apple", seed=7, steps=4).images[0]
    codec = latentrt.Codec(emoji)
    latents = codec.encode(picture)
    assert latents.shape == (1, 4, picture.height // 8, picture.width // 8)
    assert codec.decode(latents).tobytes() == codec.round_trip(picture).tobytes()
    assert psnr(codec.round_trip(picture), picture) > 30


def test_only_the_autoencoder_is_called(fake, calls):
    latents = latentrt.Codec(fake).encode(Image.new("RGB", (24, 16), "red"))
    np.testing.assert_allclose(latents[0, :, 0, 0] / fake.bundle.manifest.latents.scaling, [1, -1, -1, 0.5], rtol=1e-6)
    latentrt.Codec(fake).decode(latents)
    assert [name for name, _ in calls] == ["vae_encoder", "vae_decoder"]


def test_tiles_give_almost_the_same(emoji):
    picture = emoji.generate("a red apple", seed=7, steps=4).images[0]
    whole, tiled = latentrt.Codec(emoji), latentrt.Codec(emoji, tile=64)
    assert psnr(tiled.round_trip(picture), whole.round_trip(picture)) > 30
    assert latentrt.Codec(emoji, tile=picture.width).encode(picture).tobytes() == whole.encode(picture).tobytes()


def test_tiles_are_called_one_by_one(fake, calls):
    latents = latentrt.Codec(fake, tile=32).encode(Image.new("RGB", (56, 32), "red"))
    assert [feeds["image"].shape for _, feeds in calls] == [(1, 3, 32, 32)] * 2
    latentrt.Codec(fake, tile=32).decode(latents)
    assert [feeds["latents"].shape for _, feeds in calls[2:]] == [(1, 4, 4, 4)] * 2


def test_sides_must_be_multiples(fake):
    with pytest.raises(RequestError, match="image's height: got 17, expected a multiple of 8; the nearest are 16"):
        latentrt.Codec(fake).encode(Image.new("RGB", (24, 17)))


def test_a_bundle_without_an_encoder(fake):
    manifest = fake.bundle.manifest
    components = {name: one for name, one in manifest.components.items() if name != "vae_encoder"}
    fake.bundle = replace(fake.bundle, manifest=replace(manifest, components=components))
    with pytest.raises(BundleError, match="got no vae_encoder, expected both"):
        latentrt.Codec(fake)
