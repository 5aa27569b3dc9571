"""Evaluation in emoji, of pictures made here and a pipeline that draws what it is told: no model, no torch."""

import json
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import latentrt
from emoji import compose, evaluate, fidelity, goals, reconstruction, report
from emoji.backgrounds import background, lab
from emoji.captions import held_out
from emoji.fidelity import Ask
from emoji.neighbours import Neighbours, Set
from emoji.words import COLOURS

LABELS = ("red apple", "rocket", "alarm clock", "grapes", "cat face")
SPOTS = ((20, 30), (60, 20), (30, 60), (64, 64), (90, 30))  # where each has its square, of 30 pixels
PAINTS = ((200, 30, 60), (220, 220, 230), (90, 90, 200), (120, 40, 150), (250, 170, 40))


def square(spot, paint, side=30):
    picture = np.zeros((128, 128, 4), np.float32)
    picture[spot[0] : spot[0] + side, spot[1] : spot[1] + side] = [*np.array(paint) / 255, 1]
    return picture


def on(colour, picture=None):
    return compose.on_background(np.zeros((128, 128, 4), np.float32) if picture is None else picture, COLOURS[colour])


@pytest.fixture(scope="module")
def pictures():
    return Set(LABELS, [square(spot, paint) for spot, paint in zip(SPOTS, PAINTS, strict=True)])


def image(picture):
    return Image.fromarray((picture * 255).round().astype(np.uint8))


def pipeline(draw, codec=lambda pixels: pixels):
    """What evaluation sees of a pipeline: `draw(prompt)` is the picture of a prompt, `codec` the autoencoder's loss."""
    calls = {"vae_encoder": lambda image: {"mean": image}, "vae_decoder": lambda latents: {"image": codec(latents)}}
    return nullcontext(
        SimpleNamespace(
            engines=calls,
            call=lambda component, **feeds: calls[component](**feeds),
            generate=lambda prompt, **_: SimpleNamespace(images=(image(draw(prompt)),)),
            bundle=SimpleNamespace(
                folder="models",
                sha256="0" * 64,
                manifest=SimpleNamespace(name="test", defaults=SimpleNamespace(guidance=4.0, sampler="ddim")),
            ),
        )
    )


def true_drawer(pictures):
    """Draws every prompt as it should be."""
    asked = {ask.prompt: ask for label in LABELS for ask in (Ask(label), *(Ask(label, colour) for colour in COLOURS))}
    cutouts = dict(zip(LABELS, pictures.cutouts, strict=True))
    return lambda prompt: on(asked[prompt].colour or "white", cutouts[asked[prompt].label])


# Backgrounds.


