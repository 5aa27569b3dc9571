"""Pickles: refused, or read by a process of its own that runs nothing of them."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from latentrt.bundle.folder import sha256_of
from latentrt.errors import CheckpointError
from latentrt_export.checkpoint import unpickle
from latentrt_export.checkpoint.embeddings import Embedding, words_of
from latentrt_export.checkpoint.load import load_checkpoint
from latentrt_export.checkpoint.pickles import converted
from latentrt_export.cli.export import export as command
from latentrt_export.export import prepare_checkpoint
from latentrt_export.options import ExportOptions, without_pickles
from tests.export import tiny
from tests.export.single import saved_single
from tests.export.tiny_families import SINGLE
from tests.export.untraced import untraced

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.float16)}
STEMS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "pytorch_model"}


class Runs:
    """What a malicious pickle holds: opened, it runs a command."""

    def __init__(self, call, *arguments):
        self.called = call, arguments

    def __reduce__(self):
        return self.called


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    path = tmp_path_factory.mktemp("origin")
    tiny.save_diffusers_folder(path / "folder")
    saved_single(SINGLE, path / "single")
    return path


@pytest.fixture
def trainer(monkeypatch):
    """An object of a class of a training framework, which is not there where the file is opened."""
    names = ("pytorch_lightning", "pytorch_lightning.callbacks")
    modules = [types.ModuleType(name) for name in names]
    kind = type("ModelCheckpoint", (), {"__module__": names[1]})
    modules[1].ModelCheckpoint = kind
    for name, module in zip(names, modules, strict=True):
        monkeypatch.setitem(sys.modules, name, module)
    return kind()


def assert_holds(path, tensors):
    found = load_file(path)
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[key], tensor) for key, tensor in tensors.items())


def unpickled(path):
    """What the process would write, read in this one."""
    return dict(unpickle.tensors_in(unpickle.loaded(str(path))))


@pytest.mark.parametrize("archive", [True, False], ids=["zip", "before 1.6"])
def test_tensors_are_read_and_all_else_is_dropped(tmp_path, trainer, archive):
    held = {"state_dict": TENSORS, "epoch": 3, "callbacks": {type(trainer): {"best": 1}, "own": trainer}, "x": [1]}
    torch.save(held, tmp_path / "a.ckpt", _use_new_zipfile_serialization=archive)
    found = unpickled(tmp_path / "a.ckpt")
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[key], tensor) for key, tensor in TENSORS.items())


def test_tensors_that_share_memory_and_views_are_written_whole(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    torch.save({"a": base, "same": base, "turned": base.T, "row": base[1]}, tmp_path / "a.pt")
    found = converted(tmp_path / "a.pt", tmp_path / "scratch")
    assert_holds(found, {"a": base, "same": base, "turned": base.T.contiguous(), "row": base[1].clone()})


def test_what_is_no_pickle_is_left_as_it_is(tmp_path):
    for path in (tmp_path / "a.safetensors", tmp_path / "none.ckpt", tmp_path):
        assert converted(path, tmp_path / "scratch") == path
    assert not (tmp_path / "scratch").exists()


@pytest.mark.parametrize("archive", [True, False], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("call", [os.system, eval, exec, getattr, Path], ids=lambda call: call.__name__)
def test_no_name_of_a_malicious_pickle_is_looked_up(tmp_path, archive, call):
    torch.save(Runs(call, "print"), tmp_path / "a.ckpt", _use_new_zipfile_serialization=archive)
    if call is Path:  # of which an object that does nothing is made
        assert unpickled(tmp_path / "a.ckpt") == {}
        return
    with pytest.raises(pickle.UnpicklingError):
        unpickled(tmp_path / "a.ckpt")


def test_a_malicious_pickle_runs_nothing_and_is_one_error(tmp_path):
    torch.save({"a": torch.ones(1), "b": Runs(os.system, f"touch {tmp_path / 'ran'}")}, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match="cannot be read: it is no file of weights alone: it names") as caught:
        converted(tmp_path / "a.ckpt", tmp_path / "scratch")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


ISOLATED = """
import os, socket, subprocess, sys
sys.path.insert(0, sys.argv[1])
import unpickle
unpickle.isolate()
unpickle.forbid()
for call in (lambda: os.system("true"), os.fork, lambda: subprocess.run(["true"]), socket.socket):
    try:
        call()
    except PermissionError as error:
        print(error)
