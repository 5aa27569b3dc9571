"""Files of prompts: what counts, what ships, and what is refused."""

import io
from pathlib import Path

import pytest

from latentrt import RequestError
from latentrt.bundle.catalog import MODELS
from latentrt.bundle.folder import open_bundle
from latentrt.pipeline.load import load_tokenizer
from latentrt.prompt import read
from latentrt.prompt.file import read_prompts
from latentrt_calib.recording.prompts import SHIPPED, for_images

EMOJI = Path(__file__).parents[3] / "emoji" / "prompts"


def test_blank_lines_and_comments_do_not_count(tmp_path):
    file = tmp_path / "mine.txt"
    file.write_bytes("\ufeff# all mine\r\n\n  a cat \n#a dog\n \t\nein Käse # 7\n\n猫".encode())
    assert read_prompts(file) == ("a cat", "ein Käse # 7", "猫")


def test_many_different_prompts_ship_that_every_syntax_takes():
    prompts = read_prompts(SHIPPED)
    assert len(prompts) == 64 and len(set(prompts)) == 64
    tokenizer = load_tokenizer(open_bundle(MODELS / "emoji", verify=False))
    for prompt in prompts:
        [sub_prompt] = read(prompt, tokenizer, 1, syntax="strict", compose=True).sub_prompts
        assert sub_prompt.weight == 1 and sub_prompt.texts == (prompt,)


def test_the_built_in_model_has_prompts_of_its_own_and_is_not_judged_on_what_it_is_calibrated_on():
    calibration, evaluation = (read_prompts(EMOJI / f"{name}.txt") for name in ("calibration", "evaluation"))
    assert (len(set(calibration)), len(set(evaluation))) == (64, 100)
    assert not set(calibration) & set(evaluation)


def test_lines_end_in_line_feeds_alone(tmp_path):
    """Text that was pasted from the web has other marks, which belong to the prompt."""
    file, marks = tmp_path / "mine.txt", "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e\r"
    file.write_bytes(f"a{'b'.join(marks)}c\r\nd\n".encode())
    assert read_prompts(file) == (f"a{'b'.join(marks)}c", "d")


def test_prompts_from_stdin(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("\ufeffa cat\n# no\nein Käse".encode()), "ascii"))
    assert read_prompts(Path("-")) == ("a cat", "ein Käse")
    for closed in (None, io.StringIO("a")):
        monkeypatch.setattr("sys.stdin", closed)
        with pytest.raises(RequestError, match="-: got a stdin that is closed, expected a file of prompts"):
            read_prompts(Path("-"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "got no prompt in 0 lines"),
        (b"\n# nothing\n\n", "got no prompt in 3 lines"),
        (b"a cat\ncaf\xe9\n", "got the byte 0xe9 at 9, expected text in UTF-8"),
        (b"\xff\xfea\x00", "got the byte 0xff at 0"),
    ],
)
def test_a_file_without_prompts_is_refused(tmp_path, content, message):
    file = tmp_path / "mine.txt"
    file.write_bytes(content)
    with pytest.raises(RequestError, match=f"mine.txt: {message}.*--prompts"):
        read_prompts(file)


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(RequestError, match="none.txt: got No such file or directory, expected a file of prompts"):
        read_prompts(tmp_path / "none.txt")
    with pytest.raises(RequestError, match="got Is a directory"):
        read_prompts(tmp_path)


@pytest.mark.parametrize(("images", "expected"), [(0, ""), (1, "a"), (3, "abc"), (7, "abcabca")])
def test_prompts_start_again_where_they_run_out(images, expected):
    assert for_images("abc", images) == tuple(expected)
