"""A checkpoint given to `latentrt.load`: the encoder in the user's cache gives diffusers' latents."""

import numpy as np
import torch
from click.testing import CliRunner
from PIL import Image

import latentrt
from latentrt.pipeline.codec import Codec
from latentrt_export.cli.export import export
from tests.export.tiny import build_vae


def run(arguments, checkpoint):
    CliRunner().invoke(export, arguments, catch_exceptions=False)


def test_an_autoencoder_s_folder_is_exported_and_encodes(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # In this process, which has imported torch. That the command runs in a process of its own has a test without torch.
    monkeypatch.setattr("latentrt.bundle.auto_export.run", run)
    vae = build_vae()
    vae.save_pretrained(tmp_path / "tiny-vae")
    pixels = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
    with latentrt.load(tmp_path / "tiny-vae", engine="cpu") as pipe:
        latents = Codec(pipe).encode(Image.fromarray(pixels))
        assert pipe.bundle.manifest.name == "tiny-vae"
        assert pipe.bundle.folder.is_relative_to(tmp_path / "cache")
    with torch.no_grad():
        image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1
        expected = vae.encode(image).latent_dist.mean.numpy() * vae.config.scaling_factor
    # w16: weights rounded to half floats, a relative error of 2^-11 each.
    assert np.abs(latents - expected).max() < 1e-2 * np.abs(expected).max()