"""


def test_the_process_starts_no_other_and_has_no_network():
    done = subprocess.run(
        [sys.executable, "-I", "-c", ISOLATED, str(Path(unpickle.__file__).parent)], capture_output=True, text=True
    )
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        *("os.system", "os.fork", "subprocess.Popen", "socket.__new__"),
    ]


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda file: torch.save({"a": torch.zeros(1).expand(10**6, 10**6)}, file), "asks for more memory or time"),
        (lambda file: (torch.save(TENSORS, file), file.write_bytes(file.read_bytes()[:300])), "cannot be read"),
    ],
    ids=["bomb", "cut"],
)
def test_what_cannot_be_read_is_one_error(tmp_path, write, said):
    write(tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=said) as caught:
        converted(tmp_path / "a.pt", tmp_path / "scratch")
    assert len(str(caught.value)) < 400


def pickled(folder):
    """The folder with every component's weights as pickles alone, as diffusers and transformers wrote them."""
    for name, stem in STEMS.items():
        [file] = (folder / name).glob("*.safetensors")
        tensors = load_file(file)
        file.unlink()
        if name == "text_encoder":
            in_shards(tensors, folder / name, stem)
        else:
            torch.save(tensors, folder / name / f"{stem}.bin")
    return folder


def in_shards(tensors, folder, stem):
    """Writes tensors as two pickles and their index."""
    places = {key: f"{stem}-0000{1 + number % 2}-of-00002.bin" for number, key in enumerate(tensors)}
    for shard in set(places.values()):
        torch.save({key: tensors[key] for key, place in places.items() if place == shard}, folder / shard)
    (folder / f"{stem}.bin.index.json").write_text(json.dumps({"weight_map": places}))


def test_a_folder_of_pickles(origin, tmp_path):
    folder = pickled(Path(shutil.copytree(origin / "folder", tmp_path / "folder")))
    with pytest.raises(CheckpointError, match="only .*, a pickle, .*--allow-pickle"):
        load_checkpoint(folder)
    found, whole = load_checkpoint(converted(folder, tmp_path / "scratch")), load_checkpoint(origin / "folder")
    assert (found.source, found.tokenizers.keys()) == (whole.source, whole.tokenizers.keys())
    for name, component in whole.components.items():
        state = found.components[name].load().state_dict()
        assert all(torch.equal(state[key], tensor) for key, tensor in component.load().state_dict().items())


def test_every_file_that_is_given_may_be_a_pickle(origin, tmp_path):
    """And each is said, with its hash; a word is still the name of its file."""
    single, lines = origin / "single" / "single.safetensors", []
    torch.save({"state_dict": load_file(single)}, tmp_path / "model.ckpt")
    torch.save({"string_to_param": {"*": torch.ones(2, 32)}, "name": "other"}, tmp_path / "style.pt")
    options = ExportOptions(
        configs=single.parent / "configs",
        tokenizer=single.parent / "tokenizer",
        embeddings=(Embedding(tmp_path / "style.pt"),),
        allow_pickle=True,
    )
    source, options, said = without_pickles(tmp_path / "model.ckpt", options, tmp_path / "scratch", lines.append)
    found = prepare_checkpoint(source, options, lines.append)
    assert found.checkpoint.source == "model.safetensors"
    assert words_of(found.tokenizer) == {"style": 2}
    names = {"model.ckpt", "style.pt"}
    assert {*said.values()} == {f"{name}, sha256 {sha256_of(tmp_path / name)}" for name in names}
    assert sum("read as a pickle" in line for line in lines) == 2


def test_first_embeddings_hold_their_vectors_in_a_module(tmp_path):
    vectors = torch.nn.Parameter(torch.arange(8.0).reshape(2, 4))
    held = {"string_to_token": {"*": torch.tensor(265)}, "string_to_param": torch.nn.ParameterDict({"*": vectors})}
    torch.save(held, tmp_path / "a.pt")
    assert torch.equal(unpickled(tmp_path / "a.pt")["string_to_param.*"], vectors)


def test_a_failed_conversion_leaves_nothing(origin, tmp_path):
    torch.save({"a": Runs(os.system, "true")}, tmp_path / "bad.ckpt")
    options = ExportOptions(allow_pickle=True)
    with pytest.raises(CheckpointError):
        untraced(tmp_path / "bad.ckpt", tmp_path / "out", options)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.ckpt"]


@pytest.mark.parametrize("option", [[], ["--vae"], ["--embedding"], ["--lora"]])
def test_without_the_option_a_pickle_is_refused_by_the_command(origin, tmp_path, option):
    (tmp_path / "a.pt").write_bytes(b"pickle")
    source = str(origin / "folder") if option else str(tmp_path / "a.pt")
    arguments = [source, str(tmp_path / "out"), *option, *([str(tmp_path / "a.pt")] if option else [])]
    done = CliRunner().invoke(command, arguments)
    assert isinstance(done.exception, CheckpointError)
    assert "a.pt is a pickle" in str(done.exception) and "--allow-pickle" in str(done.exception)


def test_all_options_are_looked_through(tmp_path):
    save_file(TENSORS, tmp_path / "a.safetensors")
    options = ExportOptions(vae=tmp_path / "a.safetensors", tiny_decoder=tmp_path)
    found = without_pickles(tmp_path, options, tmp_path / "scratch", lambda line: None)
    assert found == (tmp_path, options, {})
