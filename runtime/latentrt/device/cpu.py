"""The processor: its name and instruction sets."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
# Keys of the model and of the instruction sets in /proc/cpuinfo, on x86 and on ARM.
NAMES, INSTRUCTIONS = ("model name", "CPU part"), ("flags", "Features")


def processor(cpuinfo: Path = CPUINFO) -> str:
    """The model's name and a digest of its instruction sets, since cloud machines of one name differ in these."""
    try:
        lines = cpuinfo.read_text().split("\n\n")[0].splitlines()
    except OSError:
        lines = []
    known = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name = next((known[key] for key in NAMES if key in known), platform.processor() or platform.machine())
    instructions = next((known[key] for key in INSTRUCTIONS if key in known), "")
    return f"{name} {hashlib.sha256(' '.join(sorted(instructions.split())).encode()).hexdigest()[:8]}"
