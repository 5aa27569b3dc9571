"""The hash that bundle.json has of itself: every flipped bit, every cut and every edit is found, by all that load."""

import hashlib
import json
import os
import shutil
from dataclasses import replace

import pytest

import latentrt
from latentrt.bundle.catalog import MODELS
from latentrt.bundle.folder import open_bundle, record_files, save_manifest
from latentrt.bundle.manifest_hash import END, check
from latentrt.bundle.upgrade import upgrade
from latentrt.cli import main
from latentrt.errors import BundleError, LatentError, OutputError

CONTENT = (MODELS / "emoji" / "bundle.json").read_bytes()


@pytest.fixture
def folder(bundle, tmp_path):
    """The built-in bundle with a word in place of each graph."""
    folder = tmp_path / "small"
    for file in bundle.manifest.files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(file)
    shutil.copyfile(bundle.path("tokenizer/tokenizer.json"), folder / "tokenizer" / "tokenizer.json")
    save_manifest(folder, replace(bundle.manifest, files=record_files(folder, bundle.manifest.files)))
    return folder


def refused(folder):
    with pytest.raises(BundleError) as caught:
        open_bundle(folder, verify=False)
    message = str(caught.value)
    assert message.startswith(f"{folder / 'bundle.json'}: ") and "copy the bundle again" in message
    return message


def test_the_hash_is_that_of_the_file_with_zeros_in_its_place():
    document = json.loads(CONTENT)
    zeros = CONTENT.replace(document["sha256"].encode(), b"0" * 64)
    assert list(document)[-1] == "sha256" and hashlib.sha256(zeros).hexdigest() == document["sha256"]
    check(CONTENT)


@pytest.mark.parametrize("bit", range(8))
def test_every_kind_of_flipped_bit_is_found(folder, bit):
    whole = (folder / "bundle.json").read_bytes()
    own = END.search(whole).start()
    kinds = {place for byte in set(whole) for place in (whole.index(byte), whole.rindex(byte))}  # of every character
    for place in sorted({*kinds, *range(own - 12, own + 2), *range(own + 62, len(whole)), *range(0, len(whole), 997)}):
        (folder / "bundle.json").write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
        refused(folder)


def test_every_kind_of_cut_is_found(folder):
    whole = (folder / "bundle.json").read_bytes()
    for length in (0, 1, len(whole) // 2, *range(len(whole) - 80, len(whole))):
        (folder / "bundle.json").write_bytes(whole[:length])
        refused(folder)


EDITS = {
    "a value": lambda text: text.replace('"steps": 20', '"steps": 21'),
    "a space": lambda text: text.replace('"steps": 20', '"steps":  20'),
    "one line": lambda text: json.dumps(json.loads(text)),
    "sorted": lambda text: json.dumps(json.loads(text), indent=2, sort_keys=True) + "\n",
    "no line at the end": lambda text: text.rstrip("\n"),
    "no digits": lambda text: text.replace(json.loads(text)["sha256"], ""),
    "a number for the hash": lambda text: text.replace(f'"{json.loads(text)["sha256"]}"', "0"),
    "capitals": lambda text: text.replace(json.loads(text)["sha256"], json.loads(text)["sha256"].upper()),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_is_found_and_taken_where_that_is_asked_for(folder, edit, capsys):
    path = folder / "bundle.json"
    path.write_text(EDITS[edit](path.read_text()))
    edited = path.read_bytes()
    assert "edited by hand; if that was you, run `latentrt upgrade --edited`" in refused(folder)
    with pytest.raises(BundleError, match="expected the file's own hash"):
        upgrade(folder)
    assert path.read_bytes() == edited
    assert upgrade(folder, edited=True)[1]
    assert open_bundle(folder).manifest.defaults.steps == (21 if edit == "a value" else 20)


@pytest.mark.parametrize("command", ["verify", "inspect", "upgrade", "bench", "compare emoji"])
def test_every_command_refuses_it(folder, command, monkeypatch, capsys):
    path = folder / "bundle.json"
    path.write_text(path.read_text().replace('"steps": 20', '"steps": 21'))
    monkeypatch.setattr("sys.argv", ["latentrt", *command.split(), str(folder)])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == BundleError.exit_status
    assert "expected the file's own hash" in capsys.readouterr().err


def test_other_line_endings_are_named_and_put_right(folder):
    path = folder / "bundle.json"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"\n", b"\r\n"))
    assert "line endings were changed, as git's autocrlf does" in refused(folder)
    assert upgrade(folder)[1] and path.read_bytes() == whole


def test_a_bundle_without_one_loads_with_a_line_and_can_be_given_one(folder, caplog, capsys, monkeypatch):
    path = folder / "bundle.json"
    whole = path.read_text()
    bare = json.loads(whole)
    del bare["sha256"]
    path.write_text(json.dumps(bare, indent=2, ensure_ascii=False) + "\n")
    latentrt.load(folder)
    assert caplog.text.count("has no hash of itself") == 1 and "run `latentrt upgrade`" in caplog.text
    monkeypatch.setattr("sys.argv", ["latentrt", "upgrade", str(folder), "--json"])
    for changed in (True, False):
        with pytest.raises(SystemExit) as left:
            main()
        printed = json.loads(capsys.readouterr().out)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        assert not left.value.code and printed == {"bundle": str(folder), "sha256": sha256, "changed": changed}
    assert path.read_text() == whole


def test_a_damaged_bundle_is_not_upgraded(folder):
    path = folder / "bundle.json"
    bare = json.loads(path.read_text())
    del bare["sha256"]
    path.write_text(json.dumps(bare))
    before = path.read_bytes()
    (folder / "unet.onnx").write_text("unet.onny")
    with pytest.raises(BundleError, match=r"unet.onnx: got sha256"):
        upgrade(folder)
    os.truncate(folder / "unet.onnx", 3)
    with pytest.raises(BundleError, match=r"unet.onnx: got 3 bytes"):
        upgrade(folder)
    assert path.read_bytes() == before and not list(folder.glob(".*"))


def test_a_text_that_is_not_unicode_is_no_traceback(folder):
    path = folder / "bundle.json"
    bare = json.loads(path.read_text()) | {"name": "\ud800"}
    path.write_text(json.dumps(bare))
    with pytest.raises(LatentError, match="not Unicode"):
        upgrade(folder, edited=True)


def test_a_folder_that_cannot_be_written_stays_as_it_is(folder, monkeypatch):
    def refuse(path, target):
        raise PermissionError(13, "Permission denied")

    (folder / "bundle.json").write_text(json.dumps(json.loads((folder / "bundle.json").read_text())))
    monkeypatch.setattr("pathlib.Path.replace", refuse)
    with pytest.raises(OutputError, match="cannot be written"):
        upgrade(folder, edited=True)
    assert not list(folder.glob(".*"))
