"""The built-in model as if its UNet were shown a picture of low resolution, on fake engines: it enlarges by 8."""

from dataclasses import replace

from latentrt.bundle.sources import LOW_RESOLUTION, extra_channels_of, latents_source
from latentrt.bundle.tasks import tasks_of
from latentrt.pipeline.load import load_tokenizer
from latentrt.pipeline.pipeline import Pipeline
from tests.runtime.fake import ANSWERS, FakeEngine, predict

FACTOR, MULTIPLE, TILE = 8, 4, 16


def upscaling(bundle):
    """The bundle, as if its UNet were shown a picture, with latents in multiples of 4 and tiles of 16."""
    manifest = bundle.manifest
    components = dict(manifest.components)
    sample, *others = components["unet"].inputs
    wider = replace(sample, shape=(sample.shape[0], 7, *sample.shape[2:]))
    sources = {**components["unet"].sources, "sample": latents_source(*extra_channels_of((LOW_RESOLUTION,), 4))}
    components["unet"] = replace(components["unet"], inputs=(wider, *others), sources=sources)
    changed = replace(
        manifest,
        components=components,
        latents=replace(manifest.latents, multiple=MULTIPLE),
        defaults=replace(manifest.defaults, width=TILE * FACTOR, height=TILE * FACTOR, guidance=1.0),
        tasks=tasks_of(components),
    )
    return replace(bundle, manifest=changed)


def looking(sample, time_bias, cross_kv):
    """A UNet that predicts more of what it is shown."""
    [plain] = predict(sample[:, :4], time_bias, cross_kv).values()
    plain[:, :3] += sample[:, 4:]
    return {"prediction": plain}


def pipeline_of(bundle, calls):
    """A pipeline for super-resolution on fake engines."""
    changed = upscaling(bundle)
    answers = {**ANSWERS, "unet": looking}
    engines = {
        name: FakeEngine(name, changed.manifest.components[name], answer, calls) for name, answer in answers.items()
    }
    return Pipeline(changed, load_tokenizer(bundle), engines, "onnxruntime")
