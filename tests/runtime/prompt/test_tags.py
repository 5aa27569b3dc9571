"""LoRA tags in prompts: what they say, which file they name, and that the picture is that of the file given by hand."""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import latentrt
from latentrt.errors import RequestError
from latentrt.lora.folder import find
from latentrt.lora.tagged import FOLDER
from latentrt.pipeline.pipeline import Pipeline
from latentrt.pipeline.refine import handed_over
from latentrt.prompt import Tag, read, tags_of, untagged
from latentrt.prompt.tags import Order
from latentrt.request.interpolation import between
from latentrt.request.request import Request
from latentrt.request.settings import resolve
from tests.runtime.kohya import save_lora

SMALL: dict[str, Any] = {"steps": 2, "seed": 3, "width": 32, "height": 24}


@pytest.fixture(scope="module")
def loras(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loras")
    for seed, name in enumerate(("ink", "sub/oil v1.5", "sub/deep/wash")):
        save_lora(folder / f"{name}.safetensors", seed)
    (folder / "sub/deep/wash.safetensors").rename(folder / "sub/deep/wash.SAFETENSORS")
    return folder


@pytest.fixture(scope="module")
def emoji(loras: Path) -> Iterator[Pipeline]:
    with latentrt.load("emoji", verify=False, engine="onnxruntime", lora_dir=loras) as pipeline:
        yield pipeline


def drawn(pipeline: Pipeline, prompt: str, **options: Any) -> bytes:
    return pipeline.steps(Request(prompt, **{**SMALL, **options})).latents().tobytes()


@pytest.mark.parametrize(
    ("written", "order", "unet", "text"),
    [
        ("<lora:ink>", "a1111", 1.0, 1.0),
        ("<lora:ink:0.8>", "a1111", 0.8, 0.8),
        ("<lora:ink:0.5:0.8>", "a1111", 0.8, 0.5),
        ("<lora:ink:0.8:0.5>", "comfyui", 0.8, 0.5),
        ("<lora:ink:0.8>", "comfyui", 0.8, 0.8),
        ("<lora:ink:te=0.5>", "a1111", 0.5, 0.5),
        ("<lora:ink:unet=0.5>", "a1111", 0.5, 1.0),
        ("<lora:ink:te=0.5:unet=0.8>", "a1111", 0.8, 0.5),
        ("<lora:ink:unet=0.8:te=0.5>", "comfyui", 0.8, 0.5),
        ("<lora:ink:0.3:unet=0.8>", "a1111", 0.8, 0.3),
        ("<lora:ink:-.5>", "a1111", -0.5, -0.5),
        ("<lyco:ink:1e-1>", "a1111", 0.1, 0.1),
        ("<LoRA: ink : 0.8 >", "a1111", 0.8, 0.8),
        ("<lora:my ink v1.5:1>", "a1111", 1.0, 1.0),
    ],
)
def test_what_a_tag_says(written: str, order: Order, unet: float, text: float) -> None:
    [tag] = tags_of(f"a cat {written}, red", order)
    assert (tag.unet, tag.text, tag.index) == (unet, text, 6)
    assert untagged(f"a cat {written}, red") == "a cat , red"


def test_several_tags_in_order() -> None:
    assert tags_of("<lora:a:1><lora:b:2> x <lora:a:3>") == [Tag("a", 1, 1, 0), Tag("b", 2, 2, 10), Tag("a", 3, 3, 23)]
    assert tags_of("a < b, c > d, <3, <a>, <lora>, lora:x:1") == []


@pytest.mark.parametrize(
    ("prompt", "place", "said"),
    [
        ("a <hypernet:x:1>", 3, "got a hypernetwork, which latentrt does not support"),
        ("a <embedding:x>", 3, "got a tag of the kind 'embedding'"),
        ("a <lora:ink:0.8", 3, "never closed"),
        ("a <lora:", 3, "never closed"),
        ("a < lora:ink:1>", 3, "never closed, or empty"),
        ("<lora:ink:1> <lora:ink", 14, "never closed"),
        ("a <lora::1>", 3, "a LoRA without a name"),
        ("a <lora: >", 3, "a LoRA without a name"),
        ("a <lora:ink:>", 13, "got the number ''"),
        ("a <lora:ink:strong>", 13, "got the number 'strong'"),
        ("a <lora:ink:1:x>", 15, "got the number 'x'"),
        ("a <lora:ink:nan>", 13, "got the number 'nan'"),
        ("a <lora:ink:1e999>", 13, "got the number '1e999'"),
        ("a <lora:ink:te=x>", 13, "got the number 'te=x'"),
        ("a <lora:ink:1:1:4>", 17, "got '4' in a LoRA's tag, which latentrt does not know"),
        ("a <lora:ink:1:lbw=ALL>", 15, "got 'lbw=ALL' in a LoRA's tag"),
        ("a <lora:none:1>", 3, "got the LoRA 'none', expected none.safetensors in "),
        ("a <lora:../ink:1>", 3, "got the LoRA '../ink', expected ../ink.safetensors in "),
        ("(a <lora:ink:1>", 1, "'(' that is never closed"),
    ],
)
def test_a_tag_that_cannot_be_served_is_an_error_at_its_place(
    emoji: Pipeline, prompt: str, place: int, said: str
) -> None:
    for options, where in (
        ({"prompt": prompt}, ""),
        ({"prompt": "b", "blend": prompt, "blend_strength": 0.5}, "blend"),
    ):
        with pytest.raises(RequestError) as caught:
            emoji.steps(Request(**{**SMALL, **options}))
        first, _, pointed = str(caught.value).split("\n")
        assert said in first and f"prompt: character {place}: " in first
        assert pointed == " " * (place + 1) + "^"
        assert where in ("", first.partition(":")[0]) or "never closed" in said


@pytest.mark.parametrize("syntax", ["strict", "lenient"])
def test_without_a_folder_the_tag_says_how_to_name_one(fake: Pipeline, syntax: str) -> None:
    with pytest.raises(
        RequestError, match=r"character 3: got the LoRA 'ink', expected a folder .*--lora-dir.*lora_dir="
    ):
        fake.steps(Request("a <lora:ink:1>", syntax=syntax, **SMALL))  # type: ignore[arg-type]
    fake.lora_dir = "nowhere"
    with pytest.raises(RequestError, match="expected it in nowhere, which is no folder"):
        fake.steps(Request("a <lora:ink:1>", **SMALL))


def test_negative_prompts_have_none(emoji: Pipeline) -> None:
    with pytest.raises(RequestError, match="negative prompt: character 3: got a tag in a negative prompt"):
        emoji.steps(Request("a", negative="b <lora:ink:1>", **SMALL))
    lenient = emoji.steps(Request("a", negative="b <lora:ink:1>", syntax="lenient", guidance=3, **SMALL))
    assert list(lenient._prepared.prompts.negative.chunks) == ["b <lora:ink:1>"]


def test_lenient_and_plain_prompts(fake: Pipeline) -> None:
    fake.lora_dir = "nowhere"
    read_as = {}
    for syntax, text in (("plain", "a <lora:ink:1> b"), ("lenient", "a <lora:ink b"), ("lenient", "a <fog:x> b")):
        run = fake.steps(Request(text, syntax=syntax, **SMALL))  # type: ignore[arg-type]
        read_as[syntax, text] = next(iter(run._prepared.prompts.positive.chunks))
    assert list(read_as.values()) == ["a <lora:ink:1> b", "a <lora:ink b", "a  b"]


@pytest.mark.parametrize(
    ("tagged", "bare", "scales"),
    [
        ("a red apple<lora:ink:0.8>", "a red apple", {"ink": 0.8}),
        ("<lora:ink:0.5:0.8> a red apple", " a red apple", {"ink": (0.8, 0.5)}),
        ("a (red <lora:ink>:1.2) apple", "a (red :1.2) apple", {"ink": 1}),
        ("a <lyco:oil v1.5:0.8> cat", "a  cat", {"sub/oil v1.5": 0.8}),
        ("a <lora:sub/oil v1.5.safetensors:0.8> cat", "a  cat", {"sub/oil v1.5": 0.8}),
        ("a cat <lora:ink:0.5> AND a dog <lora:WASH:-1>", "a cat  AND a dog ", {"ink": 0.5, "sub/deep/wash": -1}),
        ("a <lora:ink:0.5> <lora:ink:0.25>cat", "a  cat", {"ink": 0.75}),
        ("a [cat<lora:ink:0.5>:dog:1]", "a [cat:dog:1]", {"ink": 0.5}),
        ("a <lora:ink:0>cat", "a cat", {}),
    ],
)
def test_the_picture_is_that_of_the_files_given_by_hand(
    emoji: Pipeline, loras: Path, tagged: str, bare: str, scales: dict[str, Any]
) -> None:
    files = {file.relative_to(loras).with_suffix("").as_posix(): file for file in loras.rglob("*.*") if file.is_file()}
    files["sub/oil v1.5"] = loras / "sub/oil v1.5.safetensors"
    by_hand = emoji.with_loras({files[name]: scale for name, scale in scales.items()})
    assert drawn(emoji, tagged) == drawn(by_hand, bare)
    assert not scales or drawn(emoji, tagged) != drawn(emoji, bare)


def test_the_order_of_two_numbers(emoji: Pipeline, loras: Path) -> None:
    by_hand = emoji.with_loras({loras / "ink.safetensors": (0.8, 0.1)})
    assert drawn(emoji, "a<lora:ink:0.1:0.8>") == drawn(by_hand, "a")
    assert drawn(emoji, "a<lora:ink:0.8:0.1>", lora_tags="comfyui") == drawn(by_hand, "a")
    with pytest.raises(RequestError, match="lora_tags: got 'forge', expected one of a1111, comfyui"):
        emoji.steps(Request("a", lora_tags="forge"))  # type: ignore[arg-type]


def test_tags_add_to_the_pipeline_s_own_files(emoji: Pipeline, loras: Path) -> None:
    own = emoji.with_loras({loras / "ink.safetensors": 0.5})
    both = emoji.with_loras({loras / "ink.safetensors": 0.75, loras / "sub/oil v1.5.safetensors": 1})
    assert drawn(own, "a<lora:ink:0.25><lora:oil v1.5:1>") == drawn(both, "a")
    assert drawn(own, "a") == drawn(emoji.with_loras({loras / "ink.safetensors": 0.5}), "a")


def test_the_last_tags_stay_loaded(emoji: Pipeline, loras: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    with_loras = Pipeline.with_loras
    monkeypatch.setattr(Pipeline, "with_loras", lambda self, scales: opened.append(scales) or with_loras(self, scales))
    plain = drawn(emoji, "a")
    for prompt in ("a<lora:ink:0.8>", "b<lora:ink:0.8>", "a", "c<lora:ink:0.4>", "c<lora:ink:0.8>"):
        emoji.steps(Request(prompt, **SMALL))
    assert [list(scales.values()) for scales in opened] == [[(0.8, 0.8)], [(0.4, 0.4)], [(0.8, 0.8)]]
    assert drawn(emoji, "a") == plain


def test_threads_with_other_tags_get_their_own_pictures(emoji: Pipeline) -> None:
    prompts = [f"a red apple<lora:{name}>" for name in ("ink", "wash")]
    alone = [drawn(emoji, prompt) for prompt in prompts]
    assert alone[0] != alone[1]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda prompt: drawn(emoji, prompt), prompts * 6)) == alone * 6


