"""The examples, each in a process of its own, down to the last line and the exit status."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
# A ResourceWarning tells of something that was never closed; it lands on stderr.
PYTHON = [sys.executable, "-W", "error"]
TIMEOUT = 60


def run(*command: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PYTHON, *map(str, command)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        env={**os.environ, **env},
    )


@contextmanager
def serving(script: Path, **env: str) -> Generator[tuple[subprocess.Popen[str], list[str]]]:
    """Start a web app and wait until it serves; yield it and what it has said so far."""
    child = subprocess.Popen(
        [*PYTHON, str(script), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **env},
    )
    limit = threading.Timer(TIMEOUT, child.kill)
    limit.start()
    with child:
        try:
            assert child.stdout is not None
            said: list[str] = []
            while not (said and said[-1].startswith("serving on ")):
                line = child.stdout.readline()
                assert line, f"ended before it was serving: {child.communicate()}"
                said.append(line.rstrip())
            yield child, said
        finally:
            limit.cancel()
            child.kill()


def altered(directory: Path, *changes: tuple[str, str]) -> Path:
    """Return a copy of webapp.py with these changes."""
    source = (EXAMPLES / "webapp.py").read_text()
    for old, new in changes:
        assert source.count(old) == 1, old
        source = source.replace(old, new)
    script = directory / "altered.py"
    script.write_text(source)
    return script


@pytest.mark.parametrize(
    ("script", "stdout"),
    [
        ("script.py", "main is done\nclosed the database with 3 planets\n"),
        (
            "sync_script.py",
            "the script is done\nclosed the journal with 3 entries\nremoved the directory: True\n",
        ),
        ("worker.py", "no jobs left\n10 jobs done, their sum is 385\nclosed everything\n"),
    ],
    ids=["script", "sync_script", "worker"],
)
def test_script(script: str, stdout: str) -> None:
    result = run(EXAMPLES / script)
    assert (result.stdout, result.stderr, result.returncode) == (stdout, "", 0)


def test_worker_closes_when_a_job_fails(tmp_path: Path) -> None:
    source = (EXAMPLES / "worker.py").read_text()
    assert source.count("number**2") == 1
    script = tmp_path / "worker.py"
    script.write_text(source.replace("number**2", "1 // (number - 3)"))
    result = run(script)
    assert result.stdout == "2 jobs done, their sum is -2\nclosed everything\n"
    assert "ZeroDivisionError" in result.stderr
    assert result.returncode == 1


def test_service_answers_who_is_connected_before_it_closes() -> None:
    """R25: main, which waits for the request, drains and returns; the exit status tells why."""
    command = [sys.executable, str(EXAMPLES / "service.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        port = child.stdout.readline().rpartition(" ")[2]
        with socket.create_connection(("127.0.0.1", int(port))) as client:
            client.sendall(b"one\n")
            assert client.recv(100) == b"ONE\n"
            child.terminate()
            assert child.stdout.readline() == "draining, signal: SIGTERM\n"
            client.sendall(b"two\n")
            assert client.recv(100) == b"TWO\n"
        assert child.stdout.read() == "answered everybody\nclosed everything\n"
        assert child.wait(TIMEOUT) == 143


def parts(stdout: str) -> tuple[list[str], dict[str, Any], list[str]]:
    """Return what the web app says while it closes, its report, and its timeline."""
    lines = stdout.splitlines()
    (at,) = (n for n, line in enumerate(lines) if line.startswith("{"))
    return lines[:at], json.loads(lines[at]), lines[at + 1 :]


@pytest.mark.parametrize(
    ("number", "returncode"),
    # uvicorn raises the signal once more, and `lastly.run` tells it in the exit status.
    [(signal.SIGTERM, 143), (signal.SIGINT, 130)],
    ids=["SIGTERM", "SIGINT"],
)
def test_webapp(number: signal.Signals, returncode: int, tmp_path: Path) -> None:
    """R1, R18: a server's lifespan closes everything newest first, module level included."""
    with serving(EXAMPLES / "webapp.py", TMPDIR=str(tmp_path), WEBAPP_DB="") as (child, said):
        opened = ["client", "scratch directory", "pool", "worker"]
        *opening, url = said
        assert opening == [f"opened {name}" for name in opened]
        base_url = url.removeprefix("serving on ")
        with httpx.Client(base_url=base_url, trust_env=False, timeout=TIMEOUT) as client:
            for text in ("one", "two words", ""):
                assert client.post("/notes", content=text).status_code == 201
            notes = client.get("/notes").json()
            assert [(note["id"], note["text"]) for note in notes] == [
                (1, "one"),
                (2, "two words"),
                (3, ""),
            ]
            assert client.get("/health").json() == {"healthy": True, "notes": 3}
            # While the connection is open: a server has to cope with that.
            child.send_signal(number)
            stdout, stderr = child.communicate(timeout=TIMEOUT)
    closing, report, timeline = parts(stdout)
    assert closing == [f"closed {name}" for name in reversed(opened)]
    assert timeline[0].startswith("unwound on scope exit in ")
    assert report["ok"] is True
    assert report["reason"] == {"trigger": "scope exit", "detail": None}
    assert [(outcome["name"], outcome["status"]) for outcome in report["outcomes"]] == [
        ("worker", "ok"),
        ("Pool", "ok"),
        ("scratch_directory", "ok"),
        ("close_client", "ok"),
    ]
    assert stderr == ""
    assert child.returncode == returncode
    assert list(tmp_path.iterdir()) == []