@pytest.mark.parametrize(
    ("colour", "expected"),
    [
        ((1, 1, 1), (100, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
        ((1, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 1, 0), (87.73, -86.18, 83.18)),
        ((0, 0, 1), (32.30, 79.19, -107.86)),
    ],
)
def test_lab_of_the_primaries(colour, expected):
    np.testing.assert_allclose(lab(np.array(colour)), expected, atol=0.05)


@pytest.mark.parametrize("colour", COLOURS)
def test_background_is_found_behind_a_picture_and_noise(colour):
    noise = np.random.default_rng(0).normal(0, 0.1, (128, 128, 3))
    picture = np.clip(on(colour, square((10, 10), (200, 30, 60), side=108)) + noise, 0, 1).astype(np.float32)
    assert background(picture) == colour


@pytest.mark.parametrize("colour", COLOURS)
def test_background_outvotes_a_corner(colour):
    covering = "red" if colour != "red" else "green"
    assert background(on(colour, square((0, 0), COLOURS[covering], side=40))) == colour


def test_background_outvotes_two_corners_of_different_colours():
    picture = square((0, 0), COLOURS["red"]) + square((98, 98), COLOURS["blue"])
    assert background(on("green", picture)) == "green"


@pytest.mark.parametrize("spots", [((0, 0), (0, 98)), ((98, 0), (98, 98)), ((0, 0), (98, 98))])
def test_with_two_corners_against_two_the_even_colour_wins(spots):
    picture = sum(square(spot, (180, 60, 60)) for spot in spots)  # nearest to red, but no named colour
    assert background(on("cyan", picture)) == "cyan"


def test_background_covered_in_three_corners_is_not_found():
    picture = sum(square(spot, COLOURS["red"]) for spot in ((0, 0), (0, 98), (98, 0)))
    assert background(on("green", picture)) == "red"


# Neighbours.


def test_rank_counts_the_nearer_ones():
    near = Neighbours(("a", "b", "c"), np.array([0.3, 0.1, 0.2], np.float32))
    assert (near.nearest, near.rank("a"), near.rank("b"), near.rank("c")) == ("b", 3, 1, 2)
    assert near.distance("c") == pytest.approx(0.2)


@pytest.mark.parametrize("colour", ["white", "teal"])
def test_each_picture_is_its_own_nearest_on_every_background(pictures, colour):
    for label, cutout in zip(LABELS, pictures.cutouts, strict=True):
        near = pictures.neighbours(on(colour, cutout), colour)
        assert near.nearest == label and near.distance(label) == pytest.approx(0, abs=5e-3)


def test_mirrored_picture_is_the_same_where_it_may_be_mirrored(pictures):
    for label in ("red apple", "alarm clock"):
        mirrored = compose.mirror(pictures.cutouts[LABELS.index(label)])
        near = pictures.neighbours(on("white", mirrored))
        assert (near.distance(label) < 5e-3) == (label == "red apple")


def test_distance_is_that_of_mirroring_the_reference(pictures):
    drawn = on("white", square((22, 66), (190, 40, 50)))
    reference = Set(["x"], [compose.mirror(pictures.cutouts[0])])
    expected = reference.neighbours(drawn).distance("x")
    assert expected > 0.05 and pictures.neighbours(drawn).distance("red apple") == pytest.approx(expected, abs=5e-4)


# The autoencoder.


def test_psnr_of_an_even_error():
    pictures = np.full((2, 8, 8, 3), 0.5, np.float32)
    others = pictures + np.array([0.1, 0.01], np.float32)[:, None, None, None]
    np.testing.assert_allclose(reconstruction.psnr(pictures, others), [20, 40], atol=1e-3)
    assert np.isinf(reconstruction.psnr(pictures, pictures)).all()


def test_reconstruction_goes_through_the_range_of_the_graphs_and_is_clipped(pictures):
    seen = []

    def codec(pixels):
        seen.append(pixels)
        return pixels + 0.2

    with pipeline(None, codec) as pipe:
        picture = on("red", pictures.cutouts[0])[None]
        back = reconstruction.reconstruct(pipe.call, picture)
    assert seen[0].shape == (1, 3, 128, 128) and seen[0].min() < -0.7
    np.testing.assert_allclose(back, np.minimum(picture + 0.1, 1), atol=1e-6)


def test_every_picture_is_measured_on_white_and_on_a_colour(pictures):
    with pipeline(None, lambda pixels: pixels * 0.9) as pipe:
        got, again = (list(reconstruction.measure(pipe.call, pictures)) for _ in range(2))
    assert got == again
    assert [one.label for one in got] == [*LABELS, *LABELS]
    assert {one.background for one in got[:5]} == {"white"} and "white" not in {one.background for one in got[5:]}
    expected = -10 * np.log10(((0.05 * (2 * on("white", pictures.cutouts[0]) - 1)) ** 2).mean())
    assert got[0].psnr_db == pytest.approx(expected, abs=1e-3)


# Prompts.


def test_prompts_are_written_as_captions_are():
    assert Ask("red apple").prompt == "a red apple"
    assert Ask("octopus", "orange").prompt == "an octopus on an orange background"
    assert Ask("man’s shoe").prompt == "a man's shoe"
    assert Ask("red apple").seed == 0xE487F4C5  # CRC-32 of the prompt


def test_pairs_are_seen_or_unseen():
    labels = [f"thing {number}" for number in range(400)]
    assert all(ask.colour == held_out(ask.label) for ask in fidelity.unseen(labels, 300))
    assert not any(ask.colour == held_out(ask.label) for ask in fidelity.seen(labels, 300))
    assert {ask.colour for ask in fidelity.seen(labels, 300)} == set(COLOURS)


@pytest.mark.parametrize("kind", [fidelity.plain, fidelity.seen, fidelity.unseen])
def test_fewer_prompts_are_the_first_of_more_and_none_comes_twice(kind):
    labels = [f"thing {number}" for number in range(40)]
    assert kind(labels, 7) == kind(labels, 30)[:7]
    assert sorted(ask.label for ask in kind(labels, 99)) == sorted(labels)


# Goals and the report.


def test_a_pipeline_that_draws_all_as_asked_meets_every_goal(pictures):
    with pipeline(true_drawer(pictures), lambda pixels: pixels * 0.99) as pipe:
        evaluation = evaluate.evaluate(pipe, {}, pictures, labels=5, pairs=5)
    shares = [figure for figure in evaluation.figures if figure.unit == "%"]
    assert len(shares) == 6 and all(figure.value == 100 for figure in shares)
    assert goals.status(evaluation.figures) == 0


def test_figures_of_a_pipeline_that_always_draws_the_same(pictures):
    with pipeline(lambda prompt: on("teal", pictures.cutouts[1]), lambda pixels: pixels * 0) as pipe:
        evaluation = evaluate.evaluate(pipe, {}, pictures, labels=5, pairs=5)
    assert {one.background for one in [*evaluation.plain, *evaluation.seen]} == {"teal"}
    missed = goals.status(evaluation.figures)
    assert "autoencoder: mean PSNR" in missed and "seen pairs: the right background" in missed
    assert all(one.asked_background != "teal" for one in goals.wrong_backgrounds(evaluation))


@pytest.mark.parametrize(("value", "missed"), [(70.0, False), (69.99, True), (71.0, False)])
def test_a_goal_is_the_least_that_is_enough(value, missed):
    figures = [goals.Figure("the thing", value, "%", 70.0), goals.Figure("something", 0.0, "%")]
    assert bool(goals.status(figures)) == missed
    assert not missed or "the thing" in goals.status(figures) and "something" not in goals.status(figures)


def answer(rank, *, right=0.3, asked="red apple", got="rocket"):
    return fidelity.Answer("a red apple", 1, asked, "white", "white", got, rank, right, 0.1)


def test_shares_and_confusions():
    plain = [answer(1), answer(2, right=0.2), answer(5, right=0.4), answer(6)]
    assert [figure.value for figure in goals.things(plain)] == [25, 75]
    assert [one.rank for one in goals.confusions(plain)] == [5, 6, 2]


def test_quality_of_the_autoencoder():
    decoded = [reconstruction.Decoded("x", colour, psnr) for colour, psnr in (("white", 30.0), ("red", 20.0))]
    assert [figure.value for figure in goals.quality(decoded)] == [25, 30, 20, 20.5, 20]
    assert [figure.met for figure in goals.quality(decoded)] == [False, True, True, True, True]


def test_report_has_the_figures_and_every_picture(pictures, tmp_path):
    with pipeline(true_drawer(pictures), lambda pixels: pixels * 0.99) as pipe:
        evaluation = evaluate.evaluate(pipe, {}, pictures, labels=5, pairs=3)
    text = report.save(tmp_path / "new", {"bundle": "test"}, evaluation)
    assert (tmp_path / "new" / "evaluation.md").read_text() == text
    assert "| the right thing is the nearest | 100.0 % | at least 70 % | met |" in text
    content = json.loads((tmp_path / "new" / "evaluation.json").read_text())
    assert [len(content[kind]) for kind in ("decoded", "plain", "seen", "unseen", "confusions")] == [10, 5, 3, 3, 0]
    assert content["about"] == {"bundle": "test"} and content["figures"][0]["goal"] == 27


def test_report_marks_what_is_missed():
    assert report.cells(goals.Figure("x", 1.0, "dB", 27.0)) == ("x", "1.0 dB", "at least 27 dB", "**missed**")
    assert report.cells(goals.Figure("x", 1.0, "dB")) == ("x", "1.0 dB", "", "")


@pytest.mark.parametrize(("loss", "code"), [(0.99, 0), (0.1, "goals missed: autoencoder: mean PSNR")])
def test_exit_status_says_whether_goals_are_met(pictures, tmp_path, monkeypatch, loss, code):
    monkeypatch.setattr(latentrt, "load", lambda _: pipeline(true_drawer(pictures), lambda pixels: pixels * loss))
    monkeypatch.setattr(evaluate.index, "load", lambda: None)
    monkeypatch.setattr(evaluate.neighbours, "load", lambda _: pictures)
    monkeypatch.setattr(evaluate.gallery, "PROMPTS", tuple(Ask(label).prompt for label in LABELS))
    monkeypatch.setattr("sys.argv", ["evaluate", "--labels", "2", "--pairs", "2", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as exited:
        evaluate.main()
    assert exited.value.code == code or str(exited.value.code).startswith(str(code) + " ")
    assert {path.name for path in tmp_path.iterdir()} == {"evaluation.md", "evaluation.json", "gallery.png"}


def test_a_bundle_without_an_encoder_is_an_error(pictures):
    with pipeline(None) as pipe, pytest.raises(latentrt.BundleError, match="vae_encoder"):
        del pipe.engines["vae_encoder"]
        evaluate.evaluate(pipe, {}, pictures, labels=1, pairs=1)


def test_evaluation_needs_no_torch():
    code = "import sys, emoji.evaluate; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
