"""What models without prompts are asked for, and the pictures that others are shown."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from latentrt.bundle.catalog import MODELS
from latentrt.bundle.folder import open_bundle
from latentrt.bundle.manifest import Classes
from latentrt.bundle.sources import extra_channels_of
from latentrt.errors import RequestError
from latentrt_calib.recording.inits import drawn_mask, drawn_picture, inits_in
from latentrt_calib.recording.prompts import SHIPPED
from latentrt_calib.recording.requests import requests_for
from latentrt_calib.recording.subjects import subject_fields, subjects_of

EMOJI = open_bundle(MODELS / "emoji", verify=False).manifest
CLASSES = replace(EMOJI, text=None, tokenizer=None, classes=Classes(1000, 1000, ("tench", "goldfish")))
PLAIN = replace(EMOJI, text=None, tokenizer=None)


def shown(*names):
    """The built-in manifest with a denoiser that takes these extra channels."""
    unet = EMOJI.components["unet"]
    source = replace(unet.sources["sample"], extra_channels=extra_channels_of(names, 4))
    unet = replace(unet, sources={**unet.sources, "sample": source})
    return replace(EMOJI, components={**EMOJI.components, "unet": unet})


def test_classes_are_spread_over_all_labels_and_the_evaluation_has_others():
    calibration, evaluation = (
        [*map(int, subjects_of(CLASSES, None, SHIPPED, use))] for use in ("calibration", "evaluation")
    )
    assert not {*calibration} & {*evaluation}
    for some in (calibration[:10], evaluation[:10]):
        assert all(0 <= label < 1000 for label in some)
        assert max(np.diff(sorted([0, *some, 1000]))) < 250, "no large gap, however few"


def test_a_file_s_lines_are_classes_by_number_or_name(tmp_path):
    (tmp_path / "classes.txt").write_text("1\ntench\n")
    lines = subjects_of(CLASSES, tmp_path / "classes.txt", SHIPPED, "calibration")
    assert [subject_fields(CLASSES, line)["class_label"] for line in lines] == [1, "tench"]


def test_a_model_without_a_condition_draws_by_seeds():
    first, second = requests_for(PLAIN, subjects_of(PLAIN, None, SHIPPED, "calibration") * 2, 5)
    assert (first.prompt, first.class_label, first.init) == ("", None, None)
    assert (first.seed, second.seed) == (5, 6)


def test_prompts_stay_what_they_were():
    [request] = requests_for(EMOJI, ("a cat",), 3, steps=4)
    assert (request.prompt, request.seed, request.steps, request.init, request.width) == ("a cat", 3, 4, None, None)


@pytest.mark.parametrize(
    ("names", "size", "masked"),
    [
        (("low_resolution",), (16, 16), False),
        (("mask", "masked_image"), (128, 128), True),
        (("image",), (128, 128), False),
    ],
)
def test_a_model_is_shown_a_picture_of_its_size(names, size, masked):
    first, second = requests_for(shown(*names), ("", ""), 0)
    assert first.init.size == size and (first.width, first.height) == (128, 128)
    assert (first.mask is not None) == masked and (not masked or first.mask.size == size)
    assert first.init.tobytes() != second.init.tobytes()


def test_own_pictures_are_taken_in_turn_and_cropped(tmp_path):
    for name, sides in (("b.png", (40, 20)), ("a.jpg", (20, 40))):
        Image.new("RGB", sides, "red").save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    manifest = shown("mask", "masked_image")
    found = requests_for(manifest, ("",) * 3, 0, inits_in(tmp_path, manifest))
    assert [one.init.size for one in found] == [(20, 40), (40, 20), (20, 40)]
    assert all(one.fit == "crop" and one.mask.size == one.init.size for one in found)


def test_a_folder_without_pictures_and_a_model_that_is_shown_none_are_refused(tmp_path):
    with pytest.raises(RequestError, match=r"--init: got .* expected a picture or a folder of \.png"):
        inits_in(tmp_path, shown("image"))
    with pytest.raises(RequestError, match="is shown no picture; leave it out"):
        inits_in(tmp_path, EMOJI)


def test_drawn_pictures_are_the_same_every_time_and_fill_the_range():
    pictures = [np.asarray(drawn_picture(seed, 48, 32)) for seed in range(16)]
    assert np.array_equal(pictures[3], np.asarray(drawn_picture(3, 48, 32)))
    assert pictures[0].shape == (32, 48, 3)
    assert np.min(pictures) == 0 and np.max(pictures) == 255
    assert np.ptp([one.mean() for one in pictures]) > 40, "some are dark and some are bright"


@pytest.mark.parametrize("size", [(8, 8), (48, 32)])
def test_masks_have_something_white_and_every_fourth_is_whole(size):
    shares = [np.asarray(drawn_mask(seed, *size)).mean() / 255 for seed in range(8)]
    assert all(share > 0 for share in shares) and shares[3] == shares[7] == 1
