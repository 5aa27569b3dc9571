"""Damage of every kind to a copy of the built-in bundle: it is found before an engine is created."""

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import latentrt
from latentrt.bundle.catalog import MODELS
from latentrt.bundle.folder import LARGEST_MANIFEST_BYTES, open_bundle, record_files, save_manifest
from latentrt.bundle.manifest_hash import sealed
from latentrt.bundle.manifest_json import OMITTED, read
from latentrt.engines.onnx import engine as cpu
from latentrt.errors import BundleError, LatentError

EMOJI = MODELS / "emoji"
FILES = tuple(read((EMOJI / "bundle.json").read_bytes()).files)
GRAPHS = tuple(file for file in FILES if file.endswith(".onnx"))
UNET = "unet.onnx"
REMEDIES = ("export", "copy", "update latentrt")


@pytest.fixture(autouse=True)
def _no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        cpu, "new_session", lambda path, variant, **options: pytest.fail(f"an engine was created for {path}")
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One real copy, 39 MB; what changes it puts it back."""
    return shutil.copytree(EMOJI, tmp_path_factory.mktemp("whole") / "emoji")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The built-in bundle with a kilobyte in place of each graph, so that every test has a copy of its own."""
    folder = tmp_path / "emoji"
    (folder / "tokenizer").mkdir(parents=True)
    for file in ("tokenizer/tokenizer.json", "lora_weights.json"):
        shutil.copyfile(EMOJI / file, folder / file)
    for graph in GRAPHS:
        (folder / graph).write_bytes(random.Random(graph).randbytes(1024))
    manifest = read((EMOJI / "bundle.json").read_bytes())
    save_manifest(folder, replace(manifest, files=record_files(folder, FILES)))
    return folder


@contextmanager
def flipped(path: Path, offset: int) -> Iterator[None]:
    """One bit of the file is another while the block runs."""

    def flip() -> None:
        with path.open("r+b") as file:
            file.seek(offset)
            (byte,) = file.read(1)
            file.seek(offset)
            file.write(bytes([byte ^ 1]))

    flip()
    yield
    flip()


@contextmanager
def edited(folder: Path) -> Iterator[dict[str, Any]]:
    """bundle.json as a document without its own hash; what the block makes of it is written back."""
    document = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    document.pop("sha256", None)
    yield document
    (folder / "bundle.json").write_text(json.dumps(document), encoding="utf-8")


