"""The data stages of emoji on rows and pictures made here: no download, no torch."""

import itertools
import json

import numpy as np
import pytest
from PIL import Image

from emoji import compose, fetch, index, pictures, tokenizer
from emoji.captions import COLOURED, PLAIN, caption, held_out, pair_caption, with_article
from emoji.features import distances, feature
from emoji.index import Row
from emoji.words import COLOURS, SYNONYMS

ROWS = [
    Row("1f34e.webp", "red apple", ("fruit", "food", "red"), "food and drink"),
    Row("1f431.webp", "cat face", ("animal", "pet", "cat"), "animals and nature"),
    Row("1f680.webp", "rocket", (), "travel and places"),
    Row("1f347.webp", "grapes", ("fruit",), "food and drink"),
]


def drawn(count, seed=0):
    rng = np.random.default_rng(seed)
    return [(row, caption(row, rng)) for row in itertools.islice(itertools.cycle(ROWS), count)]


def disc(colour=(200, 30, 60), side=256):
    """A disc with a soft edge whose transparent pixels hide a loud green."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    alpha = np.clip(side / 4 - np.hypot(x, y) + 0.5, 0, 1)
    pixels = np.where(alpha[..., None] > 0, colour, (0, 255, 0))
    return Image.fromarray(np.dstack([pixels, alpha * 255]).astype(np.uint8), "RGBA")


def lab(colour):
    """CIE Lab of an sRGB colour, D65 (IEC 61966-2-1, CIE 1976)."""
    c = np.asarray(colour) / 255
    c = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ c
    f = xyz / (0.9505, 1, 1.089)
    f = np.where(f > 216 / 24389, np.cbrt(f), (24389 / 27 * f + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_captions_depend_on_the_seed_alone():
    assert drawn(200) == drawn(200)
    assert drawn(200) != drawn(200, seed=1)


def test_held_out_pairs_are_never_drawn():
    draws = drawn(20_000)
    assert not [row.label for row, got in draws if got.colour == held_out(row.label)]
    for row in ROWS:
        assert {got.colour for other, got in draws if other == row} == set(COLOURS) - {held_out(row.label)}


def test_pairs_of_pictures_leave_out_what_either_holds_out():
    rng = np.random.default_rng(0)
    never = {held_out(ROWS[0].label), held_out(ROWS[1].label)}
    assert not never & {pair_caption(ROWS[0], ROWS[1], rng).colour for _ in range(2000)}


def test_held_out_colours_are_these():
    assert [held_out(row.label) for row in ROWS[:3]] == ["blue", "navy", "cyan"]
    assert PLAIN not in {held_out(str(number)) for number in range(1000)}


def test_a_caption_names_its_thing_and_its_colour():
    for row, (text, colour) in drawn(2000):
        assert any(name in text for name in (row.label, *SYNONYMS.get(row.label, ())))
        if colour != PLAIN:
            assert colour in text
        assert not [other for other in COLOURED if f"{other} background" in text and other != colour]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("red apple", "a red apple"),
        ("octopus", "an octopus"),
        ("unicorn", "a unicorn"),
        ("grapes", "grapes"),
        ("smiling face with hearts", "a smiling face with hearts"),
        ("sun", "the sun"),
        ("orange", "an orange"),
    ],
)
def test_articles(name, expected):
    assert with_article(name) == expected


def test_colours_are_well_apart():
    assert len(COLOURS) >= 12
    pairs = itertools.combinations(COLOURS.values(), 2)
    assert min(np.linalg.norm(lab(one) - lab(other)) for one, other in pairs) > 25


@pytest.mark.parametrize("colour", [COLOURS["white"], COLOURS["teal"], COLOURS["black"]])
def test_background_is_exact_and_the_picture_keeps_its_colour(colour):
    picture = compose.on_background(compose.cutout(disc()), colour)
    assert picture.shape == (128, 128, 3) and picture.dtype == np.float32
    assert np.array_equal(picture[0, 0], np.float32(colour) / np.float32(255))
    np.testing.assert_allclose(picture[64, 64], np.array((200, 30, 60)) / 255, atol=1e-6)


def test_hidden_colours_do_not_show_at_the_edge():
    picture = compose.cutout(disc())
    # Every pixel is a mix of the disc's one colour with the background: colour is alpha times it, green nowhere.
    np.testing.assert_allclose(picture[..., :3], picture[..., 3:] * np.array((200, 30, 60)) / 255, atol=1e-5)
    assert picture.min() >= 0 and picture.max() <= 1
    assert (picture[..., :3] <= picture[..., 3:]).all()


def test_two_pictures_stand_side_by_side():
    both = compose.beside(compose.cutout(disc((255, 0, 0))), compose.cutout(disc((0, 0, 255))))
    np.testing.assert_allclose(both[64, 32], (1, 0, 0, 1), atol=1e-6)
    np.testing.assert_allclose(both[64, 96], (0, 0, 1, 1), atol=1e-6)
    assert not both[:32].any() and not both[96:].any()


def test_what_a_mirror_would_make_wrong_is_not_mirrored():
    fixed = ("alarm clock", "magnifying glass tilted left", "1st place medal", "dollar banknote", "slot machine")
    assert not any(map(compose.may_mirror, fixed))
    assert all(map(compose.may_mirror, ("red apple", "cat face", "rocket", "grinning face")))
    picture = compose.cutout(disc())
    assert np.array_equal(compose.mirror(compose.mirror(picture)), picture)


def test_distance_is_zero_for_equal_pictures_and_one_for_black_and_white():
    black, white = (np.full((128, 128, 3), value, dtype=np.float32) for value in (0, 1))
    between = distances(np.stack([feature(black)]), np.stack([feature(black), feature(white)]))
    np.testing.assert_allclose(between, [[0, 1]], atol=1e-3)


def test_of_near_duplicates_the_first_stays():
    red, nearly, blue, pale = (
        compose.cutout(disc(colour)) for colour in ((200, 30, 60), (205, 30, 60), (20, 30, 200), (255, 255, 250))
    )
    full = np.ones_like(red) * np.float32([0, 0, 0, 1])
    assert pictures.chosen(np.stack([red, nearly, blue, pale, full]), first=0) == [0, 2]


def test_index_is_read_as_it_was_written(tmp_path):
    index.save(ROWS, tmp_path / "index.jsonl")
    assert index.load(tmp_path / "index.jsonl") == ROWS


def test_a_missing_index_says_what_to_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="emoji.pictures"):
        index.load(tmp_path / "index.jsonl")


def test_a_package_with_another_hash_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "FOLDER", tmp_path)
    fetch.FLUENT.tarball.parent.mkdir(parents=True)
    fetch.FLUENT.tarball.write_bytes(b"something else")
    with pytest.raises(fetch.FetchError, match="delete the file"):
        fetch.load(fetch.FLUENT)


def test_without_npm_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "FOLDER", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(fetch.FetchError, match=r"install Node\.js"):
        fetch.load(fetch.FLUENT)


@pytest.fixture(scope="module")
def trained():
    return tokenizer.train(tokenizer.texts(ROWS), entries=800)


def test_tokenizer_is_the_same_each_time(trained):
    assert tokenizer.train(tokenizer.texts(ROWS), entries=800) == trained


@pytest.mark.parametrize(
    "text", ["a red apple on a blue background", "(cat:1.2), [a|b] {x} 3d", "crème brûlée", "日本 🍎", "zygote #7"]
)
def test_text_comes_back_from_its_ids(trained, text):
    encoder = tokenizer.tokenizer(*trained)
    ids = encoder.ids(text)
    assert encoder.eos not in ids  # which is what an unknown token would become
    # The runtime's decoder leaves the ends of words in, which is as good for telling that nothing was lost.
    assert encoder.backend.decode(ids).replace("</w>", "") == text.replace(" ", "")


def test_each_word_of_a_caption_is_a_token(trained):
    encoder = tokenizer.tokenizer(*trained)
    assert len(encoder.ids("a red apple on a blue background, fruit")) == 9
    assert encoder(["a cat face"])[0, :2].tolist() == [0, trained[0]["a</w>"]]


def test_saved_tokenizer_gives_the_same_ids(trained, tmp_path):
    tokenizer.save(*trained, tmp_path)
    encoder = tokenizer.tokenizer(*trained)
    again = type(encoder).load(tmp_path / "tokenizer.json", length=32, bos=0, eos=1, pad=1)
    lines = [got.text for _, got in drawn(100)]
    assert np.array_equal(again(lines), encoder(lines))
    assert json.loads((tmp_path / "vocab.json").read_text()) == trained[0]
