"""A soak: servers under load that restart again and again, and lose nothing and leave nothing.

Some seconds by default; `LASTLY_SOAK=120` makes each last two minutes, and `-s` shows figures.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from itertools import count
from pathlib import Path
from threading import Condition, Thread
from typing import Any

import asyncpg
import pytest
from servers.running import HERE, TIMEOUT, Server

SECONDS = float(os.environ.get("LASTLY_SOAK", "0"))
CLIENTS = 8
REQUESTS = 400 if SECONDS else 80  # between two restarts, which makes it some seconds
RESTARTS = 4  # at least
# After the first two, however many there are.
MAY_GROW = {"threads": 0, "descriptors": 0, "lastly": 2_000, "objects": 500, "memory": 8_000_000}
LOST = "SELECT sessions_abandoned + sessions_fatal + sessions_killed FROM pg_stat_database"


@dataclass
class Load:
    """Clients that make one request after another, until they are told to stop.

    A connection on which no request is under way may be closed at any time, and a request may
    cross with that: then no app has seen it, and it is made once more, as another attempt.
    """

    port: int
    answered: set[int] = field(default_factory=set)
    unseen: set[int] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)
    stopped: bool = False
    changed: Condition = field(default_factory=Condition)
    attempts: Iterator[int] = field(default_factory=count)

    def client(self) -> None:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT)
        for attempt in self.attempts:
            if self.stopped:
                break
            try:
                connection.request("GET", f"/{attempt}")
                response = connection.getresponse()
                response.read()
                if response.status != 200:
                    self.wrong.append(f"{attempt}: {response.status}")
                self.told(self.answered, attempt)
            except ConnectionError:
                self.told(self.unseen, attempt)
                connection.close()
            except Exception as exc:
                self.wrong.append(f"{attempt}: {exc!r}")
                connection.close()
            if attempt % 10 == 0:
                connection.close()
        connection.close()

    def told(self, attempts: set[int], attempt: int) -> None:
        with self.changed:
            attempts.add(attempt)
            self.changed.notify_all()

    def answers(self, more: int) -> None:
        """Wait for so many more answers."""
        with self.changed:
            enough = len(self.answered) + more
            assert self.changed.wait_for(lambda: len(self.answered) >= enough, TIMEOUT), self.wrong

    @contextmanager
    def under_way(self) -> Iterator[None]:
        threads = [Thread(target=self.client) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.stopped = True
            for thread in threads:
                thread.join()


class Soak:
    """A listening socket, which outlives its servers, load on it, and a database."""

    def __init__(self, postgres: str, directory: Path) -> None:
        self._postgres = postgres
        self._directory = directory
        self._journal = directory / "journal"
        self._journal.touch()
        self._reports = directory / "reports.jsonl"
        self.servers: list[Server] = []
        self.listening = socket.create_server(("127.0.0.1", 0), backlog=CLIENTS * 4)
        self.load = Load(self.listening.getsockname()[1])
        self._until = time.monotonic() + SECONDS
        self.ask(
            "DROP TABLE IF EXISTS accepted, answered",
            "CREATE TABLE accepted (attempt int)",
            "CREATE TABLE answered (attempt int)",
        )
        self._lost_before = self.lost()

    def ask(self, *queries: str) -> list[Any]:
        async def ask() -> list[Any]:
            connection = await asyncpg.connect(self._postgres)
            rows = [await connection.fetch(query) for query in queries]
            await connection.close()
            return [row[0] for row in rows[-1]]

        return asyncio.run(ask())

    def lost(self) -> int:
        return sum(self.ask(LOST))

    def goes_on(self, restarts: int) -> bool:
        return restarts < RESTARTS or time.monotonic() < self._until

    def start(self, command: str) -> Server:
        directory = self._directory / str(len(self.servers))
        directory.mkdir()
        env = {
            "PYTHONPATH": str(HERE),
            "SOAK_POSTGRES": self._postgres,
            "SOAK_JOURNAL": str(self._journal),
            "LASTLY_REPORT": str(self._reports),
        }
        server = Server(command, directory, env, self.listening.fileno())
        self.servers.append(server)
        return server

    def check(self) -> None:
        """Assert that no request was lost, and nothing that is written only at the end."""
        accepted = sorted(map(int, self._journal.read_text().split()))
        assert self.load.wrong == []
        assert accepted == sorted(self.load.answered)
        assert accepted == sorted(self.ask("SELECT attempt FROM accepted"))
        assert accepted == sorted(self.ask("SELECT attempt FROM answered"))
        reports = [json.loads(line) for line in self._reports.read_text().splitlines()]
        assert all(report["ok"] for report in reports)
        assert {len(report["outcomes"]) for report in reports} == {4}
        # A session is abandoned if its client is gone before it has said good-bye.
        assert self.lost() == self._lost_before
        print(
            f"\n{len(accepted)} requests accepted, all of them answered; "
            f"{len(self.load.unseen)} met a connection that was being closed, and were repeated; "
            f"{len(reports)} unwinds"
        )


@pytest.fixture
def soak(postgres: str, tmp_path: Path) -> Iterator[Soak]:
    soak = Soak(postgres, tmp_path)
    try:
        yield soak
    finally:
        soak.listening.close()
        for server in soak.servers:
            server.kill()


def end(server: Server) -> None:
    server.send(signal.SIGTERM)
    assert server.end() == -signal.SIGTERM  # uvicorn raises it once more: test_limits.py
    assert "Traceback" not in server.log()


def test_rolling_restarts(soak: Soak) -> None:
    """R3, R18: the next process serves before the last one ends, and no accepted request is lost."""
    command = f"uvicorn soaked:app --fd {soak.listening.fileno()}"

    def ready() -> Server:
        server = soak.start(command)
        server.until(lambda: "startup complete" in server.log(), "it is ready")
        return server

    last = ready()
    with soak.load.under_way():
        while soak.goes_on(len(soak.servers) - 1):
            soak.load.answers(REQUESTS)
            following = ready()
            end(last)
            last = following
        soak.load.answers(REQUESTS)
    end(last)
    soak.check()


def test_restarts_in_one_process(soak: Soak) -> None:
    """R3, R18: a process that opens and closes its lifespan for ever holds no more each time."""
    server = soak.start(f"soaked {soak.listening.fileno()} {REQUESTS}")

    def holds() -> list[dict[str, int]]:
        return [json.loads(line) for line in server.log().splitlines()]

    restarts = 0
    with soak.load.under_way():
        while soak.goes_on(restarts):
            restarts += 1
            server.until(lambda: len(holds()) >= restarts, "it restarts")
        soak.load.answers(1)
    end(server)
    soak.check()
    first, *later = pairs(holds())
    for what, growth in MAY_GROW.items():
        grown = [pair[what] - first[what] for pair in later]
        print(f"{what}: {first[what]} first, then {min(grown):+} to {max(grown):+}")
        assert max(grown) <= growth, what


def pairs(samples: list[dict[str, int]]) -> list[dict[str, int]]:
    """Take two restarts as one, for every other is on uvloop, which has descriptors of its own."""
    both = zip(samples[::2], samples[1::2], strict=False)
    return [{what: max(one[what], other[what]) for what in one} for one, other in both]