def refusal(folder: Path, file: str = "bundle.json") -> str:
    """The message that loading the folder is refused with, after a look at what every such message must say."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "open_engine", lambda *arguments: pytest.fail("an engine was opened"))
        with pytest.raises(BundleError) as caught:
            latentrt.load(folder)
    message = str(caught.value)
    assert message.startswith(f"{folder / file}: ")
    assert any(remedy in message for remedy in REMEDIES)
    assert len(message) < 2000
    return message


def test_a_whole_bundle_passes(whole: Path) -> None:
    pipeline = latentrt.load(whole)
    assert set(pipeline.engines) == set(pipeline.bundle.manifest.components)
    assert pipeline.bundle.folder == whole


@pytest.mark.parametrize("file", FILES)
def test_one_flipped_bit(whole: Path, file: str) -> None:
    with flipped(whole / file, offset=17):
        assert "sha256" in refusal(whole, file)
    latentrt.load(whole)


@pytest.mark.parametrize("place", [0.0, 0.5, 1.0], ids=["first", "middle", "last"])
def test_a_flipped_bit_anywhere(whole: Path, place: float) -> None:
    path = whole / "time_bias.onnx"
    with flipped(path, offset=int(place * (path.stat().st_size - 1))):
        assert "sha256" in refusal(whole, path.name)


def test_the_stand_in_passes(folder: Path) -> None:
    latentrt.load(folder)


def test_a_truncated_file(folder: Path) -> None:
    os.truncate(folder / UNET, 1023)
    assert "got 1023 bytes, expected 1024" in refusal(folder, UNET)


def test_an_empty_file(folder: Path) -> None:
    (folder / UNET).write_bytes(b"")
    assert "got 0 bytes, expected 1024" in refusal(folder, UNET)


def test_a_file_grown_by_a_byte(folder: Path) -> None:
    with (folder / UNET).open("ab") as file:
        file.write(b"\0")
    assert "got 1025 bytes, expected 1024" in refusal(folder, UNET)


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file(folder: Path, file: str) -> None:
    (folder / file).unlink()
    assert "missing" in refusal(folder, file)


def test_a_symlinked_file(folder: Path) -> None:
    (folder / UNET).rename(folder / "real")
    (folder / UNET).symlink_to("real")
    assert "symbolic link" in refusal(folder, UNET)


def test_a_dangling_symlink(folder: Path) -> None:
    (folder / UNET).unlink()
    (folder / UNET).symlink_to("nowhere")
    assert "symbolic link" in refusal(folder, UNET)


def test_a_symlinked_folder_on_the_way(folder: Path) -> None:
    (folder / "tokenizer").rename(folder / "real")
    (folder / "tokenizer").symlink_to("real", target_is_directory=True)
    assert "symbolic link" in refusal(folder, "tokenizer")


def test_a_symlinked_manifest(folder: Path) -> None:
    (folder / "bundle.json").rename(folder / "real")
    (folder / "bundle.json").symlink_to("real")
    assert "symbolic link" in refusal(folder)


def test_a_folder_in_place_of_a_file(folder: Path) -> None:
    (folder / UNET).unlink()
    (folder / UNET).mkdir()
    assert "no regular file" in refusal(folder, UNET)


def test_a_pipe_in_place_of_a_file(folder: Path) -> None:
    (folder / UNET).unlink()
    os.mkfifo(folder / UNET)
    assert "no regular file" in refusal(folder, UNET)


def test_a_pipe_in_place_of_the_manifest(folder: Path) -> None:
    (folder / "bundle.json").unlink()
    os.mkfifo(folder / "bundle.json")
    refusal(folder)


def test_a_file_that_the_disk_cannot_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Path.open

    def failing(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.name == UNET:
            raise OSError(5, "Input/output error")
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", failing)
    assert "Input/output error" in refusal(folder, UNET)


UNSAFE = {
    "parent": "../unet.onnx",
    "parent on the way": "tokenizer/../unet.onnx",
    "here": "./unet.onnx",
    "absolute": "/etc/passwd",
    "backslash": "tokenizer\\tokenizer.json",
    "drive": "C:/unet.onnx",
    "empty": "",
    "doubled slash": "tokenizer//tokenizer.json",
    "ends in a slash": "tokenizer/",
    "NUL": "unet.onnx\0",
    "newline": "unet\n.onnx",
    "half a surrogate pair": "\ud800.onnx",
}


@pytest.mark.parametrize("path", UNSAFE.values(), ids=UNSAFE.keys())
def test_an_unsafe_path(folder: Path, path: str) -> None:
    with edited(folder) as document:
        document["components"]["unet"]["file"] = path
        document["files"][path] = document["files"][UNET]
    assert f"got the path {path!r}" in refusal(folder)


def test_a_path_longer_than_any_file_system_takes(folder: Path) -> None:
    path = "x" * 1000
    with edited(folder) as document:
        document["files"][path] = document["files"][UNET]
    assert "too long" in refusal(folder, path)


UNKNOWN_KEY: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "": lambda document: document,
    ".latents": lambda document: document["latents"],
    ".components.unet": lambda document: document["components"]["unet"],
    ".components.unet.fidelity": lambda document: document["components"]["unet"]["fidelity"],
    ".components.unet.inputs[1]": lambda document: document["components"]["unet"]["inputs"][1],
    ".files.unet.onnx": lambda document: document["files"][UNET],
}


@pytest.mark.parametrize("place", UNKNOWN_KEY)
def test_an_unknown_key(folder: Path, place: str) -> None:
    with edited(folder) as document:
        UNKNOWN_KEY[place](document)["colour"] = 1
    assert f" {place}.colour: unknown key; expected " in refusal(folder)


@pytest.mark.parametrize("place", UNKNOWN_KEY)
def test_a_missing_key(folder: Path, place: str) -> None:
    with edited(folder) as document:
        parent = UNKNOWN_KEY[place](document)
        key = min(parent.keys() - {*OMITTED})
        del parent[key]
    assert f" {place}.{key}: missing" in refusal(folder)


# What stands in bundle.json for `defaults.steps` (an integer), and what the message says of it.
WRONG_STEPS = {
    "true": "got True",
    "false": "got False",
    "20.0": "got 20.0",
    '"20"': "got '20'",
    "null": "got None",
    "[20]": "got [20]",
    "{}": "got {}",
    "NaN": "got NaN",
    "-Infinity": "got -Infinity",
    "1e999": "got inf",
    "0": "got 0, expected at least 1",
    "9" * 5000: "not valid JSON",
}


@pytest.mark.parametrize(("text", "message"), WRONG_STEPS.items(), ids=lambda text: text[:20])
def test_a_wrong_integer(folder: Path, text: str, message: str) -> None:
    assert message in refusal(with_value(folder, '"steps": 20', f'"steps": {text}'))


@pytest.mark.parametrize("text", ["true", '"4"', "NaN", "1e999", "-1e999", "1" + "0" * 400])
def test_a_wrong_number(folder: Path, text: str) -> None:
    assert "expected a finite number" in refusal(with_value(folder, '"guidance": 2.0', f'"guidance": {text}'))


@pytest.mark.parametrize("text", ['"w2"', "1", "true", "[]", "null"])
def test_a_wrong_choice(folder: Path, text: str) -> None:
    message = refusal(with_value(folder, '"precision": "w16"', f'"precision": {text}'))
    assert "expected one of 'fp32', 'fp16', 'w16'" in message


@pytest.mark.parametrize("text", ["0", "-1", "true", "2.0", '"8*"', '"0*height"', '"height*8"', '""', "null"])
def test_a_wrong_axis(folder: Path, text: str) -> None:
    message = refusal(with_value(folder, '"batch",\n            32\n', f'"batch",\n            {text}\n'))
    assert " .components.text_encoder.input" in message


@pytest.mark.parametrize("text", ["banana", "object", "<f4", "float64", ""])
def test_a_wrong_tensor_type(folder: Path, text: str) -> None:
    message = refusal(with_value(folder, '"dtype": "int64"', f'"dtype": "{text}"'))
    assert f"got the type {text!r}, expected one of float16, float32, int64" in message


def with_value(folder: Path, old: str, new: str) -> Path:
    """The folder, with the first `old` in bundle.json made `new`, sealed again; by text, since some is no JSON."""
    text = (folder / "bundle.json").read_text(encoding="utf-8")
    assert old in text
    (folder / "bundle.json").write_text(sealed(text.replace(old, new, 1)), encoding="utf-8")
    return folder


@pytest.mark.parametrize("place", ['"name": "emoji"', '"channels": 4', '"bos": 0'])
def test_a_key_that_occurs_twice(folder: Path, place: str) -> None:
    assert "the key occurs twice" in refusal(with_value(folder, place, f"{place}, {place}"))


def test_a_newer_format(folder: Path) -> None:
    message = refusal(with_value(folder, '"format": 2,', '"format": 3, "news": [],'))
    assert "got 3" in message
    assert "update latentrt" in message


@pytest.mark.parametrize("version", ["0", "-1", "true", "1.0", '"1"'])
def test_a_format_that_never_was(folder: Path, version: str) -> None:
    assert " .format: " in refusal(with_value(folder, '"format": 2', f'"format": {version}'))


NOT_A_MANIFEST = {
    "empty": b"",
    "text": b"a bundle",
    "half": b'{"format": 1, "name": ',
    "not UTF-8": b'{"format": 1, "name": "\xff"}',
    "a list": b"[]",
    "a string": b'"bundle"',
    "null": b"null",
    "an empty object": b"{}",
    "nested lists": b"[" * 100_000,
    "nested objects": b'{"a":' * 100_000,
    "nested in a value": b'{"format":' + b"[" * 900 + b"]" * 900 + b"}",
    "zeros": b"\0" * 1000,
    "too large": b" " * LARGEST_MANIFEST_BYTES + b"{}",
    "many keys": b"{" + b",".join(b'"%d":0' % number for number in range(300_000)) + b"}",
}


@pytest.mark.parametrize("content", NOT_A_MANIFEST.values(), ids=NOT_A_MANIFEST.keys())
def test_no_manifest_at_all(folder: Path, content: bytes) -> None:
    (folder / "bundle.json").write_bytes(content)
    refusal(folder)


def test_a_missing_manifest(folder: Path) -> None:
    (folder / "bundle.json").unlink()
    assert "missing" in refusal(folder)


@pytest.mark.parametrize("name", ["nowhere", "emoji/unet.onnx", "emoji\0"])
def test_a_missing_folder(folder: Path, name: str) -> None:
    with pytest.raises(BundleError, match="latentrt export"):
        latentrt.load(folder.parent / name)


@pytest.mark.parametrize("file", [UNET, "tokenizer/tokenizer.json"])
def test_a_file_used_but_not_listed(folder: Path, file: str) -> None:
    with edited(folder) as document:
        del document["files"][file]
    assert f"{file} is used but not listed" in refusal(folder)


def test_external_data_used_but_not_listed(folder: Path) -> None:
    with edited(folder) as document:
        document["components"]["unet"]["data"] = ["unet.data"]
    assert "unet.data is used but not listed" in refusal(folder)


def test_a_missing_component(folder: Path) -> None:
    with edited(folder) as document:
        del document["components"]["unet"], document["components"]["unet_shallow"]
    with pytest.raises(BundleError, match="got 0 of the role 'denoiser', expected one"):
        latentrt.load(folder)


def test_hard_links_pass(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "linked", copy_function=os.link)
    latentrt.load(tmp_path / "linked")


def test_a_linked_folder_passes(folder: Path, tmp_path: Path) -> None:
    """Where the bundle itself lies is for whoever names it to say."""
    (tmp_path / "link").symlink_to(folder, target_is_directory=True)
    latentrt.load(tmp_path / "link")


def test_verify_is_for_hashes_only(folder: Path) -> None:
    with flipped(folder / UNET, offset=5):
        latentrt.load(folder, verify=False)
    os.truncate(folder / UNET, 1000)
    with pytest.raises(BundleError, match="1000 bytes"):
        latentrt.load(folder, verify=False)
    (folder / UNET).unlink()
    with pytest.raises(BundleError, match="missing"):
        latentrt.load(folder, verify=False)
    (folder / UNET).symlink_to("vae_decoder.onnx")
    with pytest.raises(BundleError, match="symbolic link"):
        latentrt.load(folder, verify=False)


VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    2**70,
    10**400,
    1.5,
    "",
    "../x",
    "\ud800",
    [],
    [[]],
    {},
    {"a": 1},
    "x" * 999,
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, item in items for place in [(value, key), *places(item)]]


def mutated_bytes(text: bytes, draw: random.Random) -> bytes:
    """The text with a few bytes gone, others, or doubled."""
    start = draw.randrange(len(text))
    end = start + draw.randrange(1, 9)
    piece = draw.choice([b"", draw.randbytes(end - start), text[start:end] * 2, draw.choice([b'"', b"[", b"}", b","])])
    return text[:start] + piece + text[end:]


def mutated_values(text: bytes, draw: random.Random) -> bytes:
    """The document with a value another, gone, or moved."""
    document = json.loads(text)
    del document["sha256"]
    container, key = draw.choice(places(document))
    if draw.random() < 0.2:
        del container[key]
    elif draw.random() < 0.3:
        container[key] = draw.choice([other[name] for other, name in places(json.loads(text))])
    else:
        container[key] = draw.choice(VALUES)
    return json.dumps(document).encode()


@pytest.mark.parametrize("mutated", [mutated_bytes, mutated_values])
def test_no_edit_of_the_manifest_escapes_the_error_tree(
    folder: Path, mutated: Callable[[bytes, random.Random], bytes]
) -> None:
    text, draw = (folder / "bundle.json").read_bytes(), random.Random(0)
    refused = 0
    for number in range(150):
        content = mutated(text, draw)
        (folder / "bundle.json").write_bytes(content)
        try:
            latentrt.load(folder)
        except LatentError:
            refused += 1
        except Exception as error:
            raise AssertionError(f"edit {number} escaped: {content!r}") from error
    assert refused > 75


def test_the_hash_of_a_bundle_is_that_of_its_manifest(folder: Path) -> None:
    before = open_bundle(folder).sha256
    with edited(folder) as document:
        document["name"] = "another"
    assert open_bundle(folder).sha256 != before
