"""LASTLY_REPORT: write the report of each unwind to the file that it names (R31).

Loaded only where it is set. May import _errors only.
"""

from __future__ import annotations

import json
import os
import stat
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from ._errors import warn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._outcome import Report


# What failed says so in words of its own, and nobody knows what is in them.
_PRIVATE = 0o600


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
    data = text.encode()
    file = _open(path, os.O_APPEND | getattr(os, "O_NONBLOCK", 0))
    try:
        # Of what was opened, not of the name, which may stand for something else by now.
        found = os.fstat(file)
        if not (stat.S_ISFIFO(found.st_mode) or _is_ones_own(found)):
            raise OSError(
                "it is no pipe, and no file of this user's or root's that has one name only"
            )
        written = os.write(file, data)
        if written < len(data):
            _take_back(file, written)
            raise OSError("there is no room for all of it")
    finally:
        os.close(file)


def _take_back(file: int, written: int) -> None:
    # Or the next line would go on where this half of one ends. If another process has written
    # meanwhile, its line is worth more.
    with suppress(OSError):  # a pipe keeps what it has
        end = os.lseek(file, 0, os.SEEK_CUR)
        if os.fstat(file).st_size == end:
            os.ftruncate(file, end - written)


def _replace(path: Path, text: str) -> None:
    # Readers see the old file or the new one, never half of it.
    half = path.with_name(f".{os.urandom(16).hex()}")  # a name may be as long as is allowed
    mode = _PRIVATE
    with suppress(OSError):
        found = path.lstat()
        if _is_ones_own(found):
            mode = found.st_mode & 0o777  # who shares the report may go on doing so
    file = _open(half, os.O_EXCL, mode)
    try:
        try:
            rest = memoryview(text.encode())
            while rest:
                rest = rest[os.write(file, rest) :]
        finally:
            os.close(file)
        half.replace(path)
    except BaseException:
        half.unlink(missing_ok=True)
        raise


def _is_ones_own(found: os.stat_result) -> bool:
    # In a directory that others may write to, it could be theirs, to read what is told, or a
    # second name that they gave to any file of this user's. Root reads everything anyway, and
    # volumes of a network may show all files as its own.
    user = getattr(os, "geteuid", lambda: found.st_uid)()  # Windows has none
    return stat.S_ISREG(found.st_mode) and found.st_uid in (user, 0) and found.st_nlink == 1


def _open(path: Path, flags: int, mode: int = _PRIVATE) -> int:
    # Never through a symbolic link: in a directory that others may write to, it could be
    # theirs, and lead to any file of this user's.
    flags |= os.O_WRONLY | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    return os.open(path, flags, mode)
