"""A UNet that a ControlNet steers: calibrated on pictures without one, it takes in 8 bits what the network adds."""

from dataclasses import replace

import pytest

import latentrt
from latentrt.bundle.catalog import folder_of
from latentrt.bundle.folder import open_bundle
from latentrt.request.control import Control
from latentrt_calib.calibrate import calibrate
from latentrt_export.components.denoiser import unet_parts
from latentrt_export.components.steering import Steering
from latentrt_export.export import write_component
from latentrt_export.step_cache import without_step_cache
from tests.calib.small import OPTIONS
from tests.export import tiny
from tests.export.controls import build_controlnet, noise
from tests.export.parts import written
from tests.export.tiny_families import SMALL_UNET
from tests.one_thread import one_thread
from tests.runtime.fake import psnr

CONFIG = {**SMALL_UNET, "cross_attention_dim": 256}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The built-in model with a small UNet and its ControlNet, and that quantized."""
    path = tmp_path_factory.mktemp("steered")
    (path / "float").mkdir()
    source, unet = open_bundle(folder_of("emoji"), verify=False), tiny.build_unet(**CONFIG)
    with one_thread():
        parts = unet_parts(unet, steering=Steering({"canny": build_controlnet(unet)}))
        made = {part.name: write_component(part, path / "float", "w16", lambda line: None) for part in parts}
        written(path / "float", source, {**without_step_cache(source.manifest).components, **made})
        options = replace(OPTIONS, images=1, evaluations=1, vae_gate_db=None)
        calibrate(path / "float", path / "int8", "int8", options)
    return path / "float", path / "int8"


def test_the_quantized_unet_takes_what_the_network_adds(folders):
    before, after = (open_bundle(folder).manifest.components for folder in folders)
    assert after["unet"].precision == "int8" and after["unet"].inputs == before["unet"].inputs
    assert {name for name in before if after[name] != before[name]} == {"unet"}


def test_pictures_that_it_steers_stay(folders):
    controls = [Control("canny", noise(128, 128), 0.5)]
    drawn = {}
    for folder in folders:
        with latentrt.load(folder) as pipe:
            for kind, how in (("plain", ()), ("steered", controls)):
                [drawn[folder.name, kind]] = pipe.generate("a rocket", steps=2, seed=0, controls=how).images
    losses = {kind: psnr(drawn["int8", kind], drawn["float", kind]) for kind in ("plain", "steered")}
    effect = psnr(drawn["int8", "steered"], drawn["int8", "plain"])
    print({kind: f"{loss:.1f} dB" for kind, loss in losses.items()}, f"apart {effect:.1f} dB")
    assert losses["steered"] > 25 and losses["steered"] > effect + 6
