"""Stand-ins for a checkpoint and for `latentrt export`, which needs torch: a file of one number, a quick process."""

import json
import struct

from latentrt.bundle import auto_export
from latentrt.bundle.catalog import MODELS

# The arguments of the export follow those of the module path. Copies the built-in model, as the export would write it.
EXPORT = f"""
import pathlib, shutil, sys, time
count = int(sys.argv[1])
source, out = map(pathlib.Path, sys.argv[count + 3 : count + 5])
with (out.parents[3] / "exports").open("a") as log:
    log.write(" ".join(sys.argv[count + 2 :]) + "\\n")
print("unet: tracing", file=sys.stderr, flush=True)
temporary = out.parent / f".{{out.name}}.0"
temporary.mkdir()
SEEN
shutil.copytree({str(MODELS / "emoji")!r}, temporary, dirs_exist_ok=True)
temporary.rename(out)
"""


def weights(path, value=1.0):
    """Writes a .safetensors file with one number; returns its path."""
    header = json.dumps({"one": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + struct.pack("<f", value))
    return path


def stand_in(monkeypatch, code="time.sleep(0.2)", needed="json"):
    """Puts a process that copies the built-in model in place of the export. code: run before it is complete."""
    monkeypatch.setattr(auto_export, "COMMAND", EXPORT.replace("SEEN", code))
    monkeypatch.setattr(auto_export, "NEEDED", needed)


def exports(home):
    """The arguments of each export so far; the cache is in `home`."""
    log = home / "cache" / "exports"
    return log.read_text().splitlines() if log.exists() else []
