"""Report files; the suffix selects the format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from latentrt.bench.page import page_of
from latentrt.bench.report import Report
from latentrt.bench.tables import as_csv, as_json, as_jsonl, markdown
from latentrt.errors import OutputError
from latentrt.storage.atomic import check_writable, write_text

FORMATS: dict[str, Callable[[Report], str]] = {
    ".json": as_json,
    ".jsonl": as_jsonl,
    ".csv": as_csv,
    ".md": markdown,
    ".html": page_of,
}


def check_file(path: Path) -> None:
    """Raises OutputError for a suffix without a format, or a file that cannot be written."""
    if path.suffix.lower() not in FORMATS:
        raise OutputError(f"{path}: got the suffix {path.suffix!r}, expected one of {', '.join(FORMATS)}")
    check_writable(path)


def save(report: Report, path: Path) -> None:
    """Writes the report, whole or not at all. Raises OutputError if that fails."""
    check_file(path)
    write_text(path, FORMATS[path.suffix.lower()](report))
