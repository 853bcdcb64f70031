"""R31: LASTLY_REPORT has the report of each unwind written to a file."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import resource
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

import pytest

import lastly

FORMATS = ["jsonl", "json", "svg", "txt"]
SURROGATE = os.fsdecode(b"\xff") if os.name == "posix" else "\udcff"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A directory of its own for what is written."""
    target = tmp_path / "target"
    target.mkdir()
    return target


def close(manager: lastly.ShutdownManager, path: object, reason: str | None = None) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LASTLY_REPORT", str(path))
        manager.close(reason)


def lines(path: Path) -> list[dict]:
    text = path.read_text("utf-8")
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    records = [r for r in caplog.records if r.levelno >= logging.WARNING and r.name == "lastly"]
    return [r.getMessage() for r in records if "LASTLY_REPORT" in r.getMessage()]


def test_jsonl_is_appended_to(manager: lastly.ShutdownManager, target: Path, caplog) -> None:
    """R31: each unwind appends one line of JSON: its report, and which process wrote it when."""
    path = target / "report.jsonl"
    before = datetime.now(UTC)
    manager.defer(int, name="first")
    close(manager, path, "one")
    manager.defer(int, name="bottom")
    manager.defer(int, "x", name="top")
    with pytest.raises(ValueError, match="invalid literal"):
        close(manager, path, "two")
    one, two = lines(path)
    report = manager.last_report().to_dict()
    assert {key: two[key] for key in report} == report
    assert one["reason"] == {"trigger": "close", "detail": "one"}
    assert [(o["name"], o["status"]) for o in one["outcomes"]] == [("first", "ok")]
    assert two["reason"] == {"trigger": "close", "detail": "two"}
    assert [(o["name"], o["status"]) for o in two["outcomes"]] == [
        ("top", "failed"),
        ("bottom", "ok"),
    ]
    assert (one["ok"], two["ok"]) == (True, False)
    assert {one["pid"], two["pid"]} == {os.getpid()}
    ended = [datetime.fromisoformat(line["ended"]) for line in (one, two)]
    assert [before, *ended] == sorted([before, *ended])
    assert os.listdir(target) == ["report.jsonl"]
    assert warnings(caplog) == []


async def test_from_inside_a_loop(manager: lastly.ShutdownManager, target: Path) -> None:
    """R31: an unwind in a loop writes its report, too, on each backend."""
    path = target / "report.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LASTLY_REPORT", str(path))
        async with manager:
            manager.defer(int, name="closed")
    (line,) = lines(path)
    assert line["reason"] == {"trigger": "scope exit", "detail": None}
    assert [o["name"] for o in line["outcomes"]] == ["closed"]


@pytest.mark.parametrize("suffix", ["json", "svg", "txt"])
def test_the_others_are_replaced(
    manager: lastly.ShutdownManager, target: Path, caplog, suffix: str
) -> None:
    """R31: .json, .svg and .txt hold the last report only; who reads the old one, reads on."""
    path = target / f"report.{suffix}"
    path.write_text("old " * 100_000)
    manager.defer(int, name="first one")
    with path.open() as reader:
        assert reader.read(4) == "old "
        close(manager, path)
        assert len(reader.read()) == 4 * 100_000 - 4
    assert "first one" in path.read_text("utf-8")
    assert "old old" not in path.read_text("utf-8")
    manager.defer(int, name="second one")
    close(manager, path, "again")
    text = path.read_text("utf-8")
    assert "first one" not in text
    report = manager.last_report()
    if suffix == "json":
        told = json.loads(text)
        assert told.pop("pid") == os.getpid()
        assert datetime.fromisoformat(told.pop("ended")).tzinfo is not None
        assert told == report.to_dict()
        assert text.startswith('{\n  "pid"')
    elif suffix == "svg":
        assert text == report.to_svg()
        assert ElementTree.fromstring(text).tag.endswith("svg")
    else:
        timeline = report.timeline(width=100, ascii_only=False)
        assert text == f"{report}\n\n{timeline}\n\n{report.blame()}\n"
    assert os.listdir(target) == [path.name]
    assert warnings(caplog) == []


