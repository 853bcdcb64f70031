"""What docs/security.md says: what is read, run, written and told, and what is not."""

from __future__ import annotations

import ast
import dataclasses
import functools
import json
import logging
import os
import re
import stat
import sys
from pathlib import Path

import pytest

import lastly

PACKAGE = Path(lastly.__file__).parent
FORMATS = ["jsonl", "json", "svg", "txt"]
SECRET = "hunter2-correct-horse"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A directory of its own for what is written."""
    target = tmp_path / "target"
    target.mkdir()
    return target


def close(manager: lastly.ShutdownManager, path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LASTLY_REPORT", str(path))
        manager.close()


# -- what it does ---------------------------------------------------------------------------

TREES = {
    path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text())
    for path in sorted(PACKAGE.rglob("*.py"))
}
RUNS_TEXT = {"eval", "exec", "compile", "__import__", "breakpoint", "input"}
LOADS = {
    *("pickle", "marshal", "shelve", "dill", "ctypes", "code", "codeop", "runpy", "importlib"),
    *("subprocess", "socket", "ssl", "http", "urllib", "tempfile", "shutil", "pty", "imp"),
}
GOOD_REASONS = {
    "_render.py": {"shutil"},  # for the width of the terminal
    "_wakeup.py": {"socket"},  # for a pair of them, by which a signal wakes the loop
    "_interpreter.py": {"importlib"},  # for modules of the standard library's, by fixed names
    "testing/_program.py": {"subprocess", "tempfile"},  # run_program: a child, and where it reports
}


@pytest.mark.parametrize("module", TREES)
def test_no_text_is_run_and_nothing_is_unpickled(module: str) -> None:
    """No eval, exec or pickle, no connection, no process but run_program's; in no module."""
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Name):
            assert node.id not in RUNS_TEXT, ast.unparse(node)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            system = node.value.id == "os" and re.match("system|popen|exec|spawn|fork$", node.attr)
            assert not system, ast.unparse(node)
        elif isinstance(node, ast.Import | ast.ImportFrom) and not getattr(node, "level", 0):
            names = [alias.name for alias in node.names]
            loaded = {(getattr(node, "module", None) or name).split(".")[0] for name in names}
            assert not loaded & LOADS - GOOD_REASONS.get(module, set()), ast.unparse(node)


def test_what_is_read_from_the_environment() -> None:
    """R31: LASTLY_REPORT, and nothing else; run_program hands all of it on to its child."""
    read = []
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            names = [getattr(node, "attr", ""), getattr(node, "id", "")]
            if {"environ", "environb", "getenv", "getenvb", "expandvars", "expanduser"} & {*names}:
                read.append((module, ast.unparse(node)))
    assert read == [("_manager.py", "os.environ"), ("testing/_program.py", "os.environ")]
    assert "env={**os.environ, " in (PACKAGE / "testing" / "_program.py").read_text()
    source = (PACKAGE / "_manager.py").read_text()
    assert source.count("environ") == source.count('os.environ.get("LASTLY_REPORT")') == 1


def test_what_an_unwind_does(run_child, target: Path) -> None:
    """R31: seen by an audit hook, all it opens, runs or connects to is the report."""
    path = target / "report.json"
    ended = run_child(
        """
        import asyncio, json, os, pathlib, sys, lastly
        import lastly._record  # its own imports are the interpreter's to load

        async def close():
            await asyncio.sleep(0)

        async def main():
            lastly.defer(close)
            lastly.defer(print, "sync")
            watched.append(True)
            await lastly.aclose()
            watched.clear()

        def hook(event, args):
            kind = event.partition(".")[0]
            if watched and (kind in suspicious or event in suspicious):
                seen.append((event, str(args[0])))

        suspicious = {"open", "exec", "compile", "pickle", "marshal", "socket", "subprocess",
                      "ctypes", "os.system", "os.exec", "os.posix_spawn", "os.putenv", "os.rename",
                      "os.remove", "os.chmod", "os.link", "os.symlink", "shutil", "tempfile"}
        watched, seen = [], []
        asyncio.run(asyncio.sleep(0))
        sys.addaudithook(hook)
        asyncio.run(main())
        print(json.dumps([event for event in seen if not event[1].endswith((".py", ".pyc"))]))
        """,
        LASTLY_REPORT=str(path),
    )
    opened, renamed = json.loads(ended.out[-1])
    assert opened[0] == "open"
    assert Path(opened[1]).parent == target
    assert renamed == ["os.rename", opened[1]]
    assert os.listdir(target) == [path.name]


