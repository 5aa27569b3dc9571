"""Lists connections of a generation, and files written in an empty home folder, by strace: python -m benchmarks.quiet.

strace also sees native code, which Python's hooks do not. Needs strace (`apt-get install strace`). The exit status is 1
if there was any connection.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

ENGINES = ("onnxruntime", "openvino", "auto")
TRACED = "connect,sendto,sendmsg,sendmmsg"
WRITING = re.compile(r"O_WRONLY|O_RDWR|O_CREAT")
PATH = re.compile(r'"((?:[^"\\]|\\.)*)"')


def traced(command: list[str], home: Path, log: Path) -> list[str]:
    """Output lines of strace for a command with only a home folder in its environment."""
    environment = {"HOME": str(home), "PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}
    strace = ["strace", "-f", "-qq", "-y", "-e", f"trace={TRACED},openat,open,creat", "-o", str(log)]
    subprocess.run([*strace, *command], env=environment, check=True, cwd=home, capture_output=True)
    return log.read_text(errors="replace").splitlines()


def connections(lines: list[str]) -> list[str]:
    """The calls that connect or send, except on AF_UNIX sockets, which stay on this machine."""
    calls = (line for line in lines if re.search(rf"\b({TRACED.replace(',', '|')})\(", line))
    return [line for line in calls if "AF_UNIX" not in line]


def written(lines: list[str], home: Path) -> set[str]:
    """Files opened for writing, except those in /dev, /proc and /sys."""
    opened = (line for line in lines if WRITING.search(line) and " = -1 " not in line)
    found = {match[1] for line in opened if (match := PATH.search(line))}
    inside = {path.replace(str(home), "~") for path in found if not path.startswith(("/dev/", "/proc/", "/sys/"))}
    return {re.sub(r"[0-9a-f]{16,}", "*", path) for path in inside}


def main() -> None:
    """Prints a paragraph per engine."""
    if shutil.which("strace") is None:
        sys.exit("strace is not installed: run `apt-get install strace`")
    versions = ", ".join(f"{name} {version(name)}" for name in ("onnxruntime", "openvino"))
    print(f"{time.strftime('%Y-%m-%d')}, {versions}")
    connected = 0
    for engine in ENGINES:
        with tempfile.TemporaryDirectory() as folder:
            home = Path(folder) / "home"
            home.mkdir()
            command = [sys.executable, "-m", "latentrt", "generate", "a red apple", "--steps", "1", "--size", "16x16"]
            lines = traced([*command, "--engine", engine, "--out", "apple.png"], home, Path(folder) / "log")
        found = connections(lines)
        connected += len(found)
        print(f"{engine}: {len(found)} connections")
        for line in (*found, *sorted(written(lines, home))):
            print(f"  {line}")
    sys.exit(connected > 0)


if __name__ == "__main__":
    main()
