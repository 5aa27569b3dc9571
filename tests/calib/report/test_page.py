"""The page: well-formed, complete, self-contained, and the same again; what is written into it is no markup."""

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from latentrt import OutputError
from latentrt.report.markup import difference, unbroken
from latentrt_calib.evaluate.compare import Gates
from latentrt_calib.report.page import page_of, save_page
from latentrt_calib.report.report import GateReport
from tests.calib.comparisons import comparison
from tests.calib.reports import report
from tests.runtime.report.pages import Reader, check_stands_alone

SUBJECTS = {
    "one step": comparison((1, 4), steps=1),
    "one picture": comparison((3,)),
    "all equal": comparison((0, 0)),
    "hundred pictures": comparison(range(1, 101), steps=2),
    "other side": comparison((1, 2), size=(40, 24)),
    "report": report(),
    "one bucket": report(
        buckets=((999.0, 0.0),), layers=tuple(replace(one, ranges=one.ranges[:1]) for one in report().layers)
    ),
    "decoder": report(decoder=GateReport(30.0, 33.3, report(component="vae_decoder"))),
    "report of little": report(layers=(), buckets=(), sensitivity=(), ablations=(), settings={}),
}


@pytest.mark.parametrize("name", SUBJECTS)
def test_every_page_is_well_formed_and_needs_nothing_else(name):
    page = page_of(SUBJECTS[name], Gates(30, 24))
    check_stands_alone(page)


def test_the_same_subject_gives_the_same_page():
    assert page_of(report()) == page_of(report())


def test_the_pictures_are_the_samples_and_their_differences():
    compared = comparison()
    images = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
        for data in re.findall(r"base64,([^\"]*)", page_of(compared))
    ]
    assert len(images) == 3 * len(compared.samples)
    for sample, (reference, other, apart) in zip(compared.samples, zip(*[iter(images)] * 3, strict=True), strict=True):
        assert np.array_equal(reference, sample.reference) and np.array_equal(other, sample.other)
        assert np.array_equal(apart, difference(sample.other, sample.reference))


def test_prompts_and_names_are_no_markup():
    hostile = "</title><script>alert('&')</script>"
    compared = comparison((1, 2), prompts=[hostile, 'a "b" <i>'])
    compared = replace(compared, other=replace(compared.other, name=hostile))
    reader = Reader(page_of(compared))
    assert "script" not in reader.tags and hostile in reader.text
    assert reader.tags.count("i") == Reader(page_of(comparison((1, 2)))).tags.count("i")
    assert "it cost <most>" in Reader(page_of(report())).text


@pytest.mark.parametrize(
    ("gates", "said"),
    [
        (Gates(), None),
        (Gates(10, 10), "Within the gates"),
        (Gates(99, 10), "Under the gate. mean PSNR: got"),
        (Gates(10, 99), "Under the gate. worst PSNR: got"),
    ],
)
def test_the_verdict_is_there_where_there_are_gates(gates, said):
    text = Reader(page_of(comparison(), gates)).text
    assert [words for words in ("Within the gates", "Under the gate") if words in text] == (
        [said.partition(".")[0]] if said else []
    )
    assert said is None or said in text


def test_figures_are_shown():
    compared = comparison()
    text = Reader(page_of(compared)).text
    assert f"{compared.loss.psnr_db:.1f}\u00a0dB" in text and f"worst {compared.loss.worst_ssim:.4f}" in text
    assert "The least alike: \u201cpicture 4\u201d, seed 4." in text and "1 of 7 equal" in text
    assert "40.0 MB" in text and "a" * 10 in text


def test_a_report_has_its_sections():
    text = Reader(page_of(report())).text
    for title in (
        "Gain of each part of the method",
        "Layers that stay float",
        "Ranges over timesteps",
        "Most sensitive layers",
    ):
        assert title in text
    assert "80.0%" in text and "of its layers; 40.0% of all" in text and "73% less than before" in text
    assert "the first convolution" in text and "min and max" in text


@pytest.mark.parametrize(("own", "said"), [(None, "It stays float"), (report(component="vae_decoder"), "It is quant")])
def test_the_vae_decoder_has_a_section(own, said):
    plain, text = (Reader(page_of(report(decoder=gate))).text for gate in (None, GateReport(30.0, 28.5, own)))
    assert said in text and "have 28.50 dB, the gate is 30 dB" in text and "The VAE decoder" not in plain
    assert ("Bytes of vae_decoder" in text) == (own is not None)
    assert text.count("All 4 layers in figures") == (2 if own else 1)


def test_a_report_of_little_has_no_empty_sections():
    text = Reader(page_of(SUBJECTS["report of little"])).text
    for title in (
        "Gain of each part of the method",
        "Layers that stay float",
        "Ranges over timesteps",
        "Most sensitive layers",
    ):
        assert title not in text


def test_a_page_is_written_whole(tmp_path):
    save_page(tmp_path / "page.html", comparison())
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == page_of(comparison())
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_a_page_that_cannot_be_written_says_where(tmp_path):
    with pytest.raises(OutputError, match="name a file in a folder that exists"):
        save_page(tmp_path / "none" / "page.html", comparison())


def test_timesteps_that_no_step_reached_are_left_out():
    """They are no ranges at zero: four steps fall into four of ten ranges of timesteps."""
    ends = ((-1.0, 2.0), None, (-0.5, 0.5))
    gaps = tuple(replace(one, ranges=ends if one.ranges else ()) for one in report().layers)
    page = page_of(report(layers=gaps))
    text = Reader(page).text
    assert "No step of the pictures fell into the timesteps 699 to 300." in text
    assert "999 to 700" in text and "299 to 0" in text and "down.conv: -0.5 to 0.5" in text
    assert text.count("share of the largest value") == 1 and "no value" not in text
    for outline in re.findall(r'<polygon class="one" points="([^"]*)"', page):
        assert len(outline.split()) == 4
    nowhere = tuple(replace(one, ranges=(None,) * 3 if one.ranges else ()) for one in report().layers)
    assert "Ranges over timesteps" not in Reader(page_of(report(layers=nowhere))).text
    assert "No step of the pictures" not in Reader(page_of(report())).text


def test_names_of_levels_stand_beside_the_dots():
    page = page_of(comparison(range(1, 41), steps=2), Gates(30, 24))
    drawn = next(one for one in re.findall(r"<svg.*?</svg>", page) if "gate of the worst" in one)
    farthest = max(float(x) for x in re.findall(r'<circle class="one" cx="([\d.]+)"', drawn))
    [place] = re.findall(r'<text x="([\d.]+)"[^>]*>gate of the worst<', drawn)
    assert farthest + 3.5 < float(place) - 6 * len("gate of the worst")


def test_figures_and_units_stay_together():
    assert (
        unbroken("at 95 %, 24.1 ms to 1 s, 3 steps, 2 MB")
        == "at 95\u00a0%, 24.1\u00a0ms to 1\u00a0s, 3 steps, 2\u00a0MB"
    )
