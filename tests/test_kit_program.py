"""The test kit's child processes: what they print and are sent, and how they end."""

from __future__ import annotations

import signal
from signal import SIGINT, SIGTERM

import pytest

from lastly.testing import Child, Result, run_program

SERVICE = """
import sys
import lastly

async def close_pool():
    print("pool closed")

async def main():
    lastly.defer(close_pool, name="close_pool")
    lastly.defer(print, "flushed", name="flush")
    print("ready", *sys.argv[1:])
    print("draining,", await lastly.wait_requested())

lastly.run(main)
"""


@pytest.fixture(params=["path", "module", "code"])
def service(request: pytest.FixtureRequest, tmp_path) -> Child:
    """The same program, started in each way that Python has."""
    (tmp_path / "service.py").write_text(SERVICE)
    command = {
        "path": [tmp_path / "service.py"],
        "module": ["-m", "service"],
        "code": ["-c", SERVICE],
    }
    with run_program(*command[request.param], "to", "serve", cwd=tmp_path) as child:
        yield child


@pytest.mark.parametrize(("signum", "status"), [(SIGTERM, 143), (SIGINT, 130)])
def test_a_program_is_sent_a_signal_and_tells_how_it_unwound(
    service: Child, signum: int, status: int
) -> None:
    """run_program(): order, report and exit status; a path, a module or code, with arguments."""
    assert service.wait_for("ready") == "ready to serve"
    service.send(signum)
    result = service.wait()
    assert result.status == status
    assert result.order == ["flush", "close_pool"]
    assert result.report["ok"]
    assert result.report["reason"] == {
        "trigger": "signal",
        "detail": signal.Signals(signum).name,
    }
    assert result.report["pid"] == service.process.pid
    assert result.out[2:] == ["flushed", "pool closed"]
    assert result.err == ""
    assert service.wait() == result  # as often as one likes


def test_a_report_of_ones_own_is_refused() -> None:
    """run_program(): an env that sets LASTLY_REPORT would leave it without any report."""
    with pytest.raises(ValueError, match="env sets LASTLY_REPORT, .* leave it out, and read"):
        run_program("-c", "", env={"LASTLY_REPORT": "mine.jsonl"})


def test_the_order_of_several_unwinds_and_processes() -> None:
    """Result.order: over all unwinds, as they ended; those of child processes report, too."""
    with run_program(
        "-c",
        """
import asyncio, multiprocessing
import lastly

async def main():
    lastly.defer(print, name="at the loop's teardown")

lastly.defer(print, name="at exit")
asyncio.run(main())
process = multiprocessing.get_context("fork").Process(target=int)
process.start()
process.join()
""",
    ) as child:
        result = child.wait()
    assert result.status == 0
    assert result.order == ["at the loop's teardown", "at exit", "at exit"]
    assert len({report["pid"] for report in result.reports}) == 2


def test_a_program_that_unwinds_nothing() -> None:
    """Result.report: an error that shows what it printed, where there is none."""
    with run_program("-c", "import sys; print('out'); sys.exit('err')") as child:
        result = child.wait()
    assert (result.order, result.reports, result.status) == ([], [], 1)
    with pytest.raises(AssertionError) as raised:
        _ = result.report
    assert str(raised.value) == (
        "no unwind has run anything in it: its exit status is 1\nstdout:\n  out\nstderr:\n  err"
    )


def test_a_line_on_stderr() -> None:
    """wait_for(): a part of a line, on stdout or on stderr, also one that came before."""
    with run_program(
        "-c", "import sys; print('INFO serving', file=sys.stderr); sys.stdin.read(); print('end')"
    ) as child:
        assert child.wait_for("serving") == "INFO serving"
        assert child.wait_for("INFO") == "INFO serving"
        child.wait()
        assert child.wait_for("end") == "end"


def test_a_program_that_ends_before_it_says_so() -> None:
    """wait_for(): an error that shows how it ended and what it printed instead."""
    with (
        run_program("-c", "print('not yet'); 1 / 0") as child,
        pytest.raises(AssertionError, match="it has ended and not printed 'ready'; ") as raised,
    ):
        child.wait_for("ready")
    assert "exit status is 1\nstdout:\n  not yet\nstderr:\n  Traceback" in str(raised.value)
    assert "ZeroDivisionError" in str(raised.value)


STUCK = """
import sys, threading

def the_place_where_it_hangs():
    print("ready")
    threading.Event().wait()

the_place_where_it_hangs()
"""


