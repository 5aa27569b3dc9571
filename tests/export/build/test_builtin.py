"""The whole built-in model becomes plans by NVIDIA's own builder in fp16, and in INT8 in tests/calib/quantize."""

from latentrt.bundle.catalog import folder_of
from latentrt.bundle.folder import open_bundle
from latentrt_export.build.tensorrt import BuildOptions, build
from tests.sweep import sweep

GPUS = ("sm86", "sm89", "sm120")


@sweep
def test_every_component_builds_in_fp16(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    plans = list(build("emoji", BuildOptions("tensorrt-rtx", GPUS, batches=(2,))))
    bundle = open_bundle(folder_of("emoji"), verify=False)
    components = bundle.manifest.components
    assert [(one.component, one.gpu) for one in plans] == [(name, gpu) for name in components for gpu in GPUS]
    assert {one.floats for one in plans} == {"fp16"}
    for one in plans:
        # Weights make up most of every plan: none was left out.
        assert one.bytes == one.path.stat().st_size > bundle.path(components[one.component].file).stat().st_size
