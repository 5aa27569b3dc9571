"""The metrics against scikit-image (see make_metric_goldens.py) and against closed forms."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from latentrt import ShapeError
from latentrt_calib.evaluate.metrics import psnr_db, relative_error, snr_db, ssim
from tests.calib.pictures import CHANGES, SIZES, picture

GOLDENS = json.loads(Path(__file__).with_name("metrics.json").read_text())["cases"]


def name_of(golden):
    return f"{golden['change']}-{'x'.join(map(str, golden['size']))}"


@pytest.mark.parametrize("golden", GOLDENS, ids=name_of)
def test_pictures_are_as_alike_as_scikit_image_says(golden):
    reference = picture(golden["size"])
    changed = CHANGES[golden["change"]](reference)
    assert psnr_db(changed, reference) == pytest.approx(golden["psnr_db"], rel=1e-12)
    assert ssim(changed, reference) == pytest.approx(golden["ssim"], abs=1e-10)
    assert ssim(reference, changed) == pytest.approx(golden["ssim"], abs=1e-10)


def test_the_goldens_are_of_every_picture_and_change():
    cases = {(tuple(golden["size"]), golden["change"]) for golden in GOLDENS}
    assert cases == {(size, change) for size in SIZES for change in CHANGES}


def test_equal_is_infinitely_alike():
    drawn = picture((24, 40))
    assert psnr_db(drawn, drawn) == snr_db(drawn, drawn) == math.inf
    assert ssim(drawn, drawn) == 1
    assert relative_error(drawn, drawn) == 0


@pytest.mark.parametrize("off", [1, 7, 255])
def test_psnr_of_a_constant_difference(off):
    black = np.zeros((4, 5, 3), np.uint8)
    assert psnr_db(black + np.uint8(off), black) == pytest.approx(20 * math.log10(255 / off))


def test_ssim_of_two_flat_pictures_is_their_brightness_alone():
    dark, light = np.full((13, 17, 3), 50, np.uint8), np.full((13, 17, 3), 200, np.uint8)
    constant = (0.01 * 255) ** 2
    assert ssim(dark, light) == pytest.approx((2 * 50 * 200 + constant) / (50**2 + 200**2 + constant))


@pytest.mark.parametrize("shape", [(3,), (2, 4, 6, 5)])
@pytest.mark.parametrize("share", [1e-4, 0.5, 3.0])
def test_an_error_in_proportion_has_the_same_ratio_for_any_array(shape, share):
    reference = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    got = reference.astype(np.float64) * (1 + share)
    assert relative_error(got, reference) == pytest.approx(share, rel=1e-9)
    assert snr_db(got, reference) == pytest.approx(-20 * math.log10(share))


def test_against_nothing_any_error_is_infinite():
    nothing = np.zeros(4)
    assert snr_db(nothing + 1, nothing) == -math.inf
    assert relative_error(nothing + 1, nothing) == math.inf


def test_unsigned_pictures_do_not_wrap_around():
    assert psnr_db(np.uint8([0]), np.uint8([255])) == 0


@pytest.mark.parametrize("measure", [psnr_db, snr_db, relative_error, ssim])
def test_two_shapes_are_refused_even_where_they_would_broadcast(measure):
    with pytest.raises(ShapeError, match=r"got an array of \(16, 16, 1\) and a reference of \(16, 16, 3\)"):
        measure(np.zeros((16, 16, 1)), np.zeros((16, 16, 3)))


@pytest.mark.parametrize("shape", [(10, 64, 3), (64, 10, 3), (64, 64)])
def test_ssim_needs_room_for_its_window(shape):
    with pytest.raises(ShapeError, match="at least 11 pixels a side"):
        ssim(np.zeros(shape), np.zeros(shape))