# -- the report's file ----------------------------------------------------------------------


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("exists", [True, False])
def test_a_link_in_the_reports_place_is_not_followed(
    manager: lastly.ShutdownManager, target: Path, tmp_path: Path, caplog, suffix: str, exists
) -> None:
    """R31: what it leads to stays as it is; the link is replaced, or the report is not written."""
    victim = tmp_path / "victim"
    if exists:
        victim.write_text("precious")
        victim.chmod(0o666)
    path = target / f"report.{suffix}"
    path.symlink_to(victim)
    manager.defer(int)
    close(manager, path)
    assert victim.exists() is exists
    assert not exists or victim.read_text() == "precious"
    assert os.listdir(target) == [path.name]
    if suffix == "jsonl":
        assert path.is_symlink()
        assert "the report was not written" in caplog.text
    else:
        assert not path.is_symlink()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert caplog.text == ""


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_second_name_of_a_file_is_not_written_to(
    manager: lastly.ShutdownManager, target: Path, tmp_path: Path, caplog, suffix: str
) -> None:
    """R31: a hard link is no way to another file; it is replaced, or the report is not written."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    victim.chmod(0o644)
    path = target / f"report.{suffix}"
    os.link(victim, path)
    manager.defer(int)
    close(manager, path)
    assert victim.read_text() == "precious"
    assert os.listdir(target) == [path.name]
    if suffix == "jsonl":
        assert path.samefile(victim)
        assert "no file of this user's or root's that has one name only" in caplog.text
    else:
        assert not path.samefile(victim)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600  # the victim's was for that
        assert caplog.text == ""
    path.unlink()
    manager.defer(int)
    close(manager, path)
    assert path.stat().st_size > 0


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_file_of_somebody_elses_is_not_used(
    manager: lastly.ShutdownManager, target: Path, monkeypatch, caplog, suffix: str
) -> None:
    """R31: who was there before, and may read what he owns, is told nothing."""
    path = target / f"report.{suffix}"
    path.write_text("")
    path.chmod(0o666)
    owner = path.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    if owner == 0:
        os.chown(path, 65534, -1)
    manager.defer(int)
    close(manager, path)
    if suffix == "jsonl":
        assert "the report was not written" in caplog.text
        assert path.read_text() == ""
        os.chown(path, owner, -1)
    else:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    caplog.clear()
    monkeypatch.undo()
    manager.defer(int)
    close(manager, path)
    assert caplog.text == ""
    assert path.stat().st_size > 0


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs to be root")
def test_a_file_made_beforehand_in_a_sticky_directory(
    manager: lastly.ShutdownManager, target: Path, caplog
) -> None:
    """R31: the same with a file that really is somebody else's, and open to everybody."""
    target.chmod(0o1777)
    path = target / "report.jsonl"
    path.write_text("")
    os.chown(path, 65534, 65534)
    path.chmod(0o666)
    manager.defer(int)
    close(manager, path)
    assert path.read_text() == ""
    assert "the report was not written" in caplog.text


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs to be root")
def test_a_file_of_roots_is_used(
    manager: lastly.ShutdownManager, target: Path, monkeypatch, caplog
) -> None:
    """R31: it reads everything anyway, and owns every file of some volumes."""
    path = target / "report.jsonl"
    path.write_text("")
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    manager.defer(int)
    close(manager, path)
    assert caplog.text == ""
    assert json.loads(path.read_text())["ok"]


def test_a_pipe_is_whosoever_it_is(
    manager: lastly.ShutdownManager, target: Path, monkeypatch, caplog
) -> None:
    """R31: one that another user reads, a collector of logs say, is written to as ever."""
    path = target / "report.jsonl"
    os.mkfifo(path)
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        manager.defer(int)
        close(manager, path)
        assert json.loads(os.read(reader, 1 << 16))["ok"]
    finally:
        os.close(reader)
    assert caplog.text == ""


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_system_without_users(
    manager: lastly.ShutdownManager, target: Path, monkeypatch, caplog, suffix: str
) -> None:
    """R31: Windows cannot tell whose a file is; there it is only asked how many names it has."""
    monkeypatch.delattr(os, "geteuid")
    path = target / f"report.{suffix}"
    for _ in range(2):
        manager.defer(int)
        close(manager, path)
    assert caplog.text == ""
    assert len(path.read_text().splitlines()) == 2 or suffix != "jsonl"