def test_webapp_finishes_its_jobs_before_the_pool_closes(tmp_path: Path) -> None:
    """R1: the worker, which is newer, still has the pool that it works with."""
    # A worker that begins only when it is told to stop has all its jobs still to do.
    script = altered(
        tmp_path,
        (
            "while (note := await self._jobs.get())",
            "await STOPPING.wait()\n        while (note := await self._jobs.get())",
        ),
        ("self._jobs.put_nowait(None)", "STOPPING.set(); self._jobs.put_nowait(None)"),
        ("class Worker:", "STOPPING = asyncio.Event()\n\n\nclass Worker:"),
    )
    database = tmp_path / "notes.db"
    for words in ([None] * 3, [1, 2, 0]):
        with serving(script, WEBAPP_DB=str(database)) as (child, said):
            base_url = said[-1].removeprefix("serving on ")
            with httpx.Client(base_url=base_url, trust_env=False, timeout=TIMEOUT) as client:
                if words[0] is None:
                    for text in ("one", "two words", ""):
                        client.post("/notes", content=text).raise_for_status()
                assert [note["words"] for note in client.get("/notes").json()] == words
            child.terminate()
            stdout, stderr = child.communicate(timeout=TIMEOUT)
        assert parts(stdout)[1]["ok"] is True
        assert (stderr, child.returncode) == ("", 143)


def test_webapp_that_cannot_start_closes_what_did_open(tmp_path: Path) -> None:
    """R14, R16: the loop's teardown closes the pool, interpreter exit the client."""
    database = tmp_path / "notes.db"
    database.write_text("this is no database, and SQLite will find that out")
    result = run(EXAMPLES / "webapp.py", "--port", "0", WEBAPP_DB=str(database))
    assert result.stdout.splitlines() == [
        "opened client",
        "opened pool",
        "closed pool",
        "closed client",
    ]
    assert result.stderr.endswith("sqlite3.DatabaseError: file is not a database\n")
    assert result.returncode == 1


