"""Images that steer, at work: when networks are called, on which rows, and what the UNet gets of them."""

import click
import numpy as np
import pytest

from latentrt.bundle.manifest import Component, Fidelity, Manifest
from latentrt.bundle.sources import control_source, latents_source
from latentrt.cli.parsing import control_of
from latentrt.conditioning.control import ControlSet
from latentrt.request.control import Control
from latentrt.request.controls import ResolvedControl
from latentrt.tensors import TensorSpec

SAMPLE = TensorSpec("sample", "float32", ("batch", 4, "height", "width"))
HINT = TensorSpec("hint", "float32", ("batch", 2, "height", "width"))
SCALES = TensorSpec("scales", "float32", (3,))
RESIDUALS = (
    TensorSpec("residual_0", "float32", ("batch", 2, "height", "width")),
    TensorSpec("residual_1", "float32", ("batch", 3, "height/2", "width/2")),
)
FEATURES = (
    TensorSpec("feature_0", "float32", ("batch", 1, "height/2", "width/2")),
    TensorSpec("feature_1", "float32", ("batch", 2, "height/4", "width/4")),
)


def component(role, inputs, outputs, sources=None, controls=()):
    fidelity = Fidelity(0.0, None, "")
    return Component(role, "x.onnx", (), "fp32", tuple(inputs), tuple(outputs), fidelity, sources or {}, controls)


def image(channels):
    return (TensorSpec("image", "float32", ("batch", channels, "8*height", "8*width")),)


SOURCES = {
    "sample": latents_source(),
    **{spec.name: control_source("controlnet") for spec in RESIDUALS},
    **{spec.name: control_source("t2i_adapter") for spec in FEATURES},
}
COMPONENTS = {
    "unet": component("denoiser", (SAMPLE, *RESIDUALS, *FEATURES), (SAMPLE,), SOURCES),
    "hint_edges": component("controlnet_hint", image(3), (HINT,), controls=("edges",)),
    "control_edges": component("controlnet", (SAMPLE, HINT, SCALES), RESIDUALS, controls=("edges",)),
    "adapter_sketch": component("t2i_adapter", image(1), FEATURES, controls=("sketch",)),
}
MANIFEST = Manifest(2, "x", "sd1", (), COMPONENTS, None, None, None, None, None, {}, {})


@pytest.fixture
def calls():
    return []


def steering(calls, *controls, **options):
    """A run's controls; a network's residuals are its scales' mean, times its hint, wherever it is called, and an
    adapter's features count their rows and columns."""

    def call(name, **feeds):
        calls.append((name, feeds))
        if name.startswith("hint"):
            return {"hint": np.full((1, 2, 5, 7), feeds["image"].mean(), np.float32)}
        if name.startswith("adapter"):
            rows, columns = np.mgrid[:3, :4]
            half = (10 * rows + columns).astype(np.float32)
            return {"feature_0": half[None, None], "feature_1": np.stack([half[::2, ::2]] * 2)[None]}
        rows, value = len(feeds["sample"]), feeds["scales"].mean() * feeds["hint"].mean()
        return {
            "residual_0": np.full((rows, 2, 5, 7), value, np.float32),
            "residual_1": np.full((rows, 3, 3, 4), value, np.float32),
        }

    made = ControlSet(call, MANIFEST, **options)
    for place, one in enumerate(controls):
        made.attach(one, np.full((1, 3, 40, 56), place + 1, np.float32))
    return made


def feeds(rows):
    return {"sample": np.zeros((rows, 4, 5, 7), np.float32)}


def control(*numbers):
    return ResolvedControl("edges", None, *numbers, component="hint_edges", role="controlnet_hint")


def adapter(*numbers):
    return ResolvedControl("sketch", None, *numbers, component="adapter_sketch", role="t2i_adapter")


def test_nothing_at_work_is_zeros_made_once(calls):
    steered = steering(calls, control(1.0, 0.0, 0.5), steps=4)
    first, second = (steered.feeds(3, feeds(2), [True, False]) for _ in range(2))
    assert [array.shape for array in first.values()] == [(2, 2, 5, 7), (2, 3, 3, 4), (2, 1, 3, 4), (2, 2, 2, 2)]
    assert list(first) == ["residual_0", "residual_1", "feature_0", "feature_1"]
    assert all(first[name] is second[name] and not first[name].any() for name in first)
    assert not any(array.flags.writeable for array in first.values())
    assert [name for name, _ in calls] == ["hint_edges"]


