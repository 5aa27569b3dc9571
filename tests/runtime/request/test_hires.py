from dataclasses import replace
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
from latentrt.sampling.noise.torch_cpu import TorchGenerator
from latentrt.sampling.resize import bilinear
from tests.runtime.fake import named, pipeline_of

ASKED: dict[str, Any] = {"seed": 0, "steps": 4, "width": 32, "height": 24, "hires": 1.5}


@pytest.mark.parametrize("upscaler", ["latent", "lanczos"])
def test_two_passes_are_one_run(fake: Pipeline, calls: Any, upscaler: Any) -> None:
    run = fake.steps(Request("a", **ASKED, hires_steps=6, hires_upscaler=upscaler, batch=2))
    steps = list(run)
    assert [step.index for step in steps] == [*range(7)] and {step.total for step in steps} == {run.total} == {7}
    assert [step.latents.shape for step in steps] == [(2, 4, 3, 4)] * 4 + [(2, 4, 4, 6)] * 3
    assert steps[-1].preview().size == (6, 4)
    assert [image.size for image in run.result.images] == [(48, 32)] * 2
    assert run.result.seeds == (0, 1) and (run.settings.width, run.settings.height) == (32, 24)
    counts = {name: len(named(calls, name)) for name in ("vae_encoder", "vae_decoder")}
    assert counts == (
        {"vae_encoder": 0, "vae_decoder": 2} if upscaler == "latent" else {"vae_encoder": 2, "vae_decoder": 4}
    )


def test_sides_are_multiples_of_more_latents_where_the_model_needs_them(fake: Pipeline) -> None:
    manifest = fake.bundle.manifest
    latents = replace(manifest.latents, multiple=2)
    fake.bundle = replace(fake.bundle, manifest=replace(manifest, latents=latents))
    steps = list(fake.steps(Request("a", **{**ASKED, "height": 32})))
    assert [step.latents.shape for step in steps] == [(1, 4, 4, 4)] * 4 + [(1, 4, 6, 6)] * 2


def test_the_second_pass_starts_from_the_first_one_s_latents_with_noise_of_its_own_size(
    fake: Pipeline, calls: Any
) -> None:
    steps = list(fake.steps(Request("a", **ASKED, guidance=1.0)))
    noise, sigma = TorchGenerator(0).randn((4, 4, 6)), steps[4].sigma
    expected = (bilinear(steps[3].latents, 4, 6) + sigma * noise) / np.hypot(1, sigma)
    np.testing.assert_allclose(named(calls, "unet")[4]["sample"], expected, rtol=0, atol=1e-6)


def test_a_run_that_is_left_alone_stops(fake: Pipeline, calls: Any) -> None:
    run = fake.steps(Request("a", **ASKED))
    for step in run:
        if step.index == 4:
            break
    assert len(named(calls, "unet")) == 5 and not named(calls, "vae_decoder")
    with pytest.raises(RuntimeError, match="not finished"):
        _ = run.result


def test_a_picture_says_how_it_was_made_larger(fake: Pipeline, tmp_path: Path) -> None:
    result = fake.generate("a", **ASKED, hires_upscaler="lanczos", hires_strength=0.75)
    result.save(tmp_path / "x.png")
    record = read_png(tmp_path / "x.png")
    assert [record[name] for name in ("hires", "hires_steps", "hires_strength")] == [1.5, 4, 0.75]
    with Image.open(tmp_path / "x.png") as image:
        text = image.text["parameters"]  # type: ignore[attr-defined]
    assert ", Denoising strength: 0.75, Hires upscale: 1.5, Hires steps: 4, Hires upscaler: Lanczos, " in text
    fields = {key: value for key, value in record.items() if key not in ("version", "bundle", "engine")}
    assert fake.generate(**fields).images == result.images


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"hires_steps": 3}, "hires_steps: got 3 without hires; give hires too"),
    ({"hires_upscaler": "lanczos"}, "hires_upscaler: got 'lanczos' without hires"),
    ({"hires": 0.5}, "hires: got 0.5, expected a number from 1 to 16"),
    ({"hires": 2.0, "hires_strength": 1.5}, "hires_strength: got 1.5, expected a number from 0 to 1"),
    (
        {"hires": 2.0, "hires_steps": 3, "hires_strength": 0.3},
        "hires_strength: got 0.3 with 3 steps, which leaves none",
    ),
    ({"hires": 2.0, "hires_upscaler": "esrgan"}, "hires_upscaler: got 'esrgan', expected one of latent, lanczos"),
    ({"hires": 2.0, "init": Image.new("RGB", (8, 8))}, "hires: got it and init, expected one of the two"),
    ({"hires": 2.0, "latents": np.zeros((1, 4, 2, 2))}, "hires: got it and latents, expected one of the two"),
    ({"hires": 2.0, "end": 0.5}, "hires: got it and end, expected one of the two"),
    (
        {"hires": 2.0, "steps": 2, "guidance": (1.0, 2.0), "hires_steps": 3},
        "hires_steps: got 3 with guidance for each of",
    ),
]


@pytest.mark.parametrize(("options", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_what_is_refused(bundle: Bundle, options: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError) as caught:
        resolve(Request("a", **options), bundle.manifest)
    assert said in str(caught.value)


def test_sides_in_latents_may_have_to_be_multiples(bundle: Bundle, calls: Any) -> None:
    manifest = replace(bundle.manifest, latents=replace(bundle.manifest.latents, multiple=2))
    pipeline = pipeline_of(replace(bundle, manifest=manifest), calls)
    steps = list(pipeline.steps(Request("a", seed=0, steps=2, width=32, height=48, hires=1.5)))
    assert steps[-1].latents.shape == (1, 4, 8, 6)
    with pytest.raises(RequestError, match=r"height: got 24, expected a multiple of 16; the nearest are 16 or 32"):
        pipeline.steps(Request("a", width=32, height=24))