def test_a_program_that_will_not_end_is_killed_with_its_stacks_shown() -> None:
    """wait(): when its time is over; where it was is in the message."""
    with (
        run_program("-c", STUCK, timeout=1) as child,
        pytest.raises(AssertionError, match="has not ended within 1 s; ") as raised,
    ):
        child.wait_for("ready")
        child.wait()
    assert f"exit status is {-signal.SIGABRT}\nstdout:\n  ready\n" in str(raised.value)
    assert "in the_place_where_it_hangs" in str(raised.value)
    assert child.process.returncode == -signal.SIGABRT


def test_a_program_that_will_not_speak_is_killed_with_its_stacks_shown() -> None:
    """wait_for(): the same."""
    with (
        run_program("-c", STUCK, timeout=1) as child,
        pytest.raises(AssertionError, match="run for 1 s and not printed 'serving'; ") as raised,
    ):
        child.wait_for("serving")
    assert "in the_place_where_it_hangs" in str(raised.value)


def test_a_program_that_outlives_an_abort(monkeypatch: pytest.MonkeyPatch) -> None:
    """wait(): it is killed, then."""
    monkeypatch.setattr("lastly.testing._program._LAST_WORDS", 0.2)
    code = "import signal; signal.signal(signal.SIGABRT, signal.SIG_IGN); print('ready'); input()"
    with run_program("-c", code, timeout=30) as child:
        child.wait_for("ready")
        with pytest.raises(AssertionError, match="not printed 'never'"):
            child._timeout = 0.01
            child.wait_for("never")
    assert child.process.returncode == -signal.SIGKILL


def test_what_it_has_started_is_killed_with_it() -> None:
    """Child: at the end of the block, it and its own processes, which would go on for ever."""
    with run_program(
        "-c",
        """
import subprocess, sys
code = "import time; print('grandchild', flush=True); time.sleep(600)"
subprocess.Popen([sys.executable, "-c", code])
""",
    ) as child:
        child.wait_for("grandchild")
        child._wait_until(lambda: child._going_on == 2)
        assert child.process.returncode == 0  # but the other holds its streams open
    assert child._going_on == 0


def test_a_program_that_still_runs_is_killed_at_the_end_of_the_block() -> None:
    """Child: whatever the test raises meanwhile."""
    with pytest.raises(ZeroDivisionError), run_program("-c", STUCK) as child:
        1 / 0  # noqa: B018
    assert child.process.returncode == -signal.SIGKILL
    child._close_stdin()


def test_a_signal_that_comes_too_late() -> None:
    """send(): an error that shows how it ended, and not a signal to nobody."""
    with run_program("-c", "print('done')") as child:
        child.wait()
        with pytest.raises(
            AssertionError, match="it ended before SIGTERM could be sent; "
        ) as raised:
            child.send(SIGTERM)
    assert "done" in str(raised.value)


def test_several_signals_at_once() -> None:
    """send(): each of them."""
    code = """
import signal
both = {signal.SIGINT, signal.SIGTERM}
signal.pthread_sigmask(signal.SIG_BLOCK, both)
print("ready")
print(*sorted((signal.sigwait(both), signal.sigwait(both))))
"""
    with run_program("-c", code) as child:
        child.wait_for("ready")
        child.send(SIGTERM, SIGINT)
        assert child.wait().out == ["ready", "2 15"]


def test_its_stdin_is_written_to_and_closed() -> None:
    """Child.process: its stdin is the test's, until `wait` closes it."""
    with run_program("-c", "import sys; print(*sys.stdin)") as child:
        child.process.stdin.write("a line")
        assert child.wait().out == ["a line"]


def test_a_program_that_does_not_read_what_was_written() -> None:
    """wait(): a pipe that was broken is no failure of the test's."""
    with run_program("-c", "import os; os.close(0); print('closed')") as child:
        child.wait_for("closed")
        child.process.stdin.write("a line")
        assert child.wait().status == 0


def test_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """run_program(): this process's, and what it is given besides, which comes first."""
    monkeypatch.setenv("LASTLY_TEST", "outer")
    code = "import os; print(os.environ['LASTLY_TEST'], os.environ['PYTHONUNBUFFERED'])"
    with run_program("-c", code) as child:
        assert child.wait().out == ["outer 1"]
    with run_program("-c", code, env={"LASTLY_TEST": "é", "PYTHONUNBUFFERED": ""}) as child:
        assert child.wait().out == ["é "]


def test_what_it_prints_in_another_encoding() -> None:
    """Result: bytes that are not UTF-8 are shown as such."""
    with run_program("-c", r"import os; os.write(1, b'caf\xe9\n')") as child:
        assert child.wait().out == ["caf\\xe9"]


def test_a_result_is_a_value() -> None:
    """Result: compares by what it holds."""
    assert Result(0, ["a"], "", []) == Result(0, ["a"], "", [])
