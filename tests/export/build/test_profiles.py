"""The shapes that plans are built for follow from the specs."""

from dataclasses import replace

import pytest

from latentrt.bundle.catalog import folder_of
from latentrt.bundle.folder import open_bundle
from latentrt.bundle.manifest import MOST_PROMPTS, USUAL_TOKENS
from latentrt.tensors import split_axis
from latentrt_export.build.profiles import profile_for, profiles_of

BUNDLE = open_bundle(folder_of("emoji"), verify=False)
MANIFEST = BUNDLE.manifest
LATENT = MANIFEST.latents.factor


def bounds(component, profile, name, axis):
    """The smallest, usual and largest size of one axis of an input."""
    specs = {spec.name: spec for spec in MANIFEST.components[component].inputs}
    (own,) = [one for one in profile if one.name == name]
    place = next(i for i, a in enumerate(specs[name].shape) if isinstance(a, str) and split_axis(a)[1] == axis)
    return own.smallest[place], own.usual[place], own.largest[place]


def test_the_unet_has_a_fixed_profile_for_each_size_and_batch():
    profiles = profiles_of(BUNDLE, "unet", [(128, 128), (96, 160)], [1, 2])
    assert len(profiles) == 4
    for profile, (width, height, batch) in zip(
        profiles, [(128, 128, 1), (96, 160, 1), (128, 128, 2), (96, 160, 2)], strict=True
    ):
        assert all(own.smallest == own.usual == own.largest for own in profile)
        assert bounds("unet", profile, "sample", "height") == (height // LATENT,) * 3
        assert bounds("unet", profile, "sample", "width") == (width // LATENT,) * 3
        assert bounds("unet", profile, "time_bias", "batch") == (batch,) * 3
        assert bounds("unet", profile, "cross_kv", "tokens") == (MANIFEST.tokenizer.length,) * 3


@pytest.mark.parametrize("name", ["vae_decoder", "vae_encoder"])
def test_the_vae_sees_one_picture_at_a_time(name):
    (profile,) = profiles_of(BUNDLE, name, [(96, 160)], [1, 2, 8])
    (own,) = profile
    assert own.smallest == own.largest and own.largest[0] == 1
    factor = LATENT if name == "vae_encoder" else 1
    assert own.largest[2:] == (160 // LATENT * factor, 96 // LATENT * factor)


def test_what_runs_once_a_prompt_or_a_run_takes_any_number_of_rows():
    (text,) = profiles_of(BUNDLE, "text_encoder", [(64, 64), (128, 128)], [1, 2])
    assert bounds("text_encoder", text, "input_ids", "batch") == (1, 2, MOST_PROMPTS)
    (times,) = profiles_of(BUNDLE, "time_bias", [(64, 64)], [1])
    steps = (1, MANIFEST.defaults.steps, MANIFEST.schedule.train_steps)
    assert bounds("time_bias", times, "timestep", "n") == steps
    assert [own.name for own in text] == [spec.name for spec in MANIFEST.components["text_encoder"].inputs]


def wanted(component, **sizes):
    sizes = {"tokens": MANIFEST.tokenizer.length, **sizes}
    sides = {
        spec.name: tuple(
            axis if isinstance(axis, int) else split_axis(axis)[0] * sizes[split_axis(axis)[1]] for axis in spec.shape
        )
        for spec in MANIFEST.components[component].inputs
    }
    return sides


@pytest.mark.parametrize(
    ("component", "sizes"),
    [
        ("text_encoder", {"batch": 1}),
        ("text_encoder", {"batch": 19}),
        ("cross_kv", {"batch": 3}),
        ("time_bias", {"n": 1}),
        ("time_bias", {"n": 40}),
        ("unet", {"batch": 3, "height": 9, "width": 13}),
        ("unet", {"batch": 2, "height": 8, "width": 8, "tokens": 3 * MANIFEST.tokenizer.length}),
        ("vae_decoder", {"batch": 1, "height": 9, "width": 13}),
        ("vae_encoder", {"batch": 2, "height": 9, "width": 13}),
    ],
)
def test_a_profile_for_given_shapes_takes_them(component, sizes):
    shapes = wanted(component, **sizes)
    profile = profile_for(BUNDLE, component, shapes)
    assert all(own.accepts(shapes[own.name]) for own in profile) and len(profile) == len(shapes)
    assert ("height" in sizes) == all(own.smallest == own.largest for own in profile)


def test_rows_within_the_usual_bounds_need_no_plan_of_their_own():
    shapes = wanted("text_encoder", batch=5)
    assert (profile_for(BUNDLE, "text_encoder", shapes),) == profiles_of(BUNDLE, "text_encoder", [(64, 64)], [1])


def test_rows_without_padding_take_any_number_of_tokens_in_one_plan():
    text = replace(MANIFEST.text, padded=False)
    bundle = replace(BUNDLE, manifest=replace(MANIFEST, text=text))
    most = MANIFEST.tokenizer.length
    for profiles in (
        profiles_of(bundle, "unet", [(96, 160)], [2]),
        profile_for_all(bundle, "unet", batch=2, height=20, width=12, tokens=9),
    ):
        (profile,) = profiles
        assert bounds("unet", profile, "cross_kv", "tokens") == (1, min(USUAL_TOKENS, most), most)
        assert bounds("unet", profile, "cross_kv", "batch") == (2, 2, 2)


def profile_for_all(bundle, component, **sizes):
    """The profile for a call of these sizes, as the only one."""
    return (profile_for(bundle, component, wanted(component, **sizes)),)