# As diffusers has it: 1 - float(i / steps < start or (i + 1) / steps > end).
@pytest.mark.parametrize("steps", [1, 2, 5, 6, 10])
@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (0.2, 0.8), (0.0, 0.3), (0.5, 1.0)])
def test_the_steps_at_which_a_control_works(calls, steps, start, end):
    steered = steering(calls, control(1.0, start, end), first=3, steps=steps)
    works = [steered.feeds(3 + i, feeds(1), [False])["residual_0"].any() for i in range(steps)]
    assert works == [not (i / steps < start or (i + 1) / steps > end) for i in range(steps)]


def test_several_are_summed_and_a_scale_of_zero_is_not_called(calls):
    steered = steering(calls, control(0.5), control(0.25), control(0.0))
    found = steered.feeds(0, feeds(2), [True, False])
    assert all((found[name] == 0.5 * 1 + 0.25 * 2).all() for name in ("residual_0", "residual_1"))
    assert [name for name, _ in calls].count("control_edges") == 2


def test_a_guess_leaves_the_negative_prompt_alone(calls):
    steered = steering(calls, control(2.0), guess=True)
    found = steered.feeds(0, feeds(4), [True, True, False, False])
    _, asked = calls[-1]
    assert len(asked["sample"]) == len(asked["hint"]) == 2
    np.testing.assert_allclose(asked["scales"], 2 * np.logspace(-1, 0, 3), rtol=1e-6)
    assert not found["residual_0"][:2].any() and found["residual_1"][2:].all()
    assert not steered.feeds(0, feeds(1), [True])["residual_0"].any()


def test_what_a_network_sees_of_its_image_is_the_same_array_at_every_call(calls):
    steered = steering(calls, control(1.0), steps=2)
    for step in range(2):
        steered.feeds(step, feeds(2), [True, False])
    first, second = (asked["hint"] for name, asked in calls if name == "control_edges")
    assert first is second and first.flags.owndata and not first.flags.writeable


def test_an_adapter_is_called_once_and_its_features_are_for_every_row(calls):
    steered = steering(calls, adapter(0.5, 0.0, 0.5), control(1.0), steps=2)
    first, second = (steered.feeds(0, feeds(2), [True, False]) for _ in range(2))
    assert [name for name, _ in calls] == ["adapter_sketch", "hint_edges", "control_edges", "control_edges"]
    assert first["feature_0"] is second["feature_0"] and not first["feature_0"].flags.writeable
    np.testing.assert_array_equal(first["feature_0"][0], first["feature_0"][1])
    assert first["feature_0"].shape == (2, 1, 3, 4) and first["feature_0"].max() == 0.5 * 23
    assert not steered.feeds(1, feeds(2), [True, False])["feature_1"].any()


def test_the_features_of_several_adapters_are_summed(calls):
    steered = steering(calls, adapter(0.5), adapter(0.25))
    assert steered.feeds(0, feeds(1), [False])["feature_0"].max() == 0.75 * 23


def test_a_window_shows_its_part_of_the_features(calls):
    steered = steering(calls, adapter(1.0))
    window = (np.arange(2, 5)[:, np.newaxis], np.array([4, 5, 6, 0]))
    found = steered.feeds(0, {"sample": np.zeros((1, 4, 3, 4), np.float32)}, [False], window)
    np.testing.assert_array_equal(found["feature_0"][0, 0], [[12, 13], [22, 23]])
    np.testing.assert_array_equal(found["feature_1"][0, 1], [[2]])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("canny=a.png", Control("canny", "a.png")),
        ("canny=a.png:0.5", Control("canny", "a.png", 0.5)),
        ("canny=C:\\a=b.png:-1:0.25:.5", Control("canny", "C:\\a=b.png", -1.0, 0.25, 0.5)),
        ("canny=a:b.png", Control("canny", "a:b.png")),
    ],
)
def test_a_control_on_the_command_line(text, expected):
    assert control_of(text) == expected


@pytest.mark.parametrize("text", ["a.png", "=a.png", "canny=", "canny=a.png:1-2", "canny=a.png:1.2.3"])
def test_what_is_no_control(text):
    with pytest.raises(click.BadParameter, match="expected NAME=IMG"):
        control_of(text)
