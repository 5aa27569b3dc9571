"""The pieces of a page."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from latentrt.report.markup import difference, megabytes, picture


def test_a_difference_is_amplified_and_does_not_wrap_around():
    one, other = np.uint8([[[0, 10, 255]]]), np.uint8([[[255, 13, 250]]])
    assert difference(one, other).tolist() == difference(other, one).tolist() == [[[255, 24, 40]]]


def test_a_large_picture_is_made_smaller():
    data = re.findall(r"base64,([^\"]*)", picture(np.zeros((600, 1200, 3), np.uint8), "x"))
    assert Image.open(io.BytesIO(base64.b64decode(data[0]))).size == (512, 256)


@pytest.mark.parametrize(("count", "shown"), [(0, "0.0 MB"), (12_345_678, "12.3 MB"), (3_400_000_000, "3.40 GB")])
def test_bytes_are_in_a_unit_that_suits_them(count, shown):
    assert megabytes(count) == shown
