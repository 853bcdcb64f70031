"""Run one case of the matrix: a real server in a child process, requests, an ending, its traces."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TIMEOUT = 60  # seconds
HERE = Path(__file__).parent

# What is measured would be the servers, at the price of twice the time. Read once, in the main
# thread: servers are started in others, while pytest writes PYTEST_CURRENT_TEST and removes it.
INHERITED = {k: v for k, v in os.environ.items() if not k.startswith("COVERAGE_")}

COMMANDS = {
    "uvicorn": "uvicorn apps:app --port 0",
    "uvicorn --workers 2": "uvicorn apps:app --port 0 --workers 2",
    "uvicorn --reload": "uvicorn apps:app --port 0 --reload --reload-dir {directory}",
    "hypercorn": "hypercorn apps:app --bind 127.0.0.1:0 --graceful-timeout 2",
    "hypercorn --workers 2": "hypercorn apps:app --bind 127.0.0.1:0 --workers 2",
    "granian, kill timeout": (
        "granian --interface asgi apps:app --port {port} --workers-kill-timeout 1"
    ),
    "granian": "granian --interface asgi apps:app --port {port}",
    "gunicorn, uvicorn's worker": (
        "gunicorn apps:app --bind 127.0.0.1:0 -k uvicorn_worker.UvicornWorker"
    ),
    "gunicorn, its own worker": "gunicorn apps:app --bind 127.0.0.1:0 -k asgi",
    "daphne": "daphne apps:app -b 127.0.0.1 -p 0",
    "aiohttp": "aiohttp.web apps:get_app -H 127.0.0.1 -P 0",
}
# Their first process takes no notice of a second signal, and its workers wait for requests.
PATIENT = {"uvicorn --workers 2", "hypercorn", "granian"}
WORKERS = {"uvicorn --workers 2": 2, "hypercorn --workers 2": 2}  # at once
EXPECTED_WORKERS = {**WORKERS, "uvicorn --reload": 2}  # in all

UNWINDS = {
    "loop teardown": "loop teardown",
    "scope exit": "lifespan",
    "signal": "lifespan",
    "interpreter exit": "interpreter exit",
}

Event = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One cell: an app on a server, one pool beside asyncpg's, and how it ends."""

    framework: str
    server: str
    ending: str
    pool: str = "asyncpg"
    handlers: bool = False  # the app's module calls install_signal_handlers()

    def __str__(self) -> str:
        handlers = ", handlers" if self.handlers else ""
        return f"{self.framework} on {self.server}, {self.ending}, {self.pool}{handlers}"


@dataclass
class Traces:
    """What a server has left behind."""

    status: int
    log: str
    events: list[Event]
    reports: list[dict[str, Any]]

    def tell(self) -> str:
        events = "\n".join(f"{e['what']} {e['name']} {e['pid']} {e['task']}" for e in self.events)
        return f"{self.status}\n{events}\n{self.log}"

    def named(self, what: str) -> list[Event]:
        return [event for event in self.events if event["what"] == what]


