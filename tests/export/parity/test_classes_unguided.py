"""A class-conditional model without an unconditional class, such as the paper's cin256: it cannot be guided."""

import pytest

from tests.export.ldm_pairs import Case, classes
from tests.sweep import sweep

pytestmark = sweep


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return classes(tmp_path_factory.mktemp("classes"), 1000)


@pytest.mark.parametrize("case", [Case(1), Case(2, eta=1.0), Case(20, seeds=(0, 1, 2))])
def test_pictures_are_those_of_diffusers_modules(pair, case):
    assert pair.psnr(case) > 110


def test_the_default_is_no_guidance(pair):
    assert pair.ours.bundle.manifest.defaults.guidance == 1
