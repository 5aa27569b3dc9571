import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

import latentrt
from latentrt.bundle.tasks import DECODER
from latentrt.errors import BundleError, EngineError, RequestError
from latentrt.pipeline.load import check_complete
from latentrt.request.request import Request
from tests.runtime.fake import ANSWERS, named


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("sampler", ["ddim", "heun", "dpmpp_sde"])
def test_steps_come_in_order_and_the_result_last(fake, sampler, steps):
    run = fake.steps(Request("a", steps=steps, seed=0, sampler=sampler, width=24, height=16, batch=2))
    for index in range(steps):
        with pytest.raises(RuntimeError, match="not finished"):
            _ = run.result
        step = next(run)
        assert (step.index, step.total) == (index, steps)
        assert step.latents.shape == step.denoised.shape == (2, 4, 2, 3)
        assert step.latents.dtype == step.denoised.dtype == np.float32
    with pytest.raises(RuntimeError, match="iterate over it to the end"):
        _ = run.result
    with pytest.raises(StopIteration):
        next(run)
    assert [image.size for image in run.result.images] == [(24, 16)] * 2
    assert run.result.images[0].mode == "RGB"
    assert (run.result.engine, run.result.bundle) == ("fake", "emoji")
    phases = {"prompt", "text_encoder", "cross_kv", "time_bias", "sampler", "unet", "vae_decoder", "image"}
    assert run.result.timings.keys() == phases
    with pytest.raises(StopIteration):
        next(run)


def test_timesteps_and_sigmas_of_the_steps_go_down(fake):
    steps = list(fake.steps(Request("a", steps=5, width=16, height=16)))
    assert [step.timestep for step in steps] == [999, 799, 599, 399, 199]
    assert math.isinf(steps[0].sigma)
    assert all(after.sigma < before.sigma for before, after in itertools.pairwise(steps))


def test_a_bad_request_is_refused_before_anything_runs(fake, calls):
    with pytest.raises(RequestError, match="steps"):
        fake.steps(Request("a", steps=0))
    with pytest.raises(RequestError, match="width: got 100"):
        fake.steps(Request("a", width=100))
    with pytest.raises(RequestError, match="^steps: got 60, expected at most 50"):
        fake.steps(Request("a", sampler="lcm", steps=60))
    with pytest.raises(RequestError, match="^prompt: character 3: got '\\(' that is never closed"):
        fake.steps(Request("a (cat"))
    with pytest.raises(RequestError, match="^negative prompt: character 1: got '\\)' that was never opened"):
        fake.steps(Request("a", negative=")"))
    assert calls == []


@pytest.mark.parametrize("done", [0, 1, 4])
def test_a_cancelled_run_never_decodes(fake, calls, done):
    run = fake.steps(Request("a", steps=4, width=16, height=16))
    for _ in itertools.islice(run, done):
        pass
    assert len(named(calls, "unet")) == done
    with pytest.raises(RuntimeError):
        _ = run.result
    del run
    assert not named(calls, "vae_decoder")


def test_a_run_does_not_meet_another(fake):
    request = Request("a", steps=4, seed=1, sampler="dpmpp_2m", width=16, height=16)
    alone = [step.latents for step in fake.steps(request)]
    dropped = fake.steps(Request("b", steps=9, seed=5, width=24, height=24))
    next(dropped)
    beside = []
    for step in fake.steps(request):
        beside.append(step.latents)
        next(dropped)
    np.testing.assert_array_equal(beside, alone)


def test_an_engine_s_error_leaves_no_result(fake):
    def fail(**_):
        raise EngineError("unet: out of memory")

    fake.engines["unet"].answer = fail
    run = fake.steps(Request("a", steps=2, width=16, height=16))
    with pytest.raises(EngineError, match="out of memory"):
        next(run)
    with pytest.raises(RuntimeError, match="not finished"):
        _ = run.result


def test_what_does_not_change_is_computed_once(fake, calls):
    fake.generate("a", steps=6, guidance=7.5, width=16, height=16, batch=3)
    counts = {
        name: len(named(calls, name)) for name in ("text_encoder", "cross_kv", "time_bias", "unet", "vae_decoder")
    }
    assert counts == {"text_encoder": 1, "cross_kv": 1, "time_bias": 1, "unet": 6, "vae_decoder": 3}
    assert named(calls, "time_bias")[0]["timestep"].tolist() == [999, 832, 666, 499, 332, 166]
    assert [feed["latents"].shape[0] for feed in named(calls, "vae_decoder")] == [1, 1, 1]


def test_a_seed_is_drawn_when_none_is_given(fake):
    seeds = {fake.generate("a", steps=1, width=16, height=16).seeds for _ in range(4)}
    assert len(seeds) > 1


def test_a_step_s_preview_is_an_eighth_of_the_size(fake):
    step = next(fake.steps(Request("a", steps=1, width=120, height=136, batch=2)))
    assert step.preview().size == (15, 17)
    assert step.preview(1).mode == "RGB"
    assert step.preview(0).tobytes() != step.preview(1).tobytes()


def test_latents_are_decoded_at_the_scale_of_the_autoencoder(fake, calls, bundle):
    *_, last = fake.steps(Request("a", steps=2, width=16, height=16))
    [feeds] = named(calls, "vae_decoder")
    np.testing.assert_allclose(feeds["latents"], last.latents / bundle.manifest.latents.scaling, rtol=1e-6)


def test_leaving_the_context_closes_every_engine(fake):
    with fake as entered:
        assert entered is fake
    assert [engine.closed for engine in fake.engines.values()] == [1] * len(ANSWERS)
    with pytest.raises(ZeroDivisionError), fake:
        _ = 1 / 0
    assert [engine.closed for engine in fake.engines.values()] == [2] * len(ANSWERS)


@pytest.mark.parametrize("absent", sorted({DECODER, "text_encoder"}))
def test_a_bundle_that_lacks_a_component_is_refused(bundle, absent):
    components = {name: part for name, part in bundle.manifest.components.items() if name != absent}
    with pytest.raises(BundleError, match=f"got no {absent}"):
        check_complete(replace(bundle, manifest=replace(bundle.manifest, components=components)))


@pytest.mark.parametrize("engine", ["gpu", ""])
def test_an_unknown_engine_is_refused(engine):
    with pytest.raises(EngineError, match="expected one of auto, cpu"):
        latentrt.load("emoji", engine=engine)


def test_the_same_request_gives_the_same_bytes(emoji):
    options = {"steps": 2, "guidance": 4.0, "seed": 0, "width": 64, "height": 48}
    one, two, other = (emoji.generate("a red apple", **{**options, "seed": seed}).images[0] for seed in (0, 0, 1))
    assert one.tobytes() == two.tobytes() != other.tobytes()
    assert np.ptp(np.asarray(one)) > 100


@pytest.mark.parametrize("size", [(120, 136), (136, 120), (64, 192), (8, 8)])
@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_sizes_that_are_not_square_or_even(emoji, size, guidance):
    result = emoji.generate("a red apple", steps=1, guidance=guidance, seed=0, width=size[0], height=size[1], batch=2)
    assert [image.size for image in result.images] == [size, size]
    assert result.images[0].tobytes() != result.images[1].tobytes()


def test_the_prompt_and_the_negative_prompt_matter(emoji):
    options = {"steps": 2, "seed": 3, "width": 64, "height": 64}
    prompts = [("a red apple", ""), ("a blue car", ""), ("a red apple", "red")]
    images = {emoji.generate(prompt, negative=negative, **options).images[0].tobytes() for prompt, negative in prompts}
    assert len(images) == 3