def fails() -> None:
    raise ValueError("its own")


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("why", ["no directory", "a directory", "a file above it"])
def test_what_cannot_be_written(
    manager: lastly.ShutdownManager, target: Path, caplog, suffix: str, why: str
) -> None:
    """R31: it is one warning that names the path; the unwind's result is as ever."""
    path = target / "missing" / f"report.{suffix}"
    if why == "a directory":
        path.mkdir(parents=True)
    elif why == "a file above it":
        path.parent.write_text("a file")
    before = sorted(target.rglob("*"))
    ran: list[str] = []
    manager.defer(ran.append, "bottom")
    manager.defer(fails)
    with pytest.raises(ValueError, match="its own") as caught:
        close(manager, path)
    assert caught.value.__context__ is None
    assert ran == ["bottom"]
    assert [str(o.status) for o in manager.last_report().outcomes] == ["failed", "ok"]
    (warning,) = warnings(caplog)
    assert repr(str(path)) in warning
    assert sorted(target.rglob("*")) == before
    manager.defer(int)
    close(manager, path)  # without a failure there is nothing to raise
    assert len(warnings(caplog)) == 2


@pytest.mark.parametrize("name", ["report", "report.html", "report.JSON", ".json", "json", "."])
def test_no_known_suffix(
    manager: lastly.ShutdownManager, target: Path, caplog, monkeypatch, name: str
) -> None:
    """R31: a name that says no format is one warning that tells which there are."""
    monkeypatch.chdir(target)
    manager.defer(int)
    close(manager, name)
    (warning,) = warnings(caplog)
    assert repr(name) in warning
    assert "its name has to end in .jsonl, .json, .svg or .txt" in warning
    assert manager.last_report().ok
    assert os.listdir(target) == []


@pytest.mark.parametrize("value", ["", None])
def test_unset_or_empty(
    manager: lastly.ShutdownManager, target: Path, caplog, monkeypatch, value: str | None
) -> None:
    """R31: without the variable, or with nothing in it, nothing is written or said."""
    monkeypatch.chdir(target)
    monkeypatch.delenv("LASTLY_REPORT", raising=False)
    if value is not None:
        monkeypatch.setenv("LASTLY_REPORT", value)
    manager.defer(int)
    manager.close()
    assert manager.last_report().ok
    assert warnings(caplog) == []
    assert os.listdir(target) == []


def test_an_unwind_of_nothing_is_not_written(manager: lastly.ShutdownManager, target: Path) -> None:
    """R29, R31: what ran nothing leaves no report."""
    close(manager, target / "report.jsonl")
    assert os.listdir(target) == []


def test_it_is_read_at_each_unwind(
    manager: lastly.ShutdownManager, target: Path, monkeypatch
) -> None:
    """R31: a program may set it for itself, and a relative path is as of that moment."""
    monkeypatch.chdir(target)
    for name in ("one.json", "two.json"):
        manager.defer(int)
        close(manager, name)
    assert sorted(os.listdir(target)) == ["one.json", "two.json"]


@pytest.mark.parametrize("suffix", FORMATS)
def test_names_that_are_no_text(
    manager: lastly.ShutdownManager, target: Path, caplog, suffix: str
) -> None:
    """R31: names and reasons that cannot be encoded spoil no format."""
    path = target / f"r\N{LATIN SMALL LETTER E WITH ACUTE}port.{suffix}"
    manager.defer(int, name=f"odd {SURROGATE} \N{SNOWMAN}\n")
    close(manager, path, SURROGATE)
    assert warnings(caplog) == []
    text = path.read_bytes().decode("utf-8")
    assert "odd" in text
    if suffix.startswith("json"):
        told = json.loads(text)
        assert told["outcomes"][0]["name"] == "odd \\udcff \N{SNOWMAN}\\n"
        assert told["reason"]["detail"] == "\\udcff"
    else:
        assert "\N{SNOWMAN}" in text
    if suffix == "svg":
        ElementTree.fromstring(text)
    if suffix == "jsonl":
        assert text.count("\n") == 1


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_path_that_is_no_text(
    manager: lastly.ShutdownManager, target: Path, caplog, suffix: str
) -> None:
    """R31: a path of undecodable bytes is a path as any other, or one warning."""
    manager.defer(int)
    close(manager, target / f"{SURROGATE}.{suffix}")
    assert manager.last_report().ok
    assert len(os.listdir(target)) + len(warnings(caplog)) == 1


