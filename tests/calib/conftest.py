"""One small checkpoint, exported and quantized once for all tests of calibration."""

import pytest

from latentrt_calib.calibrate import calibrate
from latentrt_export.export import ExportOptions, export
from tests.calib.small import FEWER, OPTIONS
from tests.export import tiny
from tests.one_thread import one_thread


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    path = tmp_path_factory.mktemp("source")
    tiny.save_diffusers_folder(path / "checkpoint", **FEWER)
    with one_thread():
        export(path / "checkpoint", path / "bundle", ExportOptions("w16", guidance=3.0))
    return path / "bundle"


@pytest.fixture(scope="session")
def quantized(bundle, tmp_path_factory):
    """The bundle for the CPU, the report, and the lines of progress."""
    out, lines = tmp_path_factory.mktemp("int8") / "cpu", []
    with one_thread():
        report = calibrate(bundle, out, "int8", OPTIONS, lines.append)
    return out, report, lines
