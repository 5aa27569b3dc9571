"""The commands of the export refuse a bundle.json that was edited, as those of the runtime do."""

import pytest

from latentrt.bundle.catalog import MODELS
from latentrt.cli import main
from latentrt.errors import BundleError


@pytest.mark.parametrize(
    "command", ["estimate {}", "build --target cpu {}", "build --target tensorrt-rtx {}", "calibrate {} out"]
)
def test_every_command_refuses_it(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "edited").mkdir()
    text = (MODELS / "emoji" / "bundle.json").read_text()
    (tmp_path / "edited" / "bundle.json").write_text(text.replace('"steps": 20', '"steps": 21'))
    monkeypatch.setattr("sys.argv", ["latentrt", *command.format("edited").split()])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == BundleError.exit_status
    assert "expected the file's own hash" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["edited"]
