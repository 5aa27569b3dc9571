"""Sheets, charts and the pictures for the documentation, of emoji: where what is drawn comes to be."""

import json
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import latentrt
from emoji import chart, curves, gallery, guidance
from examples.sheet import broken, sheet, small, table


def test_captions_are_broken_evenly_into_no_more_lines_than_needed():
    assert broken("a red apple", 128) == "a red apple"
    assert broken("a rocket on a navy background", 134) == "a rocket on a\nnavy background"
    assert broken("abcdefghijklmnopqrstuvwxyz", 20) == "abcdefghijklmnopqrstuvwxyz"


@pytest.mark.parametrize(("count", "columns", "size"), [(5, 3, (432, 322)), (2, 6, (852, 167)), (1, 1, (152, 167))])
def test_sheet_places_pictures_in_rows(count, columns, size):
    tiles = [Image.new("RGB", (128, 128), (10 * number, 0, 200)) for number in range(count)]
    paper = sheet(tiles, ["a thing"] * count, columns)
    assert paper.size == size
    for number in range(count):
        left, top = 12 + number % columns * 140, 12 + number // columns * 155
        assert paper.getpixel((left, top)) == paper.getpixel((left + 127, top + 127)) == (10 * number, 0, 200)
        assert paper.crop((left, top + 128, left + 128, top + 146)).convert("L").getextrema()[0] < 100  # the caption


def test_a_longer_caption_makes_its_row_higher():
    tiles = [Image.new("RGB", (128, 96))] * 4
    heights = [sheet(tiles, ["a", "b", text, "d"], 2).size[1] for text in ("c", "a rocket on a navy background")]
    assert heights == [258, 273]


def test_table_places_rows_and_columns():
    rows = {f"row {row}": [Image.new("RGB", (64, 64), (200, row, column)) for column in range(3)] for row in range(2)}
    paper = table(rows, ["one", "two", "three"])
    left, top = paper.size[0] - 3 * 76, paper.size[1] - 2 * 76
    assert left > 30 and top > 20
    for row in range(2):
        for column in range(3):
            assert paper.getpixel((left + 76 * column, top + 76 * row)) == (200, row, column)
            assert paper.getpixel((left + 76 * column + 63, top + 76 * row + 63)) == (200, row, column)
        assert paper.crop((0, top + 76 * row, left, top + 76 * row + 64)).convert("L").getextrema()[0] < 100


def test_small_pictures_keep_black_and_white_and_differ_by_two_at_most():
    values = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    got = np.asarray(small(Image.fromarray(values))).astype(int)
    assert np.abs(got - values).max() == 2 and len(np.unique(got)) == 52
    assert got.min() == 0 and got.max() == 255


@pytest.mark.parametrize(("command", "across"), [(gallery, 6), (guidance, 6)])
def test_pictures_for_the_documentation_are_drawn(command, across, tmp_path, monkeypatch):
    prompts = []

    def generate(prompt, **_):
        prompts.append(prompt)
        return SimpleNamespace(images=(Image.new("RGB", (128, 128), "teal"),))

    monkeypatch.setattr(latentrt, "load", lambda _: nullcontext(SimpleNamespace(generate=generate)))
    monkeypatch.chdir(tmp_path)
    for options, file in (([], command.OUT.name), (["--out", str(tmp_path / "picture.png")], "picture.png")):
        prompts.clear()
        monkeypatch.setattr("sys.argv", ["draw", *options])
        command.main()
        with Image.open(tmp_path / file) as picture:
            assert picture.size[0] >= across * 140
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([command.OUT.name, "picture.png"])
    assert prompts == list(gallery.PROMPTS if command is gallery else ("",) * 6 + guidance.PROMPTS * 5)


# Curves.


def line(step, seconds, **values):
    return {"step": step, "seconds": seconds} | values


LOG = [line(10, 20.0, loss=1.0), line(20, 40.0, loss=0.5), line(30, 60.0, loss=0.4)]


def test_steps_done_again_after_a_cut_count_once_and_their_time_twice():
    lines = [*LOG, line(25, 20.0, loss=0.45, nearest=0.5), line(35, 3580.0, loss=0.3)]
    assert [one["step"] for one in curves.last_run(lines)] == [10, 20, 25, 35]
    assert curves.hours(lines) == pytest.approx((60 + 3580) / 3600)
    assert curves.hours(LOG) == pytest.approx(60 / 3600)
    drawn = curves.chart_of(curves.Curve("diffusion", "nearest", "nearest", 100.0), lines)
    assert drawn.x.tolist() == [25] and drawn.raw.tolist() == drawn.smooth.tolist() == [50]
    assert drawn.note == "35 steps, 1.0 h"


def test_smoothing_keeps_lines_and_takes_noise_away():
    steps = np.arange(0.0, 2000, 10)
    np.testing.assert_allclose(curves.smooth(steps, steps * 3 + 1)[30:-30], (steps * 3 + 1)[30:-30], rtol=1e-6)
    noise = np.random.default_rng(0).normal(0, 1, len(steps))
    assert curves.smooth(steps, noise).std() < 0.5


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1000, [0, 200, 400, 600, 800, 1000]), (18.7, 23.2, [19, 20, 21, 22, 23]), (-0.01, 0.04, [-0.01, 0, 0.01])],
)
def test_ticks_are_round_and_inside(low, high, expected):
    np.testing.assert_allclose(chart.ticks(low, high)[: len(expected)], expected, atol=1e-9)
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in chart.ticks(low, high))
    assert len(chart.ticks(low, high)) <= 6


def test_a_chart_draws_its_curve_where_its_values_are():
    x = np.linspace(0, 100, 50)
    rising = np.asarray(chart.draw(chart.Chart("title", "note", "step", x, x, x)).convert("RGB")).astype(int)
    assert rising.shape == (chart.HEIGHT * 2, chart.WIDTH * 2, 3)
    blue = (np.abs(rising - chart.CURVE).sum(axis=2) < 60)[:, : (chart.WIDTH - chart.RIGHT) * 2]
    rows, columns = np.nonzero(blue)
    assert np.corrcoef(rows, columns)[0, 1] < -0.99
    assert columns.max() - columns.min() > 0.9 * 2 * (chart.WIDTH - chart.LEFT - chart.RIGHT)


@pytest.mark.parametrize(("stages", "size"), [(["diffusion"], (840, 460)), (["diffusion", "text"], (1680, 460))])
def test_every_stage_with_a_log_gets_a_chart(stages, size, tmp_path, monkeypatch):
    for stage in stages:
        lines = [one | {"right": 1.0} for one in LOG]
        (tmp_path / f"{stage}.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    monkeypatch.setattr("sys.argv", ["curves", "--logs", str(tmp_path), "--out", str(tmp_path / "curves.png")])
    curves.main()
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size == size


def test_without_a_log_the_error_says_what_to_run(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["curves", "--logs", str(tmp_path), "--out", str(tmp_path / "curves.png")])
    with pytest.raises(SystemExit, match="emoji.autoencoder"):
        curves.main()
    assert not list(tmp_path.iterdir())
