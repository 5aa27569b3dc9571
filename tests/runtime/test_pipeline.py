import itertools
import logging
import math
from dataclasses import replace

import numpy as np
import pytest

import latentrt
from latentrt.bundle import open_bundle
from latentrt.errors import BundleError, EngineError, RequestError
from latentrt.noise import randn
from latentrt.pipeline import MODELS, Pipeline, check_complete, load_tokenizer
from latentrt.request import Request
from latentrt.tensors import check


class FakeEngine:
    """Stands where a component's engine would: checks and notes what it is fed, answers by a formula."""

    def __init__(self, name, component, answer, calls):
        self.name, self.component, self.answer, self.calls, self.closed = name, component, answer, calls, 0

    def __call__(self, feeds):
        check(self.component.inputs, feeds, self.name)
        self.calls.append((self.name, {key: feed.copy() for key, feed in feeds.items()}))
        outputs = {key: np.asarray(value, np.float32) for key, value in self.answer(**feeds).items()}
        check(self.component.outputs, outputs, self.name)
        return outputs

    def load(self):
        pass

    def unload(self):
        pass

    def close(self):
        self.closed += 1


def encode(input_ids, clip_skip):
    return {"context": np.repeat(input_ids[:, :, None] / 4096, 256, axis=2)}


def project(context):
    return {"cross_kv": np.repeat(context, 9, axis=2)}


def embed(timestep):
    return {"time_bias": np.repeat(timestep[:, None] / 1000, 2304, axis=1)}


def predict(sample, time_bias, cross_kv):
    return {"prediction": 0.5 * sample + time_bias[:, :1, None, None] + cross_kv.mean((1, 2))[:, None, None, None]}


def paint(latents):
    return {"image": np.tanh(latents[:, :3]).repeat(8, axis=2).repeat(8, axis=3)}


ANSWERS = {"text_encoder": encode, "cross_kv": project, "time_bias": embed, "unet": predict, "vae_decoder": paint}


@pytest.fixture(scope="module")
def bundle():
    return open_bundle(MODELS / "emoji", verify=False)


@pytest.fixture
def calls():
    """Every call of an engine in order: the component and a copy of its feeds."""
    return []


@pytest.fixture
def fake(bundle, calls):
    components = bundle.manifest.components
    engines = {name: FakeEngine(name, components[name], answer, calls) for name, answer in ANSWERS.items()}
    return Pipeline(bundle, load_tokenizer(bundle), engines, "fake")


@pytest.fixture(scope="module")
def emoji():
    with latentrt.load("emoji") as pipeline:
        yield pipeline


def named(calls, name):
    return [feeds for component, feeds in calls if component == name]


def pixels(image):
    return np.asarray(image, np.float64) / 255


def psnr(got, reference):
    error = math.sqrt(np.mean((got - reference) ** 2))
    return 20 * math.log10(1 / error) if error else math.inf


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("sampler", ["ddim", "euler", "dpmpp_2m"])
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
    assert run.result.timings.keys() == {"text_encoder", "steps", "vae_decoder"}
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


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("guidance", "halves"), [(0.0, 1), (1.0, 1), (1.5, 2), (7.5, 2)])
def test_guidance_doubles_the_batch_only_above_one(fake, calls, guidance, halves, batch):
    fake.generate("a cat", negative="blue", steps=3, guidance=guidance, width=24, height=16, batch=batch)
    feeds = named(calls, "unet")
    assert [feed["sample"].shape for feed in feeds] == [(halves * batch, 4, 2, 3)] * 3
    prompts = fake.tokenizer(["blue", "a cat"] if halves == 2 else ["a cat"])
    np.testing.assert_array_equal(named(calls, "text_encoder")[0]["input_ids"], prompts)
    for feed in feeds:  # rows: the negative prompt for every image, then the prompt for every image
        parts = np.split(feed["sample"], halves)
        np.testing.assert_array_equal(parts[0], parts[-1])
        rows = feed["cross_kv"].reshape(halves, batch, -1)
        np.testing.assert_array_equal(rows, np.repeat(rows[:, :1], batch, axis=1))
        assert halves == 1 or not np.array_equal(rows[0, 0], rows[1, 0])


