"""Folders of the user: the places that Linux has for them, and nowhere for a user without a home."""

import pytest

from latentrt.engines import autoselect
from latentrt.engines.onnx import optimised
from latentrt.engines.openvino_cache import cache_settings
from latentrt.engines.secret import user_secret
from latentrt.errors import EngineError
from latentrt.storage import user_dirs


@pytest.fixture
def bare(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_the_places_of_linux(bare, monkeypatch):
    assert user_dirs.user_cache("plans") == bare / ".cache" / "latentrt" / "plans"
    assert user_dirs.user_state() == bare / ".local" / "state" / "latentrt"
    monkeypatch.setenv("XDG_CACHE_HOME", str(bare / "c"))
    monkeypatch.setenv("XDG_STATE_HOME", str(bare / "s"))
    assert (user_dirs.user_cache("x"), user_dirs.user_state()) == (bare / "c/latentrt/x", bare / "s/latentrt")


def test_a_user_without_a_home(bundle, monkeypatch, caplog):
    def homeless(*_, **__):
        raise RuntimeError("could not determine the home directory")

    for name in ("user_cache_path", "user_state_path"):
        monkeypatch.setattr(user_dirs, name, homeless)
    monkeypatch.delenv("LATENTRT_ENGINE")
    monkeypatch.delenv("LATENTRT_PLAN_SECRET", raising=False)
    assert autoselect.fastest(bundle) == "onnxruntime" and autoselect.stored_choices() == []
    assert optimised.folder_of(bundle, "unet") is None
    with cache_settings(user_dirs.user_cache("openvino")) as settings:
        assert settings == {}
    with pytest.raises(EngineError, match="set XDG_STATE_HOME to a writable folder"):
        user_secret()