def test_demo(tmp_path: Path) -> None:
    svg = tmp_path / "shutdown.svg"
    result = run(EXAMPLES / "demo.py", "--svg", svg)
    assert result.stderr == ""
    assert result.returncode == 0
    assert 30 <= len(result.stdout.splitlines()) <= 45
    said = re.findall(r"^   ((?:opened|closed) .*)$", result.stdout, re.MULTILINE)
    assert said == [
        "opened client",
        "opened pool",
        "opened worker",
        "closed worker",
        "closed pool",
        "closed client",
    ]
    bars = re.findall(r"^   (\S+) +ok +[\d.]+[mu]?s +[█▏#|]+$", result.stdout, re.MULTILINE)
    assert bars == ["worker", "Pool", "close_client"]
    origins = re.findall(r"^   (\S+) +webapp\.py:\d+$", result.stdout, re.MULTILINE)
    assert origins == bars
    assert f"a picture, {svg}" in result.stdout
    assert svg.read_text().startswith("<svg ")
    assert "3 resources were opened, and each was closed once, newest first" in result.stdout


def test_demo_draws_where_no_other_user_does(tmp_path: Path) -> None:
    """Without --svg the picture is in a directory of its own, which nobody else can have."""
    result = run(EXAMPLES / "demo.py", TMPDIR=str(tmp_path))
    assert (result.stderr, result.returncode) == ("", 0)
    [left] = tmp_path.iterdir()
    assert left.stat().st_mode & 0o777 == 0o700
    assert f"a picture, {left / 'shutdown.svg'}" in result.stdout
    assert (left / "shutdown.svg").read_text().startswith("<svg ")


NEWEST = "app.state.pool, app.state.worker = pool, worker"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param(
            [("@lastly.register\n", "")],
            "left open: client",
            id="never closed",
        ),
        pytest.param(
            [(NEWEST, f"{NEWEST}\n    lastly.register(close_client)")],
            "closed more often than opened: client",
            id="closed twice",
        ),
        pytest.param(
            [
                ("@lastly.register\n", ""),
                (NEWEST, f"{NEWEST}\n    lastly.register(close_client)"),
            ],
            "closed out of order: client, worker, pool",
            id="out of order",
        ),
        pytest.param(
            [("await client.aclose()\n", "await client.aclose()\n    1 / 0\n")],
            "left open: client\n  the report is not ok",
            id="a callback fails",
        ),
        pytest.param(
            [
                (
                    "await client.aclose()\n",
                    'await client.aclose()\n    say("closed client"); 1 / 0\n',
                )
            ],
            "the report is not ok",
            id="a callback fails at its end",
        ),
        pytest.param(
            [("say(json.dumps(report.to_dict()))", "pass")],
            "the app has printed no report",
            id="no report",
        ),
        pytest.param(
            [
                (
                    "say(json.dumps(report.to_dict()))",
                    "say(json.dumps(report.to_dict())); os._exit(0)",
                )
            ],
            "the app ended with exit status 0, not 143 for SIGTERM",
            id="another exit status",
        ),
        pytest.param(
            [("    worker.count_words(row[0])\n", "")],
            "the worker has left 3 of 3 jobs undone",
            id="jobs left undone",
        ),
        pytest.param(
            [("await open_everything()", "raise SystemExit(3)")],
            "the app ended before it was serving, with exit status 3",
            id="not started",
        ),
        pytest.param(
            [("response.is_success", "1 / 0")],
            "HTTPStatusError: Server error '500 Internal Server Error'",
            id="a request fails",
        ),
    ],
)
def test_demo_finds(changes: list[tuple[str, str]], message: str, tmp_path: Path) -> None:
    result = run(EXAMPLES / "demo.py", altered(tmp_path, *changes), "--svg", tmp_path / "demo.svg")
    assert f"\ndemo failed:\n  {message}" in result.stderr
    assert result.returncode == 1


def test_demo_kills_an_app_that_hangs(tmp_path: Path) -> None:
    script = tmp_path / "hanging.py"
    script.write_text("import threading\nthreading.Event().wait()\n")
    result = run(EXAMPLES / "demo.py", script, "--limit", "0.5", "--svg", tmp_path / "demo.svg")
    assert result.stderr == "\ndemo failed:\n  the app was killed: it had not ended after 0.5 s\n"
    assert result.returncode == 1
