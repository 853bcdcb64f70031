"""What the tests share: the backends, a manager of one's own, child processes."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import lastly

ROOT = Path(__file__).resolve().parent.parent

BACKENDS = [
    pytest.param(("asyncio", {}), id="asyncio"),
    pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
    pytest.param(("trio", {}), id="trio"),
]


@pytest.fixture(params=BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


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


@pytest.fixture
def run_child(tmp_path: Path) -> Callable[..., Ended]:
    """Run a program, given as its source, in a child process of its own."""

    def run(source: str, *args: str, expect: int | None = 0, **env: str) -> Ended:
        program = tmp_path / "program.py"
        program.write_text(textwrap.dedent(source))
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
