"""The programs of examples/atexit, each run as its reader would run it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples" / "atexit"

ALL_FAILURES_LOGGED = """\
callback release_lock (exceptions.py) failed
Traceback (most recent call last):
LookupError: no such lock
callback close_pool (exceptions.py) failed
Traceback (most recent call last):
ConnectionError: the pool is gone
callback save_state (exceptions.py) failed
Traceback (most recent call last):
ValueError: state is not valid
"""

# command line: exit status, stdout, outline of stderr
PROGRAMS = {
    "simple.py": (0, "working\npool closed\nlog closed\n", ""),
    "multiple.py": (
        0,
        "working\n"
        "disconnect from fourth.example:6432\n"
        "close file third.log, sync=True\n"
        "disconnect from second.example:5432\n"
        "close file first.log, sync=False\n",
        "",
    ),
    "decorator.py": (
        0,
        "working\nmetrics flushed\ndone\nsession closed\nmetrics flushed\n",
        "",
    ),
    "unregister.py": (0, "nothing to remove, nothing to roll back\npool closed\n", ""),
    "unregister_not_called.py": (0, "no error\npool closed\n", ""),
    "signal_parent.py": (
        0,
        "the child says: ready\n"
        "sent SIGTERM to the child\n"
        "the child's callbacks were NOT called\n"
        "the child's return code is -15\n"
        "-- now with install_signal_handlers()\n"
        "the child says: ready\n"
        "sent SIGTERM to the child\n"
        "the child's callbacks were called:\n"
        "pool closed\n"
        "log closed\n"
        "the child's return code is 143\n",
        "",
    ),
    "signal_child.py": (0, "ready\npool closed\nlog closed\n", ""),
    "signal_child.py handled": (0, "ready\npool closed\nlog closed\n", ""),
    "os_exit.py": (4, "leaving without callbacks\n", ""),
    "sys_exit.py": (3, "leaving with status 3\npool closed\nlog closed\n", ""),
    "exceptions.py": (
        0,
        "release_lock\nclose_pool\nclose_log\nsave_state\n",
        ALL_FAILURES_LOGGED + "Exception ignored in atexit callback\n"
        "Traceback (most recent call last):\n"
        "ValueError: state is not valid\n",
    ),
    "exceptions.py close": (
        1,
        "release_lock\nclose_pool\nclose_log\nsave_state\n",
        ALL_FAILURES_LOGGED + "Traceback (most recent call last):\n"
        "ValueError: state is not valid\n"
        "lastly: 2 earlier failures in this unwind: "
        "release_lock (exceptions.py) failed: LookupError: no such lock; "
        "close_pool (exceptions.py) failed: ConnectionError: the pool is gone\n",
    ),
}


def outline(stderr: str) -> str:
    """Leave out what Python versions format differently: the stack, blank lines, addresses."""
    lines = [line for line in stderr.splitlines(keepends=True) if line[:1] not in (" ", "\n")]
    text = re.sub(r"\([^()\n]*?(\w+\.py):\d+\)", r"(\1)", "".join(lines))
    return re.sub(r"(?m)^(Exception ignored in atexit callback):? .*$", r"\1", text)


@pytest.mark.parametrize("command_line", PROGRAMS)
def test_example(command_line: str) -> None:
    """R1, R6, R9, R10, R11, R16, R27: each example prints, logs and exits as its row says."""
    program, *args = command_line.split()
    status, stdout, stderr = PROGRAMS[command_line]
    process = subprocess.run(
        [sys.executable, EXAMPLES / program, *args],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHON_COLORS": "0"},
    )
    print(process.stderr)  # pytest shows it where the test fails
    assert process.stdout == stdout
    assert outline(process.stderr) == stderr
    assert process.returncode == status


def test_every_example_is_run() -> None:
    """No program lies in the folder without a row above."""
    assert {path.name for path in EXAMPLES.glob("*.py")} == {line.split()[0] for line in PROGRAMS}
