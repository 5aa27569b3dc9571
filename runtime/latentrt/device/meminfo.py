"""Memory of the machine, from /proc/meminfo."""

from __future__ import annotations

from pathlib import Path

MEMINFO = Path("/proc/meminfo")


def memory(meminfo: Path) -> dict[str, int] | None:
    """Returns "total_bytes" and "available_bytes"; None if the file cannot be read."""
    try:
        entries = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        total, available = (int(entries[key].split()[0]) * 1024 for key in ("MemTotal", "MemAvailable"))
    except (OSError, ValueError, KeyError):
        return None
    return {"total_bytes": total, "available_bytes": available}
