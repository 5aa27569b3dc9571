"""A pipeline without graphs: engines that note what they are fed and answer by formulas, each row by itself."""

import math
from dataclasses import replace

import numpy as np

from latentrt.bundle.sources import DEEP_FEATURES
from latentrt.engines import ENGINES
from latentrt.pipeline import timings
from latentrt.pipeline.load import load_tokenizer
from latentrt.pipeline.pipeline import Pipeline
from latentrt.tensors import check

SMALL = {"width": 24, "height": 16}


class FakeEngine:
    """Stands where a component's engine would: checks and notes what it is fed, answers by a formula."""

    memory = ENGINES["onnxruntime"].memory

    def __init__(self, name, component, answer, calls):
        self.name, self.component, self.answer, self.calls, self.closed = name, component, answer, calls, 0

    def __call__(self, feeds):
        check(self.component.inputs, feeds, self.name)
        self.calls.append((self.name, {key: feed.copy() for key, feed in feeds.items()}))
        outputs = {key: np.asarray(value, np.float32) for key, value in self.answer(**feeds).items()}
        for spec in self.component.outputs:
            if spec.name == DEEP_FEATURES:
                outputs |= {spec.name: outputs["prediction"][:, :1].repeat(spec.shape[1], axis=1)}
        check(self.component.outputs, outputs, self.name)
        return outputs

    def load(self):
        pass

    def unload(self):
        pass

    def close(self):
        self.closed += 1


def encode(input_ids, clip_skip):
    return {"context": np.repeat((input_ids[:, :, None] + 1) / (2660 * clip_skip), 256, axis=2)}


def project(context):
    return {"cross_kv": np.repeat(context, 10, axis=2)}


def embed(timestep):
    return {"time_bias": np.repeat(timestep[:, None] / 1000, 1696, axis=1)}


def predict(sample, time_bias, cross_kv):
    text = cross_kv[:, :, 0].mean(1) + cross_kv[:, -1, 0] / cross_kv.shape[1]
    text = text[:, None, None, None]
    return {"prediction": (0.5 + 8 * text) * sample + time_bias[:, :1, None, None] + text}


def predict_rest(sample, time_bias, deep_features):
    return {"prediction": sample + time_bias[:, :1, None, None] + deep_features[:, :1]}


def paint(latents):
    return {"image": np.tanh(latents[:, :3]).repeat(8, axis=2).repeat(8, axis=3)}


def compress(image):
    mean = np.concatenate([image, image[:, :1] / 2], axis=1)[:, :, ::8, ::8]
    return {"mean": mean, "log_variance": mean - 3}


ANSWERS = {
    "text_encoder": encode,
    "cross_kv": project,
    "time_bias": embed,
    "unet": predict,
    "unet_shallow": predict_rest,
    "vae_decoder": paint,
    "vae_encoder": compress,
}


def pipeline_of(bundle, calls, *, split_guidance=False, **schedule):
    """A pipeline on fake engines for the bundle, whose schedule differs as given."""
    manifest = replace(bundle.manifest, schedule=replace(bundle.manifest.schedule, **schedule))
    if manifest.schedule.prediction == "flow_prediction":
        manifest = replace(manifest, defaults=replace(manifest.defaults, sampler="flow_euler"))
    answers = {name: answer for name, answer in ANSWERS.items() if name in manifest.components}
    engines = {name: FakeEngine(name, manifest.components[name], answer, calls) for name, answer in answers.items()}
    changed = replace(bundle, manifest=manifest)
    return Pipeline(changed, load_tokenizer(bundle), engines, "fake", split_guidance=split_guidance)


def moved_clock(monkeypatch):
    """The clock of phases, which only the function that this returns moves: clock(seconds)."""
    now = [100.0]
    monkeypatch.setattr(timings, "clock", lambda: now[0])

    def move(seconds):
        now[0] += seconds

    return move


def slowed(answer, clock, seconds):
    """An answer that takes so many seconds of a test's clock."""

    def slow(**feeds):
        clock(seconds)
        return answer(**feeds)

    return slow


def named(calls, name):
    """The feeds of every call of a component, in order."""
    return [feeds for component, feeds in calls if component == name]


def predictions(calls):
    """What the fake UNet answered, call by call."""
    return [predict(**feeds)["prediction"] for feeds in named(calls, "unet")]


def kv_of(pipeline, text, clip_skip=1):
    """The keys and values of a text that fits a chunk and has no emphasis: (tokens, K)."""
    [ids] = pipeline.tokenizer([text])
    return project(encode(ids[np.newaxis], np.array([clip_skip]))["context"].astype(np.float32))["cross_kv"][0]


def latents_of(pipeline, request):
    """The latents after every step."""
    return np.stack([step.latents for step in pipeline.steps(request)])


def psnr(got, reference):
    """Of two Pillow images, in dB."""
    got, reference = (np.asarray(image, np.float64) / 255 for image in (got, reference))
    error = math.sqrt(np.mean((got - reference) ** 2))
    return 20 * math.log10(1 / error) if error else math.inf