@contextlib.contextmanager
def full_after(size: int) -> Iterator[None]:
    """Let no file grow beyond this size, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("old", ["old\n", None])
@pytest.mark.parametrize("size", [0, 40])
def test_a_disk_that_is_full(
    manager: lastly.ShutdownManager, target: Path, caplog, suffix: str, old: str | None, size: int
) -> None:
    """R31: where only a part of it fits, the file is as it was, and nothing else is left."""
    path = target / f"report.{suffix}"
    if old is not None:
        path.write_text(old)
    manager.defer(int, name="x" * 100)
    with full_after(size + len(old or "")):
        close(manager, path)
    assert manager.last_report().ok
    assert len(warnings(caplog)) == 1
    if old is None and suffix != "jsonl":
        assert os.listdir(target) == []
    else:
        assert os.listdir(target) == [path.name]
        assert path.read_text() == (old or "")
    manager.defer(int)
    close(manager, path)
    if suffix == "jsonl":
        assert json.loads(path.read_text().splitlines()[-1])["ok"]


def test_half_a_line_with_a_whole_one_after_it(
    manager: lastly.ShutdownManager, target: Path, caplog, monkeypatch
) -> None:
    """R31: what another process has appended meanwhile stays."""
    path = target / "report.jsonl"
    write = os.write

    def half(file: int, data: bytes) -> int:
        written = write(file, data[:10])
        with path.open("a") as other:
            other.write("another's")
        return written

    monkeypatch.setattr(os, "write", half)
    manager.defer(int)
    close(manager, path)
    monkeypatch.undo()
    assert len(warnings(caplog)) == 1
    assert path.read_text().endswith("another's")


def test_a_pipe_that_takes_only_half_of_it(
    manager: lastly.ShutdownManager, target: Path, caplog
) -> None:
    """R31: nobody waits for the reader of a pipe; that it is too slow is one warning."""
    path = target / "pipe.jsonl"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        manager.defer(int, name="x" * 2_000_000)
        close(manager, path)
        (warning,) = warnings(caplog)
        assert "no room for all of it" in warning
    finally:
        os.close(reader)


@pytest.mark.parametrize("error", [OSError, ZeroDivisionError])
def test_a_log_handler_that_raises(
    manager: lastly.ShutdownManager, target: Path, error: type[Exception]
) -> None:
    """R10, R31: where the warning cannot be logged either, the result is as ever."""

    class Odd(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "LASTLY_REPORT" in record.getMessage():
                raised.append(record)
                raise error("the handler's")

    raised: list[logging.LogRecord] = []
    handler = Odd()
    logging.getLogger("lastly").addHandler(handler)
    try:
        manager.defer(int)
        close(manager, target / "report")
        manager.defer(fails)
        with pytest.raises(ValueError, match="its own"):
            close(manager, target / "report")
    finally:
        logging.getLogger("lastly").removeHandler(handler)
    assert len(raised) == 2
    ran: list[int] = []
    manager.defer(ran.append, 1)
    manager.close()  # it is not inside of the ones before
    assert ran == [1]


@pytest.mark.parametrize("suffix", FORMATS)
def test_two_unwinds_at_once(target: Path, caplog, monkeypatch, suffix: str) -> None:
    """R31: unwinds that end at once in several threads do not spoil one another's reports."""
    path = target / f"report.{suffix}"
    monkeypatch.setenv("LASTLY_REPORT", str(path))
    start = threading.Barrier(4)
    switch = sys.getswitchinterval()

    def unwind(letter: str) -> None:
        start.wait(60)
        for _ in range(25):
            manager = lastly.ShutdownManager()
            manager.defer(int, name=letter * 1000)
            manager.close()

    threads = [threading.Thread(target=unwind, args=(letter,)) for letter in "abcd"]
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    finally:
        sys.setswitchinterval(switch)
    assert warnings(caplog) == []
    assert os.listdir(target) == [path.name]
    text = path.read_text("utf-8")
    if suffix == "jsonl":
        assert len(lines(path)) == 100
    elif suffix == "json":
        assert json.loads(text)["ok"]
    elif suffix == "svg":
        ElementTree.fromstring(text)