class Server:
    """A server that runs, and is asked what it has logged and noted."""

    def __init__(self, command: str, directory: Path, env: dict[str, str], *inherits: int) -> None:
        self.directory = directory
        self._log = directory / "log"
        # It keeps the port for a server that does not say which one it was given: one that is
        # bound and does not listen gets no connections.
        self._reserved = socket.socket()
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._reserved.bind(("127.0.0.1", 0))
        self._told = None if "{port}" not in command else self._reserved.getsockname()[1]
        command = command.format(directory=directory, port=self._told)
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command.split()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=inherits,
                cwd=directory,
                # gunicorn has a socket in the runtime directory.
                env={
                    **INHERITED,
                    "PYTHONUNBUFFERED": "1",
                    "XDG_RUNTIME_DIR": str(directory),
                    **env,
                },
            )

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Ask until it is true, or the server has ended, or it takes too long."""
        deadline = time.monotonic() + TIMEOUT
        while not (value := condition()):
            assert self.process.poll() is None, f"it has ended before {what}: {self.tell()}"
            assert time.monotonic() < deadline, f"it takes too long for {what}: {self.tell()}"
            time.sleep(0.01)
        return value

    def tell(self) -> str:
        return self.log()

    def port(self) -> int:
        if self._told is not None:
            return self._told
        pattern = re.compile(r"127\.0\.0\.1:([1-9]\d*)")
        return int(self.until(lambda: pattern.search(self.log()), "it says its port")[1])

    def connect(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("127.0.0.1", self.port(), timeout=TIMEOUT)

        def connected() -> bool:
            with suppress(ConnectionRefusedError):
                connection.connect()
                return True
            return False

        self.until(connected, "it can be connected to")
        return connection

    def ask(self, said: str = "hello") -> http.client.HTTPConnection:
        """Make a request; return its connection, which the server keeps open."""
        connection = self.connect()
        connection.request("GET", "/")
        response = connection.getresponse()
        body = response.read().decode()
        assert (response.status, body) == (200, said), self.tell()
        return connection

    def send(self, signum: int) -> None:
        """Send a signal: Ctrl-C to all processes, as a terminal does, SIGTERM to the first."""
        if signum == signal.SIGINT:
            os.killpg(self.process.pid, signum)
        else:
            self.process.send_signal(signum)

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._reserved.close()

    def end(self) -> int:
        """Wait for its end; return its exit status."""
        try:
            return self.process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end: {self.tell()}") from None


class CaseServer(Server):
    """One that runs an app of apps.py, which notes what happens."""

    def __init__(self, case: Case, directory: Path, env: dict[str, str]) -> None:
        self.case = case
        self.release = directory / "release"
        self._events = directory / "events"
        self._events.touch()
        self._reports = directory / "reports.jsonl"
        told = {
            "PYTHONPATH": str(HERE),
            "LASTLY_REPORT": str(self._reports),
            "MATRIX_EVENTS": str(self._events),
            "MATRIX_RELEASE": str(self.release),
            "MATRIX_FRAMEWORK": case.framework,
            "MATRIX_ENDING": case.ending,
            "MATRIX_POOL": case.pool,
            **({"MATRIX_HANDLERS": "1"} if case.handlers else {}),
        }
        super().__init__(COMMANDS[case.server], directory, {**env, **told})

    def events(self, what: str | None = None) -> list[Event]:
        events = [json.loads(line) for line in self._events.read_text().splitlines()]
        return [event for event in events if what in (None, event["what"])]

    def tell(self) -> str:
        return f"{self.case}\n{self._events.read_text()}\n{self.log()}"

    def traces(self) -> Traces:
        status = self.end()
        reports = self._reports.read_text().splitlines() if self._reports.exists() else []
        return Traces(status, self.log(), self.events(), [json.loads(line) for line in reports])


def run(case: Case, directory: Path, env: dict[str, str]) -> Traces:
    server = CaseServer(case, directory, env)
    try:
        with ExitStack() as stack:
            ENDINGS[case.ending](server, stack)
            return server.traces()
    finally:
        server.kill()


def served(server: CaseServer, stack: ExitStack) -> http.client.HTTPConnection:
    connection = server.ask()
    stack.callback(connection.close)
    if (workers := WORKERS.get(server.case.server, 1)) > 1:
        server.until(lambda: len(server.events("ready")) == workers, "all workers are ready")
    return connection


def sigterm(server: CaseServer, stack: ExitStack) -> None:
    served(server, stack)
    server.send(signal.SIGTERM)


def sigterm_to_all(server: CaseServer, stack: ExitStack) -> None:
    """As systemd sends it, unless its KillMode says otherwise."""
    served(server, stack)
    os.killpg(server.process.pid, signal.SIGTERM)


def sigint(server: CaseServer, stack: ExitStack) -> None:
    served(server, stack)
    server.send(signal.SIGINT)


def in_flight(server: CaseServer, stack: ExitStack) -> None:
    answered(server, busy_with_one(server, stack, signal.SIGTERM))


def answered(server: CaseServer, busy: http.client.HTTPConnection) -> None:
    if server.case.server == "daphne":  # it breaks requests off
        assert busy.sock.recv(1) == b""
        return
    server.release.touch()
    response = busy.getresponse()
    assert (response.status, response.read()) == (200, b"hello"), server.tell()


def busy_with_one(server: CaseServer, stack: ExitStack, signum: int) -> http.client.HTTPConnection:
    """Return the connection of a request in flight, when the server has noticed the signal."""
    idle = served(server, stack)
    busy = server.connect()
    stack.callback(busy.close)
    busy.request("GET", "/slow")
    server.until(lambda: server.events("in flight"), "the request has come")
    server.send(signum)
    # It closes an idle connection first.
    assert idle.sock.recv(1) == b""
    return busy


def two_sigints(server: CaseServer, stack: ExitStack) -> None:
    """The second comes while the server waits for a request that is never answered."""
    busy = busy_with_one(server, stack, signal.SIGINT)
    if server.case.server in PATIENT:
        # Not to the workers, which some do not survive (test_limits.py).
        server.process.send_signal(signal.SIGINT)
        answered(server, busy)
    else:
        server.send(signal.SIGINT)


def impatient(server: CaseServer, stack: ExitStack) -> None:
    """Both go to every process, as from a terminal, and nobody answers the request."""
    busy_with_one(server, stack, signal.SIGINT)
    server.send(signal.SIGINT)


def hangs_and_is_interrupted(server: CaseServer, stack: ExitStack) -> None:
    sigterm(server, stack)
    server.until(lambda: "still waiting for hang" in server.log(), "it hangs")
    for _ in range(3):
        server.send(signal.SIGINT)


def start_up_fails(server: CaseServer, stack: ExitStack) -> None:
    pass


def reload(server: CaseServer, stack: ExitStack) -> None:
    served(server, stack)
    changed = server.directory / "changed.py"
    changed.touch()

    def noticed() -> bool:
        # Again and again, for uvicorn takes the first time that it sees as the file's age.
        changed.touch()
        return "Reloading" in server.log()

    server.until(noticed, "it reloads")
    server.until(lambda: len(server.events("ready")) == 2, "it has started anew")
    stack.callback(server.ask().close)
    server.send(signal.SIGINT)


ENDINGS: dict[str, Callable[[CaseServer, ExitStack], None]] = {
    "SIGTERM": sigterm,
    "SIGTERM to all": sigterm_to_all,
    "SIGINT": sigint,
    "two SIGINTs": two_sigints,
    "SIGINT, cleanup hangs": sigint,
    "impatient": impatient,
    "impatient, cleanup hangs": impatient,
    "one worker hangs": sigterm,
    "hangs, three SIGINTs": hangs_and_is_interrupted,
    "start-up fails": start_up_fails,
    "cleanup fails": sigterm,
    "cleanup hangs": sigterm,
    "in flight": in_flight,
    "reload": reload,
}


def check(case: Case, traces: Traces) -> str:
    """Assert that each was closed once, newest first, where it was opened; return what closed it."""
    workers = {event["pid"] for event in traces.events}
    assert len(workers) == EXPECTED_WORKERS.get(case.server, 1)
    triggers = {report["reason"]["trigger"] for report in traces.reports}
    if not triggers:
        assert not traces.named("called")
        return "nothing"
    (forced,) = {check_process([e for e in traces.events if e["pid"] == pid]) for pid in workers}
    # What is torn down with the loop leaves some to those that come after it.
    how = next(UNWINDS[trigger] for trigger in UNWINDS if trigger in triggers)
    cancelled = how == "lifespan" and traces.named("broken off")
    return how + ", cancelled" * bool(cancelled) + ", forced" * forced


def check_process(events: list[Event]) -> bool:
    """Check what one process has noted; return whether it has cut something short."""
    opened, called, closed, answered = (
        [event for event in events if event["what"] == what]
        for what in ("opened", "called", "closed", "answered")
    )
    names = [event["name"] for event in reversed(opened)]
    assert [event["name"] for event in called] == names
    ended = [event["name"] for event in closed]
    assert ended == [name for name in names if name in ended]
    for before, event in zip(reversed(opened), called, strict=True):
        assert before["loop"] in (None, event["loop"])
        assert before["name"] != "task group" or before["task"] == event["task"]
    if answered:
        assert events.index(answered[0]) < events.index(called[0])
    return len(closed) < len(called)