def test_guided_prediction_is_the_formula(fake, calls):
    one, strong = (
        next(fake.steps(Request("a cat", "blue", 2, guidance, 0, 16, 16))).denoised for guidance in (1.0, 7.5)
    )
    # With v prediction from pure noise the denoised latents are minus the prediction, which is linear in the prompt.
    means = [feeds["cross_kv"][-2:].mean((1, 2)) for feeds in named(calls, "unet")]
    negative, positive = means[1]
    np.testing.assert_allclose(strong - one, np.float32(-6.5 * (positive - negative)), atol=1e-5)


def test_what_does_not_change_is_computed_once(fake, calls):
    fake.generate("a", steps=6, guidance=7.5, width=16, height=16, batch=3)
    counts = {name: len(named(calls, name)) for name in ANSWERS}
    assert counts == {"text_encoder": 1, "cross_kv": 1, "time_bias": 1, "unet": 6, "vae_decoder": 3}
    assert named(calls, "time_bias")[0]["timestep"].tolist() == [999, 832, 666, 499, 332, 166]
    assert [feed["latents"].shape[0] for feed in named(calls, "vae_decoder")] == [1, 1, 1]


@pytest.mark.parametrize("sampler", ["ddim", "euler", "dpmpp_2m"])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_each_step_gets_the_bias_of_its_timestep(fake, calls, sampler, spacing):
    steps = list(fake.steps(Request("a", steps=7, sampler=sampler, spacing=spacing, width=16, height=16)))
    got = [feed["time_bias"] for feed in named(calls, "unet")]
    for bias, step in zip(got, steps, strict=True):
        np.testing.assert_allclose(bias, step.timestep / 1000, rtol=1e-6)


@pytest.mark.parametrize("seed", [0, 41, 2**64 - 3])
def test_each_image_starts_from_the_noise_of_its_own_seed(fake, calls, seed):
    result = fake.generate("a", steps=1, guidance=1.0, seed=seed, width=24, height=16, batch=3)
    assert result.seeds == (seed, seed + 1, seed + 2)
    noise = np.stack([randn((4, 2, 3), seed + k) for k in range(3)])
    np.testing.assert_array_equal(named(calls, "unet")[0]["sample"], noise)


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


@pytest.mark.parametrize("absent", ANSWERS)
def test_a_bundle_that_lacks_a_component_is_refused(bundle, absent):
    components = {name: part for name, part in bundle.manifest.components.items() if name != absent}
    with pytest.raises(BundleError, match=f"got no {absent}"):
        check_complete(replace(bundle, manifest=replace(bundle.manifest, components=components)))


def test_a_prompt_that_is_too_long_is_cut_with_a_warning(fake, calls, caplog):
    with caplog.at_level(logging.WARNING, logger="latentrt"):
        fake.generate("cat " * 30, steps=1, width=16, height=16)
        assert caplog.records == []
        fake.generate("cat " * 31, steps=1, width=16, height=16)
    [record] = caplog.records
    assert record.getMessage() == "the prompt has 31 tokens; all after 30 are ignored"
    fits, cut = (feeds["input_ids"] for feeds in named(calls, "text_encoder"))
    np.testing.assert_array_equal(fits, cut)


@pytest.mark.parametrize("engine", ["gpu", ""])
def test_an_unknown_engine_is_refused(engine):
    with pytest.raises(EngineError, match="expected one of cpu"):
        latentrt.load("emoji", engine=engine)


def test_the_same_request_gives_the_same_bytes(emoji):
    options = {"steps": 2, "guidance": 4.0, "seed": 0, "width": 128, "height": 96}
    one, two, other = (emoji.generate("a red apple", **{**options, "seed": seed}).images[0] for seed in (0, 0, 1))
    assert one.tobytes() == two.tobytes() != other.tobytes()
    assert np.ptp(np.asarray(one)) > 100


@pytest.mark.parametrize("sampler", ["ddim", "euler", "dpmpp_2m"])
def test_an_image_of_a_batch_is_the_one_of_its_seed_alone(emoji, sampler):
    options = {"steps": 4, "sampler": sampler, "width": 96, "height": 128}
    together = emoji.generate("a red apple", seed=7, batch=3, **options)
    for k, image in enumerate(together.images):
        alone = emoji.generate("a red apple", seed=7 + k, **options).images[0]
        assert psnr(pixels(image), pixels(alone)) >= 60


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