# -- processes ------------------------------------------------------------------------------

SERVES = """
import asyncio, os, signal, sys
import lastly

@lastly.register
async def module_level():
    print("module level", flush=True)

async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)

    @lastly.register
    async def close_pool():
        await asyncio.sleep(0)
        print("pool", flush=True)

    lastly.defer(print, "server")
    print("serving", flush=True)
    await stop.wait()

asyncio.run(main())
"""


@pytest.mark.skipif(os.name != "posix", reason="needs SIGTERM")
@pytest.mark.parametrize("suffix", FORMATS)
def test_a_program_that_is_told_to_stop(target: Path, tmp_path: Path, suffix: str) -> None:
    """R31: a program that ends by SIGTERM leaves the reports of all of its unwinds."""
    path = target / f"report.{suffix}"
    program = tmp_path / "program.py"
    program.write_text(SERVES)
    process = subprocess.Popen(
        [sys.executable, program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "LASTLY_REPORT": str(path)},
    )
    with process:
        assert process.stdout.readline() == "serving\n"
        process.terminate()
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out.split("\n"), err) == (
        0,
        ["server", "pool", "module level", ""],
        "",
    )
    text = path.read_text("utf-8")
    names = ["close_pool", "module_level"]
    if suffix == "jsonl":
        teardown, end = lines(path)
        assert teardown["reason"] == {"trigger": "loop teardown", "detail": None}
        assert end["reason"] == {"trigger": "interpreter exit", "detail": None}
        assert [o["name"] for o in teardown["outcomes"]] == ["print", "main.<locals>.close_pool"]
        assert [o["name"] for o in end["outcomes"]] == ["module_level"]
        assert {teardown["pid"], end["pid"]} == {process.pid}
        assert teardown["ended"] <= end["ended"]
    else:
        assert [name in text for name in names] == [False, True]
        assert "interpreter exit" in text
    assert os.listdir(target) == [path.name]


def test_many_processes_append_to_one_file(target: Path, tmp_path: Path) -> None:
    """R31: lines of several processes that end at once do not mix, however long they are."""
    path = target / "report.jsonl"
    program = tmp_path / "program.py"
    source = """
        import sys, lastly

        sys.stdin.readline()  # all begin at once
        for number in range(40):
            manager = lastly.ShutdownManager()
            for _ in range(100):
                manager.defer(int, name=sys.argv[1] * 300)
            manager.close(f"{sys.argv[1]} {number}")
        """
    program.write_text(textwrap.dedent(source))
    processes = [
        subprocess.Popen(
            [sys.executable, program, letter],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "LASTLY_REPORT": str(path)},
        )
        for letter in "abcd"
    ]
    for process in processes:
        process.stdin.write(b"\n")
        process.stdin.flush()
    for process in processes:
        assert process.communicate(timeout=60) == (b"", None)
        assert process.returncode == 0
    told = lines(path)
    for process, letter in zip(processes, "abcd", strict=True):
        own = [line for line in told if line["pid"] == process.pid]
        assert [line["reason"]["detail"] for line in own] == [f"{letter} {n}" for n in range(40)]
        assert {o["name"] for line in own for o in line["outcomes"]} == {letter * 300}
    assert len(told) == 160
