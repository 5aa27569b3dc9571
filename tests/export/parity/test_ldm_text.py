"""The latent diffusion paper's text-to-image models draw what diffusers' LDMTextToImagePipeline draws."""

import itertools
from contextlib import ExitStack
from functools import cache

import pytest
from diffusers import PNDMScheduler

from latentrt.request.request import Request
from tests.export import ldm_text
from tests.export.pairs import PROMPT, SIZE
from tests.sweep import sweep

pytestmark = [pytest.mark.usefixtures("one_thread"), sweep]

LEAST_DB = 100.0
BETAS = {"beta_start": 0.0015, "beta_end": 0.0195, "beta_schedule": "scaled_linear"}
PNDM = PNDMScheduler(**BETAS, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Makes a model's pair, once."""
    with ExitStack() as opened:

        @cache
        def pair(name):
            made = ldm_text.opened_pair(name, tmp_path_factory.mktemp(name))
            opened.enter_context(made.ours)
            return made

        yield pair


@pytest.mark.parametrize(("counts", "guidance"), ldm_text.CASES)
@pytest.mark.parametrize("name", ldm_text.MODELS)
def test_draws_what_diffusers_draws(pairs, name, counts, guidance):
    steps, batch = counts
    found = ldm_text.drawn(pairs(name), batch, steps=steps, guidance=guidance)
    print(f"{found:.1f} dB")
    assert found >= LEAST_DB


@pytest.mark.parametrize(("steps", "name"), [(2, "ldm-text-256"), (20, "ldm-text-large")])
def test_plms(pairs, name, steps):
    found = ldm_text.drawn(pairs(name).with_scheduler(PNDM), steps=steps, guidance=5.0)
    print(f"{found:.1f} dB")
    assert found >= LEAST_DB


@pytest.mark.parametrize("prompt", [" ", "É猫 [SEP] e" + "e" * 120, "apple " * 75], ids=["empty", "odd", "full"])
def test_prompts_that_are_empty_odd_or_as_long_as_a_row(pairs, prompt):
    found = ldm_text.drawn(pairs("ldm-text-large"), prompt=prompt, guidance=5.0)
    print(f"{found:.1f} dB")
    assert found >= LEAST_DB


def test_the_prompt_changes_the_picture(pairs):
    pair = pairs("ldm-text-large")
    found = ldm_text.drawn(pair, guidance=5.0), pair.psnr(PROMPT, guidance=5.0, theirs={"prompt": "a green tree"})
    print("{:.1f} dB, of another prompt {:.1f}".format(*found))
    assert found[0] > found[1] + 50


def test_defaults_are_the_papers_and_more_options_work(pairs):
    ours = pairs("ldm-text-256").ours
    defaults = ours.bundle.manifest.defaults
    assert (defaults.sampler, defaults.steps, defaults.guidance, defaults.width) == ("ddim", 50, 5.0, 32)
    text = "a (red:1.3) apple BREAK on a tree, " + "apple " * 90
    request = Request(text, negative="blue", steps=2, seed=0, clip_skip=2, sampler="dpmpp_2m", **SIZE)
    *_, last = itertools.islice(ours.steps(request), 2)
    assert last.latents.shape == (1, 3, SIZE["height"] // 4, SIZE["width"] // 4)
