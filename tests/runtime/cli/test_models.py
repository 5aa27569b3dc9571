"""`latentrt models`: what is there by name, at once, and removal of what is in the cache and nothing else."""

import json
import shutil
import subprocess
import sys

import pytest
from click.testing import CliRunner

from latentrt.bundle.auto_export import exported
from latentrt.bundle.cached import store
from latentrt.bundle.catalog import MODELS, folder_of
from latentrt.cli import COMMANDS, HEADINGS
from latentrt.cli.models import models
from latentrt.errors import BundleError
from latentrt.storage.locks import locked
from tests.runtime.checkpoints import stand_in, weights


def listed(*arguments):
    done = CliRunner().invoke(models, [*map(str, arguments), "--json"], catch_exceptions=False)
    return {one["name"]: one for one in json.loads(done.stdout)["models"]}


def remove(name, answer=None):
    return CliRunner().invoke(models, ["remove", name, *([] if answer else ["--yes"])], input=answer)


@pytest.fixture
def cached(home, monkeypatch):
    stand_in(monkeypatch, "")
    return exported(weights(home / "mine.safetensors"))


def test_the_list_agrees_with_the_manifests(cached, home, bundle):
    found = listed()
    assert [*found] == ["emoji", "mine"]
    manifest, size = bundle.manifest, sum(path.stat().st_size for path in cached.rglob("*") if path.is_file())
    for name, source in (("emoji", manifest.provenance["source"]), ("mine", str(home / "mine.safetensors"))):
        one = found[name]
        assert (one["family"], one["width"], one["height"]) == (
            manifest.family,
            manifest.defaults.width,
            manifest.defaults.height,
        )
        assert one["precision"] == manifest.components[manifest.denoiser].precision
        assert one["multiple"] == manifest.latents.pixel_multiple
        assert one["step_cache"] == manifest.components[manifest.shallow].boundary
        assert (one["tasks"], one["presets"]) == ([*manifest.tasks], [*manifest.presets])
        assert (one["bytes"], one["source"], one["quantized"]) == (size, source, False)


def test_lines(cached):
    first, second = CliRunner().invoke(models, []).stdout.splitlines()
    assert first.startswith("emoji  sd1  w16") and first.endswith("built in")
    assert "128x128" in second and "step cache" in second and second.endswith("mine.safetensors")


def test_bundles_of_a_folder_and_damaged_ones(home, bundle):
    shutil.copytree(bundle.folder, home / "bundles" / "one")
    (home / "bundles" / "two").mkdir()
    (home / "bundles" / "two" / "bundle.json").write_text('{"components": []}')
    found = listed("--in", home / "bundles", "--in", home / "bundles" / "one")
    assert [*found] == ["emoji", str(home / "bundles" / "one"), str(home / "bundles" / "two")]
    assert found[str(home / "bundles" / "two")]["problem"] == "bundle.json is damaged"
    assert "bundle.json is damaged" in CliRunner().invoke(models, ["--in", str(home / "bundles")]).stdout


def test_what_a_killed_export_left_is_no_model(home, bundle):
    shutil.copytree(bundle.folder, home / "bundles" / ".one.0123456789abcdef")
    assert [*listed("--in", home / "bundles")] == ["emoji"]


def test_two_models_of_one_name_are_told_apart(cached, home):
    (home / "other").mkdir()
    other = exported(weights(home / "other" / "mine.safetensors", 2.0))
    names = [f"mine-{folder.parent.name[:8]}" for folder in (cached, other)]
    assert {*listed()} == {"emoji", *names}
    assert [folder_of(name) for name in names] == [cached, other]
    with pytest.raises(BundleError, match="`latentrt models`"):
        folder_of("mine")


def test_a_built_in_name_stays_the_built_in_model(home, monkeypatch):
    stand_in(monkeypatch, "")
    folder = exported(weights(home / "emoji.safetensors"))
    assert folder_of("emoji") == MODELS / "emoji"
    assert folder_of(f"emoji-{folder.parent.name[:8]}") == folder


def test_remove(cached, home):
    assert remove("mine", "n\n").exit_code == 1 and cached.is_dir()
    done = remove("mine")
    assert done.exit_code == 0 and str(cached) in done.stdout
    assert not cached.exists() and [*listed()] == ["emoji"]
    assert (home / "mine.safetensors").is_file()
    assert exported(home / "mine.safetensors") == cached
    assert remove("mine", "y\n").exit_code == 0 and not cached.exists()


@pytest.mark.parametrize("name", ["emoji", "nothing", "..", "../mine.safetensors", "."])
def test_only_what_is_in_the_cache_is_removed(cached, name, bundle):
    done = remove(name)
    assert isinstance(done.exception, BundleError)
    assert "only those are removed" in str(done.exception)
    assert cached.is_dir() and bundle.folder.is_dir()


def test_links_out_of_the_cache_are_not_followed(cached, home, bundle):
    outside = shutil.copytree(bundle.folder, home / "outside" / "precious")
    (store() / "0123").symlink_to(outside.parent)
    (store() / "4567").mkdir()
    (store() / "4567" / "linked").symlink_to(outside)
    assert [*listed()] == ["emoji", "mine"]
    (cached / "link").symlink_to(outside)
    assert remove("mine").exit_code == 0
    assert (outside / "bundle.json").is_file()


def test_a_model_that_another_process_exports_is_not_removed(cached):
    with locked(cached.parent):
        done = remove("mine")
    assert "try again later" in str(done.exception)
    assert cached.is_dir()


def test_the_list_needs_neither_numpy_nor_an_engine(cached, home):
    code = (
        "import sys\nfrom latentrt.bundle.library import listed\nprint(len(listed()))\n"
        "print([name for name in ('numpy', 'onnxruntime', 'openvino', 'PIL', 'rich') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "2\n[]\n", done.stderr


def test_every_command_is_under_a_heading():
    assert sorted(name for names in HEADINGS.values() for name in names) == sorted(COMMANDS)