def test_threads_with_other_tags_get_their_own_pipelines(emoji: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often they are interrupted: what one has loaded is not what another has put in its place."""
    monkeypatch.setattr(Pipeline, "with_loras", lambda _self, scales: [*scales.values()])
    monkeypatch.setattr(emoji, "_tagged", None)
    settings = [
        resolve(Request(f"an apple<lora:ink:{number}>"), emoji.bundle.manifest) for number in (1, 1, 1, 2, 2, 2)
    ]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            got = list(pool.map(emoji.tagged, settings * 400))
    finally:
        sys.setswitchinterval(interval)
    expected = [[(number, number)] for number in (1, 1, 1, 2, 2, 2)] * 400
    assert sum(one != other for one, other in zip(got, expected, strict=True)) == 0


def test_a_file_that_was_replaced_is_read_again(emoji: Pipeline, tmp_path: Path) -> None:
    other = emoji.with_engines({})
    other.lora_dir = tmp_path
    file = save_lora(tmp_path / "x.safetensors", 5)
    first = drawn(other, "a<lora:x:1>")
    save_lora(tmp_path / "y", 6, {"ss_output_name": "longer"}).replace(file)
    assert drawn(other, "a<lora:x:1>") == drawn(other.with_loras({file: 1}), "a") != first


def test_blends_mix_scales(emoji: Pipeline, loras: Path) -> None:
    request = Request("a<lora:ink:0.8>", blend="b<lora:ink:0.4><lora:wash:1>", blend_strength=0.25, **SMALL)
    files = {loras / "ink.safetensors": 0.75 * 0.8 + 0.25 * 0.4, loras / "sub/deep/wash.SAFETENSORS": 0.25}
    by_hand = emoji.with_loras(files).steps(replace(request, prompt="a", blend="b"))
    assert emoji.steps(request).latents().tobytes() == by_hand.latents().tobytes()
    ends = between(Request("a<lora:ink:0.8>", **SMALL), Request("b<lora:ink:0.8>", **SMALL), 3)
    assert [emoji.steps(frame)._components.loras[0].scale for frame in ends] == pytest.approx([0.8] * 3)


def test_the_picture_says_which_files_and_the_prompt_as_typed(emoji: Pipeline, tmp_path: Path) -> None:
    result = emoji.generate("a<lora:ink:0.5:0.8>", **SMALL)
    result.save(tmp_path / "x.png")
    record = latentrt.pipeline.metadata.read_png(tmp_path / "x.png")  # type: ignore[attr-defined]
    [said] = record["loras"]
    assert (said["file"], said["scale"], said["text_scale"]) == ("ink.safetensors", 0.8, 0.5)
    assert record["prompt"] == "a<lora:ink:0.5:0.8>"
    fields = {key: value for key, value in record.items() if key not in ("version", "bundle", "engine", "loras")}
    assert emoji.generate(**fields).images == result.images


def test_a_refiner_gets_the_prompt_without_tags(emoji: Pipeline) -> None:
    rest = handed_over(emoji, Request("a<lora:ink:0.8>", **{**SMALL, "steps": 4}), 0.5)
    assert rest.prompt == "a" and rest.latents is not None


def test_the_environment_names_the_folder(fake: Pipeline, loras: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER, str(loras))
    with pytest.raises(RequestError, match="got the LoRA 'none', expected none.safetensors in .*ink, "):
        fake.steps(Request("a <lora:none:1>", **SMALL))


def test_files_by_name(tmp_path: Path) -> None:
    for name in (
        "a.safetensors",
        "b/a.safetensors",
        "b/c.safetensors",
        "B.Safetensors",
        "b/c.txt",
        "d/Ink.safetensors",
    ):
        save_lora(tmp_path / name, 1)
    save_lora(tmp_path / "trained-000010.safetensors", 1, {"ss_output_name": "style"})
    (tmp_path / "loop").symlink_to(tmp_path)
    found = {
        name: find(tmp_path, name).relative_to(tmp_path).as_posix()
        for name in ("c", "b/c", "b\\c", "./a", "b", "ink", "style", "b/a.safetensors")
    }
    assert found == {
        **{"c": "b/c.safetensors", "b/c": "b/c.safetensors", "b\\c": "b/c.safetensors", "./a": "a.safetensors"},
        **{"b": "B.Safetensors", "ink": "d/Ink.safetensors", "style": "trained-000010.safetensors"},
        "b/a.safetensors": "b/a.safetensors",
    }
    with pytest.raises(LookupError, match=r"expected one file, got a.safetensors, b/a.safetensors; name its folder"):
        find(tmp_path, "a")
    for name in ("x", "..", ".", "/", "b/x", "", "c.txt"):
        with pytest.raises(LookupError, match="expected"):
            find(tmp_path, name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(LookupError, match="which has no LoRA at all"):
        find(tmp_path / "empty", "a")


def test_the_text_that_is_read(fake: Pipeline) -> None:
    found = read("a (cat<lora:x:1>:1.5)", fake.tokenizer, 1)
    assert found == read("a (cat:1.5)", fake.tokenizer, 1)
