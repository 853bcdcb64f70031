# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
"""What both type checkers must accept, and what they must refuse.

Never run. A refusal is written as an ignore, and an ignore that is not needed is an
error in both: if the checker stops refusing, the check fails.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import assert_type

import lastly
import lastly.testing


class Connection:
    async def close(self, *, timeout: float = 1.0) -> None: ...


def sync(path: str, mode: int = 0) -> bool:
    return bool(path or mode)


async def close(name: str) -> int:
    return len(name)


# register keeps the callback's type, and checks positional and keyword arguments.
assert_type(lastly.register(sync, "path")("x"), bool)
lastly.register(sync, "path", mode=1)
lastly.register(Connection().close, timeout=2.0)
lastly.register(sync)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
lastly.register(sync, 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
lastly.register(sync, "path", color=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
lastly.register(close("x"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]


@lastly.register
async def decorated() -> int:
    return 1


@lastly.defer(name="named")
def deferred() -> str:
    return ""


async def main(manager: lastly.ShutdownManager) -> None:
    assert_type(await decorated(), int)
    assert_type(deferred(), str)
    assert_type(manager.enter_context(contextlib.nullcontext(1)), int)
    assert_type(await lastly.enter_async_context(contextlib.nullcontext("")), str)
    async with manager as entered, lastly.lifespan() as nothing:
        assert_type(entered, lastly.ShutdownManager)
        assert_type(nothing, None)


with lastly.together() as together:
    assert_type(together, None)

# defer checks positional arguments, and its keywords are its own.
assert_type(lastly.defer(sync, "path", 1), lastly.Registration)
assert_type(lastly.defer(close, "x", name="y").cancel(), bool)
lastly.defer(close, 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
lastly.defer(close)  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportArgumentType]
lastly.defer(close, "x", mode=1)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]

# on_timeout is called with nothing; times are numbers, or None for none.
lastly.defer(
    close, "x", timeout=5, on_timeout=Connection().close, thread=False, before_threads=True
)
lastly.defer(close, "x", on_timeout=sync)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
lastly.defer(close, "x", timeout="5")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
lastly.configure(grace=30, timeout=None, slow_after=2.5)

lastly.ShutdownManager(errors="group", grace=30, timeout=10, slow_after=None)
lastly.configure(errors="some")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def returns_from_a_scope(manager: lastly.ShutdownManager) -> int:
    # The scope is not taken to swallow exceptions, or this would miss a return.
    with manager:
        return 1


# The test kit.
with lastly.testing.run_program("-m", Path("app.py"), env={"A": "b"}, timeout=5) as child:
    child.send(2, 15)
    assert_type(child.wait_for("ready"), str)
    assert_type(child.wait().order, list[str])
with lastly.testing.isolated() as isolated, lastly.testing.fake_clock(isolated) as clock:
    assert_type(isolated, lastly.ShutdownManager)
    clock.advance(3)
    with lastly.testing.hang("close", after=True), lastly.testing.fail("open", OSError):
        lastly.close()
    assert_type(lastly.testing.assert_unwound("open", ("close", "timed_out")), lastly.Report)
