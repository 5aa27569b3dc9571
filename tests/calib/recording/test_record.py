"""Recording: what the file says against what the engines were fed, stopping and going on, and what is refused."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

import latentrt
from latentrt import EngineError, OutputError, Request, RequestError
from latentrt.bundle.catalog import MODELS
from latentrt.bundle.folder import open_bundle
from latentrt_calib.recording.record import open_recording, record
from latentrt_export.step_cache import without_step_cache
from tests.runtime.fake import named, pipeline_of

CACHING = open_bundle(MODELS / "emoji", verify=False)
PROMPTS = ("a cat", "a red apple", "a (blue:1.3) boat")
BUNDLE = replace(CACHING, manifest=without_step_cache(CACHING.manifest))


def feeds_of(recording):
    return [call.feeds for call in recording]


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def same_feeds(got, expected):
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        assert one.keys() == other.keys()
        for name in other:
            assert one[name].dtype == other[name].dtype
            np.testing.assert_array_equal(one[name], other[name])


class Failing:
    """An engine that fails at one call, and counts them."""

    def __init__(self, engine, at):
        self.engine, self.at, self.calls = engine, at, 0

    def __call__(self, feeds):
        self.calls += 1
        if self.calls == self.at:
            raise KeyboardInterrupt
        return self.engine(feeds)


@pytest.fixture
def calls():
    return []


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize(
    ("sampler", "steps", "a_step"), [("ddim", 1, 1), ("ddim", 2, 1), ("heun", 3, 2), ("dpmpp_2m", 4, 1)]
)
def test_every_call_of_every_run_is_recorded(tmp_path, calls, sampler, steps, a_step, split):
    pipeline = pipeline_of(BUNDLE, calls, split_guidance=split)
    recording = record(pipeline, PROMPTS, steps=steps, sampler=sampler, seed0=5, folder=tmp_path / "r")
    assert not named(calls, "vae_decoder")
    recorded = named(calls, "unet")
    same_feeds(feeds_of(recording), recorded)
    calls.clear()
    for image, prompt in enumerate(PROMPTS):
        pipeline.generate(prompt, steps=steps, sampler=sampler, seed=5 + image)
    same_feeds(recorded, named(calls, "unet"))
    same_feeds(feeds_of(recording.of("vae_decoder")), named(calls, "vae_decoder"))
    assert [(call.image, call.step) for call in recording.of("vae_decoder")] == [(image, steps) for image in range(3)]
    found = list(recording)
    assert {call.steps for call in found} == {steps}
    # The fake engine writes the timestep itself into the time bias.
    assert [call.timestep for call in found] == pytest.approx([c.feeds["time_bias"][0, 0] * 1000 for c in found])
    counts = Counter((call.image, call.step) for call in found)
    assert sorted(counts) == [(image, step) for image in range(3) for step in range(steps)]
    expected = a_step * (1 + split)
    # Heun takes the first step from pure noise and the last one as Euler does.
    assert all(counts[image, step] == expected for image, step in counts if 0 < step < steps - 1)


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize(("sampler", "steps"), [("ddim", 2), ("ddim", 7), ("heun", 4), ("euler_a", 5)])
def test_calls_of_a_shallow_unet_are_those_of_a_run_with_a_step_cache(tmp_path, calls, sampler, steps, split):
    options = {"steps": steps, "sampler": sampler}
    without, found = (
        record(pipeline_of(bundle, [], split_guidance=split), PROMPTS, seed0=5, folder=tmp_path / name, **options)
        for name, bundle in (("plain", BUNDLE), ("caching", CACHING))
    )
    for component in ("unet", "vae_decoder"):
        same_feeds(feeds_of(found.of(component)), feeds_of(without.of(component)))
    pipeline = pipeline_of(CACHING, calls, split_guidance=split)
    for image, prompt in enumerate(PROMPTS):
        pipeline.generate(prompt, seed=5 + image, cache=3, **options)
    shallow = named(calls, "unet_shallow")
    assert bool(shallow) == (steps > 2)
    same_feeds(feeds_of(found.of("unet_shallow")), shallow)
    assert not list(without.of("unet_shallow"))
    for call in found.of("unet_shallow"):
        assert call.timestep == pytest.approx(call.feeds["time_bias"][0, 0] * 1000)


def test_what_calls_share_is_stored_once_an_image(tmp_path):
    record(pipeline_of(BUNDLE, []), PROMPTS[:1], steps=7, folder=tmp_path)
    with np.load(tmp_path / "image-0000.npz") as file:
        arrays = [file[name] for name in file.files if name.startswith("array")]
    assert sum(array.ndim == 3 for array in arrays) == 1  # cross_kv
    # The last latents, for the VAE decoder; tokens and clip skip, for the text encoder.
    assert len(arrays) == 1 + 7 + 7 + 1 + 2


def test_the_same_command_gives_the_same_bytes_and_runs_nothing_again(tmp_path, calls):
    settings = {"steps": 2, "sampler": "euler_a", "seed0": 1}
    one = record(pipeline_of(BUNDLE, []), PROMPTS, folder=tmp_path / "one", **settings)
    two = record(pipeline_of(BUNDLE, []), PROMPTS, folder=tmp_path / "two", **settings)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")
    assert one.sha256 == two.sha256
    lines = []
    again = record(pipeline_of(BUNDLE, calls), PROMPTS, folder=tmp_path / "one", progress=lines.append, **settings)
    assert again == one == open_recording(tmp_path / "one")
    assert not calls and not lines


@pytest.mark.parametrize("at", [1, 2, 3, 6])
def test_a_stopped_recording_goes_on_to_the_same_bytes(tmp_path, calls, at):
    record(pipeline_of(BUNDLE, []), PROMPTS, steps=2, folder=tmp_path / "whole")
    pipeline = pipeline_of(BUNDLE, calls)
    pipeline.engines["unet"] = Failing(pipeline.engines["unet"], at)
    with pytest.raises(KeyboardInterrupt):
        record(pipeline, PROMPTS, steps=2, folder=tmp_path / "stopped")
    done = (at - 1) // 2
    assert len(list((tmp_path / "stopped").glob("image-*"))) == done
    (tmp_path / "stopped" / ".image-0002.0123456789abcdef.npz").write_bytes(b"left by a killed run")
    calls.clear()
    lines = []
    record(pipeline_of(BUNDLE, calls), PROMPTS, steps=2, folder=tmp_path / "stopped", progress=lines.append)
    assert files_of(tmp_path / "stopped") == files_of(tmp_path / "whole")
    assert len(named(calls, "unet")) == 2 * (3 - done)
    assert lines == [f"recording image {i + 1} of 3: {PROMPTS[i]}" for i in range(done, 3)]


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-100], lambda b: b[:50_000] + bytes([b[50_000] ^ 1]) + b[50_001:], lambda b: b""]
)
def test_a_damaged_image_is_recorded_again(tmp_path, damage):
    recording = record(pipeline_of(BUNDLE, []), PROMPTS[:2], steps=1, folder=tmp_path)
    before, file = files_of(tmp_path), tmp_path / "image-0001.npz"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(OutputError, match="image-0001.npz: missing or damaged.*run the same command again"):
        list(recording)
    record(pipeline_of(BUNDLE, []), PROMPTS[:2], steps=1, folder=tmp_path)
    assert files_of(tmp_path) == before


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"steps": 3}, "steps"),
        ({"sampler": "euler"}, "sampler"),
        ({"seed0": 1}, "seed0"),
        ({"prompts": PROMPTS[:1]}, "prompts"),
        ({"steps": 3, "seed0": 1}, "seed0, steps"),
    ],
)
def test_a_folder_with_another_recording_is_refused_and_kept(tmp_path, other, named):
    settings = {"prompts": PROMPTS[:2], "steps": 2, "sampler": "ddim", "seed0": 0}
    record(pipeline_of(BUNDLE, []), folder=tmp_path, **settings)
    before = files_of(tmp_path)
    with pytest.raises(OutputError, match=f"recording.json: got work begun with another {named};.*remove"):
        record(pipeline_of(BUNDLE, []), folder=tmp_path, **settings | other)
    assert files_of(tmp_path) == before


def test_a_recording_of_another_format_is_refused_and_kept(tmp_path):
    record(pipeline_of(BUNDLE, []), PROMPTS[:1], steps=1, folder=tmp_path)
    file = tmp_path / "recording.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": 1}))  # without the VAE decoder's calls
    before = files_of(tmp_path)
    with pytest.raises(OutputError, match="got work begun with another format;.*remove"):
        record(pipeline_of(BUNDLE, []), PROMPTS[:1], steps=1, folder=tmp_path)
    with pytest.raises(OutputError, match="format: got 1, expected 3.*expected a recording"):
        open_recording(tmp_path)
    assert files_of(tmp_path) == before


def test_other_folders_are_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="a folder with other files,"):
        record(pipeline_of(BUNDLE, []), PROMPTS, folder=tmp_path)
    with pytest.raises(OutputError, match="cannot be written"):
        record(pipeline_of(BUNDLE, []), PROMPTS, folder=tmp_path / "mine.txt")
    with pytest.raises(OutputError, match="expected a recording"):
        open_recording(tmp_path)
    (tmp_path / "mine.txt").rename(tmp_path / ".mine.json")
    with pytest.raises(OutputError, match="a folder with other files,"):
        record(pipeline_of(BUNDLE, []), PROMPTS, folder=tmp_path)
    assert files_of(tmp_path) == {".mine.json": b"mine"}
    (tmp_path / "recording.json").write_text(json.dumps({"format": 1}))
    with pytest.raises(OutputError, match=r"recording.json: \.bundle: missing"):
        open_recording(tmp_path)
    (tmp_path / "recording.json").write_text("{")
    with pytest.raises(OutputError, match="damaged"):
        record(pipeline_of(BUNDLE, []), PROMPTS, folder=tmp_path)


def test_what_cannot_be_generated_is_refused_before_anything_runs(tmp_path, calls):
    pipeline = pipeline_of(BUNDLE, calls)
    with pytest.raises(RequestError, match=r"prompt 2, 'a \(dog': "):
        record(pipeline, ("a cat", "a (dog"), folder=tmp_path / "r")
    with pytest.raises(RequestError, match="prompts: got none"):
        record(pipeline, (), folder=tmp_path / "r")
    with pytest.raises(RequestError, match="sampler: got 'none'"):
        record(pipeline, ("a cat",), sampler="none", folder=tmp_path / "r")
    assert not calls and not (tmp_path / "r").exists()


def test_an_engine_that_fails_leaves_what_is_done(tmp_path):
    pipeline = pipeline_of(BUNDLE, [])
    engine, seen = pipeline.engines["unet"], []

    def fail(feeds):
        seen.append(0)
        if len(seen) > 2:
            raise EngineError("unet: out of memory")
        return engine(feeds)

    pipeline.engines["unet"] = fail
    with pytest.raises(EngineError, match="out of memory"):
        record(pipeline, PROMPTS, steps=2, folder=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image-0000.npz", "recording.json"]
    assert pipeline.engines["unet"] is fail


def test_the_built_in_model_is_recorded_as_it_runs(tmp_path):
    with latentrt.load("emoji", verify=False) as pipeline:
        recording = record(pipeline, ["a red apple"], steps=2, seed0=7, folder=tmp_path)
        run = pipeline.steps(Request("a red apple", steps=2, seed=7))
        steps = [next(run), next(run)]
        found = list(recording)
        assert [call.timestep for call in found] == [step.timestep for step in steps]
        assert found[0].feeds["sample"].shape[0] == 2  # both halves of guidance
        outputs = pipeline.engines["unet"](found[1].feeds)
        assert outputs["prediction"].shape == found[1].feeds["sample"].shape
        np.testing.assert_array_equal(found[1].feeds["sample"][0], steps[0].latents[0])