@pytest.mark.parametrize("suffix", FORMATS[1:])
def test_nobody_can_be_there_before(
    manager: lastly.ShutdownManager, target: Path, tmp_path: Path, monkeypatch, caplog, suffix: str
) -> None:
    """R31: a link at the name of the half that is renamed is not followed, were it guessed."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    path = target / f"report.{suffix}"
    path.write_text("old")
    monkeypatch.setattr(os, "urandom", lambda size: b"\0" * size)
    guessed = target / f".{'00' * 16}"
    guessed.symlink_to(victim)
    manager.defer(int)
    close(manager, path)
    assert "the report was not written" in caplog.text
    assert victim.read_text() == "precious"
    assert path.read_text() == "old"
    assert guessed.is_symlink()


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_half_has_a_name_that_nobody_knows(
    manager: lastly.ShutdownManager, target: Path, monkeypatch, suffix: str
) -> None:
    """R31: it lies beside the report, is made anew, and is no link."""
    opened: list[tuple[Path, int]] = []
    original = os.open
    opens = lambda path, flags, mode: opened.append((path, flags)) or original(path, flags, mode)
    monkeypatch.setattr(os, "open", opens)
    for _ in range(2):
        manager.defer(int)
        close(manager, target / f"report.{suffix}")
    assert {path.parent for path, _ in opened} == {target}
    assert all(flags & os.O_NOFOLLOW for _, flags in opened)
    if suffix != "jsonl":
        assert all(flags & os.O_EXCL for _, flags in opened)
        assert len({path for path, _ in opened}) == 2


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_new_report_is_its_owners_alone(
    manager: lastly.ShutdownManager, target: Path, suffix: str
) -> None:
    """R31: nobody knows what is in an exception's text; one that was shared stays so."""
    path = target / f"report.{suffix}"
    umask = os.umask(0)
    try:
        manager.defer(int)
        close(manager, path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        path.chmod(0o644)
        manager.defer(int)
        close(manager, path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
    finally:
        os.umask(umask)


# -- what is told ---------------------------------------------------------------------------


@dataclasses.dataclass
class Connection:
    password: str = SECRET

    def close(self, *args: object, **kwargs: object) -> None: ...

    def fails(self, *args: object, **kwargs: object) -> None:
        raise ValueError("closed already")

    async def hangs(self, *args: object, **kwargs: object) -> None:
        import anyio

        await anyio.Event().wait()

    def __call__(self, *args: object, **kwargs: object) -> None:
        raise SystemExit

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *exc: object) -> None:
        raise KeyError(1)


def everything_told(manager: lastly.ShutdownManager, caplog: pytest.LogCaptureFixture) -> str:
    report = manager.last_report()
    formatter = logging.Formatter()
    return "\n".join(
        [
            *map(formatter.format, caplog.records),  # with its traceback
            *(str(report), repr(report), json.dumps(report.to_dict())),
            *(report.timeline(), report.blame(), report.to_svg()),
            *map(repr, report.outcomes),
            *map(str, report.outcomes),
        ]
    )


async def test_what_callbacks_are_given_is_told_nowhere(
    manager: lastly.ShutdownManager, target: Path, caplog
) -> None:
    """R10, R23, R29 to R31: names and places only; no argument, no repr of an object."""
    caplog.set_level(logging.DEBUG)
    handles = []
    for connection in (Connection(), Connection()):
        for verb in (connection.close, connection.fails, connection, connection.hangs):
            manager.register(verb, SECRET, password=SECRET)
            timeout = {"timeout": 0.01} if verb == connection.hangs else {}
            handles.append(manager.defer(verb, SECRET, **timeout))
            handles.append(manager.defer(functools.partial(verb, password=SECRET), SECRET))
        manager.enter_context(connection)
    handles += manager.pending()
    told = [*map(repr, handles), repr(manager), repr(manager.pending())]
    manager.configure(slow_after=0.005, errors="log", timeout=0.05)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LASTLY_REPORT", str(target / "report.jsonl"))
        await manager.aclose()
    manager.configure(timeout=None)
    told += [everything_told(manager, caplog), (target / "report.jsonl").read_text()]
    assert manager.last_report().failures
    assert "still waiting" in caplog.text
    assert "Connection.fails" in told[-1]
    assert not [text for text in told if SECRET in text]
    notes = [
        n for o in manager.last_report().outcomes for n in getattr(o.exception, "__notes__", [])
    ]
    assert SECRET not in str(notes)


def test_what_is_refused_is_told_by_its_type(manager: lastly.ShutdownManager) -> None:
    """R32: the errors at the registering call name what was given, and do not show it."""

    @dataclasses.dataclass
    class Row:
        password: str = SECRET

    for refused in (
        lambda: manager.register(Row()),
        lambda: manager.defer(Row()),
        lambda: manager.enter_context(Row()),
        lambda: manager.defer(Connection().hangs, on_timeout=Row()),
    ):
        with pytest.raises(TypeError) as caught:
            refused()
        assert SECRET not in str(caught.value)
        assert "Row" in str(caught.value)


def test_what_an_exception_says_is_its_own(manager: lastly.ShutdownManager, caplog) -> None:
    """R10, R29: its text is told as it is: without it nobody could tell why a callback failed."""
    manager.configure(errors="log")
    manager.defer(int, SECRET)  # int's own words are "invalid literal ...: 'hunter2...'"
    manager.close()
    assert SECRET in manager.last_report().to_dict()["outcomes"][0]["exception"]
    assert SECRET in caplog.text


def test_pictures_are_only_drawn(manager: lastly.ShutdownManager) -> None:
    """R30: a name or an exception's text cannot put a script or a link into the SVG."""
    evil = '"><script>alert(1)</script><a href="javascript:alert(1)">'
    manager.configure(errors="log")
    manager.defer(int, evil, name=evil)
    manager.close()
    svg = manager.last_report().to_svg()
    assert "<script" not in svg
    assert "<a " not in svg
    assert not re.search(r'(href|src|on\w+)\s*=\s*"', svg)


if sys.platform == "win32":
    pytest.skip("links and modes are POSIX's", allow_module_level=True)
