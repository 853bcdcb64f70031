"""run_program: a program in a child process, which is told things and tells how it unwound.

Imports nothing of lastly's: the child does.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from signal import SIGABRT, SIGKILL, Signals
from subprocess import PIPE, Popen
from tempfile import TemporaryDirectory
from threading import Condition, Thread
from typing import Any

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import IO, Self

_LAST_WORDS = 5.0  # seconds for a process that is killed to say where it is


@dataclass(frozen=True)
class Result:
    """How a program has ended, and how it has unwound.

    `status` is its exit status, or minus the number of the signal that it died of. `out` holds
    the lines of its stdout, and `err` is its stderr. `reports` are those of all unwinds that ran
    anything, in the order in which they ended, as `Report.to_dict` has them and with a "pid":
    its own child processes report, too.
    """

    status: int
    out: list[str]
    err: str
    reports: list[dict[str, Any]]

    @property
    def order(self) -> list[str]:
        """The names of the callbacks that ran, in that order, over all the reports."""
        return [outcome["name"] for report in self.reports for outcome in report["outcomes"]]

    @property
    def report(self) -> dict[str, Any]:
        """The last of the reports; raises `AssertionError` if there is none."""
        if not self.reports:
            raise AssertionError(f"no unwind has run anything in it: {self}")
        return self.reports[-1]

    def __str__(self) -> str:
        out = "".join(f"\n  {line}" for line in self.out)
        err = "".join(f"\n  {line}" for line in self.err.splitlines())
        return f"its exit status is {self.status}\nstdout:{out}\nstderr:{err}"


class Child:
    """A program that runs: wait for what it prints, send it signals, wait for its end.

    It is made by `run_program`. As a context manager it kills the program at the end of the
    block, with all that it has started, if it still runs. `process` is the `subprocess.Popen`:
    its stdin may be written to, its stdout and stderr are read here.
    """

    def __init__(
        self, process: Popen[str], directory: TemporaryDirectory[str], timeout: float
    ) -> None:
        self.process = process
        self._directory = directory
        self._timeout = timeout
        self._out: list[str] = []
        self._err: list[str] = []
        self._changed = Condition()
        self._going_on = 3  # two streams and the process
        assert process.stdout is not None
        assert process.stderr is not None
        for work in (
            partial(self._read, process.stdout, self._out),
            partial(self._read, process.stderr, self._err),
            process.wait,
        ):
            Thread(target=self._do, args=(work,), daemon=True).start()

    def wait_for(self, text: str) -> str:
        """Wait until it has printed a line with this text; return the line.

        On its stdout or stderr; what it printed before the call counts. Raises
        `AssertionError`, with all its output, if it ends without, or if its time is over: then
        it is killed, and the stacks of its threads are in the output.
        """

        def heard() -> list[str]:
            return [line for line in [*self._out, *self._err] if text in line]

        in_time = self._wait_until(lambda: heard() or not self._going_on)
        if found := heard():
            return found[0]
        why = "ended" if in_time else f"run for {self._timeout:g} s"
        raise AssertionError(f"it has {why} and not printed {text!r}; {self._result()}")

    def send(self, *signums: int) -> None:
        """Send it a signal, or several; raise `AssertionError` if it has ended before."""
        for signum in signums:
            if self.process.returncode is not None:
                name = Signals(signum).name
                raise AssertionError(f"it ended before {name} could be sent; {self._result()}")
            self.process.send_signal(signum)

    def wait(self) -> Result:
        """Close its stdin, wait for its end, and return how it has ended.

        Raises `AssertionError`, with all its output, if its time is over: then it is killed,
        with all that it has started, and the stacks of its threads are in the output.
        """
        self._close_stdin()
        in_time = self._wait_until(lambda: not self._going_on)
        result = self._result()
        if not in_time:
            raise AssertionError(
                f"it, or what it has started, has not ended within {self._timeout:g} s; {result}"
            )
        return result

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close_stdin()
        self._kill(SIGKILL)
        self._directory.cleanup()

    def _result(self) -> Result:
        """Return how it has ended, and see to it that it has."""
        # faulthandler is enabled in it, and shows the stacks of its threads before it dies.
        self._kill(SIGABRT, SIGKILL)
        report = Path(self._directory.name, "report.jsonl")
        lines = report.read_text("utf-8").splitlines() if report.exists() else []
        status, err = self.process.wait(), "".join(f"{line}\n" for line in self._err)
        return Result(status, list(self._out), err, [json.loads(line) for line in lines])

    def _kill(self, *signums: int) -> None:
        for signum in signums:
            if self._going_on:
                with suppress(ProcessLookupError):
                    os.killpg(self.process.pid, signum)
                self._wait_until(lambda: not self._going_on, _LAST_WORDS)

    def _close_stdin(self) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it has not read what was written
            self.process.stdin.close()

    def _wait_until(self, happened: Callable[[], object], timeout: float | None = None) -> bool:
        with self._changed:
            return bool(self._changed.wait_for(happened, timeout or self._timeout))

    def _read(self, stream: IO[str], lines: list[str]) -> None:
        with stream:
            for line in stream:
                with self._changed:
                    lines.append(line.rstrip("\n"))
                    self._changed.notify_all()

    def _do(self, work: Callable[[], object]) -> None:
        work()
        with self._changed:
            self._going_on -= 1
            self._changed.notify_all()


def run_program(
    *args: str | os.PathLike[str],
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    timeout: float = 60.0,
) -> Child:
    """Start a program in a child process, and return it while it runs.

    The arguments are those of `python`: a path, `"-m", "module"` or `"-c", code`, and what comes
    after. `env` is added to this process's environment. `timeout` is the seconds that the child
    waits for a line or for the end before it is killed.

    It runs with the same interpreter, unbuffered, in a session of its own, so that Ctrl-C in the
    terminal does not reach it, and with `LASTLY_REPORT` set to a file of its own.

    Raises `ValueError` for an `env` that sets that, too.

    >>> import signal
    >>> code = '''
    ... import lastly
    ... async def main():
    ...     lastly.defer(print, "closed", name="close_pool")
    ...     print("ready")
    ...     await lastly.wait_requested()
    ... lastly.run(main)
    ... '''
    >>> with run_program("-c", code) as child:
    ...     line = child.wait_for("ready")
    ...     child.send(signal.SIGTERM)
    ...     result = child.wait()
    >>> result.status, result.order, result.report["ok"]
    (143, ['close_pool'], True)
    """
    if env is not None and "LASTLY_REPORT" in env:
        raise ValueError(
            "env sets LASTLY_REPORT, which run_program() needs for itself; leave it out, and read "
            "`reports` of what Child.wait() returns, or start the program by subprocess"
        )
    directory = TemporaryDirectory(prefix="lastly-")
    told = {
        "PYTHONUNBUFFERED": "1",  # a line can be waited for when it is printed
        "PYTHONFAULTHANDLER": "1",
        "LASTLY_REPORT": str(Path(directory.name, "report.jsonl")),
    }
    process = Popen(  # noqa: S603 - the program of whoever calls this
        [sys.executable, *args],
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        env={**os.environ, **told, **(env or {})},
        cwd=cwd,
        encoding="utf-8",
        errors="backslashreplace",
        start_new_session=True,  # a group of its own, to kill what it has started with it
    )
    return Child(process, directory, timeout)
