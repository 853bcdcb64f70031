"""LASTLY_REPORT: write the report of each unwind to the file that it names (R31).

Loaded only where it is set. May import _errors only.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from threading import get_ident

from ._errors import warn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._outcome import Report


def record(report: Report, path: str) -> None:
    """Append the report to a .jsonl file, or write it as .json, .svg or .txt; raise nothing."""
    try:
        _write(report, Path(path))
    except Exception as exc:  # an encoding, a disk, a name: none is worth a failed shutdown
        warn("the report was not written, with LASTLY_REPORT=%r: %s", path, exc)


def _write(report: Report, path: Path) -> None:
    match path.suffix:
        case ".jsonl":
            _append(path, _json(report, None))
        case ".json":
            _replace(path, _json(report, 2))
        case ".svg":
            _replace(path, report.to_svg())
        case ".txt":
            timeline = report.timeline(width=100, ascii_only=False)
            _replace(path, f"{report}\n\n{timeline}\n\n{report.blame()}\n")
        case _:
            raise ValueError("its name has to end in .jsonl, .json, .svg or .txt")


def _json(report: Report, indent: int | None) -> str:
    # Many processes may write to one file: which of them was it, and when?
    told = {"pid": os.getpid(), "ended": datetime.now(UTC).isoformat(), **report.to_dict()}
    return json.dumps(told, indent=indent) + "\n"


def _append(path: Path, text: str) -> None:
    # One write to a file opened for appending: lines of several processes do not mix. Not
    # blocking, or a pipe that nobody reads would hold up the exit.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NONBLOCK", 0)
    file = os.open(path, flags, 0o666)
    try:
        os.write(file, text.encode())
    finally:
        os.close(file)


def _replace(path: Path, text: str) -> None:
    # Readers see the old file or the new one, never half of it.
    half = path.with_name(f".{path.name}.{os.getpid()}-{get_ident()}")
    try:
        # Whoever keeps the report to himself may go on doing so.
        half.touch(path.stat().st_mode & 0o777 if path.exists() else 0o666)
        half.write_bytes(text.encode())
        half.replace(path)
    finally:
        half.unlink(missing_ok=True)
