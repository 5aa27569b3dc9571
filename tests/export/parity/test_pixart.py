"""PixArt models draw what diffusers' PixArtSigmaPipeline draws."""

from dataclasses import replace

import pytest
from diffusers import DDIMScheduler, EulerDiscreteScheduler

import latentrt
from latentrt.request.request import Request
from tests.export import pixart
from tests.export.controls import noise
from tests.export.pixart import PROMPT, SIZE

pytestmark = pytest.mark.usefixtures("one_thread")

LEAST_DB = 100.0
EMPTY = " "  # of which nothing is left, as of an empty prompt
LONG = "two cats on a table at dawn, " * 12


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The small model on both sides."""
    made = pixart.opened_pair(tmp_path_factory.mktemp("pixart"))
    with made.ours:
        yield made


@pytest.mark.parametrize("guidance", [1.0, 4.5])
@pytest.mark.parametrize(("steps", "batch"), [(1, 1), (4, 3), (20, 1)])
def test_draws_what_diffusers_draws(pair, steps, batch, guidance):
    found = pair.psnr(batch=batch, steps=steps, guidance=guidance)
    print(f"{found:.1f} dB")
    assert found >= LEAST_DB


@pytest.mark.parametrize("steps", [1, 4, 20])
def test_every_step_has_the_latents_of_diffusers(pair, steps):
    found = pair.steps(steps=steps, guidance=4.5, negative="fog")
    print(f"{min(found):.1f} dB")
    assert len(found) == steps and min(found) >= LEAST_DB


@pytest.mark.parametrize(
    ("prompt", "negative"),
    [(PROMPT, "an oil painting, fog"), (EMPTY, ""), (EMPTY, "fog in the valley"), ("cats", LONG), (LONG, "")],
    ids=["two lengths", "empty", "only a negative", "long negative", "long"],
)
def test_prompts_of_any_length(pair, prompt, negative):
    found = pair.psnr(prompt, steps=2, guidance=4.5, negative=negative)
    print(f"{found:.1f} dB")
    assert found >= LEAST_DB


def test_the_prompt_and_its_emphasis_change_the_picture(pair):
    """Both sides read the same prompt, so that equal pictures would say nothing of it if it changed none."""
    other = pair.pair.psnr(PROMPT, guidance=4.5, theirs=pixart.calls("fog", 1), **SIZE)
    request = Request("A (photograph:1.5) of cats", steps=2, seed=0, **SIZE)
    first, second = (list(pair.ours.steps(one))[-1].latents for one in (request, plain(request)))
    print(f"{other:.1f} dB")
    assert other < LEAST_DB - 50 and abs(first - second).max() > 1e-3


def plain(request):
    """The request without emphasis."""
    return Request("A photograph of cats", steps=request.steps, seed=0, **SIZE)


@pytest.mark.parametrize(
    "scheduler",
    [EulerDiscreteScheduler(), DDIMScheduler(clip_sample=False, set_alpha_to_one=False)],
    ids=["euler", "ddim"],
)
def test_other_samplers(pair, scheduler):
    made = replace(pair, pair=pair.pair.with_scheduler(scheduler))
    found = made.psnr(steps=3, guidance=4.5)
    print(f"{found:.1f} dB")
    assert found >= LEAST_DB


def test_openvino_draws_the_same_after_a_call_with_one_token(pair):
    folder = pair.pair.folder / "bundle"
    with latentrt.load(folder, engine="openvino") as ours:
        theirs = replace(pair, pair=replace(pair.pair, ours=ours))
        found = [theirs.psnr(prompt, steps=2, guidance=4.5) for prompt in (EMPTY, PROMPT, "cats")]
    print(*(f"{one:.1f} dB" for one in found))
    assert min(found) >= LEAST_DB


def test_prompts_joined_by_and_keep_their_lengths(pair):
    """Without guidance the weighted mean of two prompts' predictions is that of one, if both are the same text."""
    both = Request("cats AND cats :0", steps=2, seed=0, guidance=1.0, **SIZE)
    longer = Request("cats AND two cats on a wooden table :0", steps=2, seed=0, guidance=1.0, **SIZE)
    first, second = (list(pair.ours.steps(one))[-1].latents for one in (both, longer))
    assert abs(first - second).max() < 1e-5


def test_an_image_is_where_a_run_starts(pair):
    """diffusers has no pipeline for it: the loop is that of its others, around the same modules."""
    image = noise(**SIZE)
    request = Request("cats", init=image, strength=0.5, steps=8, seed=5, guidance=1.0, **SIZE)
    *_, last = pair.ours.steps(request)
    found = pixart.psnr_of(last.latents, pixart.from_image(pair.pair.theirs, image, request).numpy())
    print(f"{found:.1f} dB")
    assert found >= LEAST_DB


def test_the_bundle_says_how_each_input_is_made(pair):
    manifest = pair.ours.bundle.manifest
    transformer = manifest.components[manifest.denoiser]
    assert {name: (source.kind, source.per) for name, source in transformer.sources.items()} == {
        "sample": ("latents", ("step", "row")),
        "time_bias": ("component", ("step",)),
        "cross_kv": ("component", ("prompt",)),
        "positions": ("positions", ("run",)),
    }
    assert manifest.text is not None and not manifest.text.padded and manifest.tokenizer.bos is None
    assert manifest.defaults.guidance == 4.5 and manifest.latents.pixel_multiple == 16
