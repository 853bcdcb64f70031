"""R20 to R22: timeouts, grace and what is forced, in every way to unwind."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import datetime
import functools
import gc
import logging
import math
import ssl
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from decimal import Decimal

import anyio
import anyio.lowlevel
import pytest
import trio

import lastly
from lastly import _backends
from lastly._limits import Budget
from lastly._registration import Options
from lastly._unwind import in_progress
from lastly._watch import watchman

BACKENDS = {
    "asyncio": ("asyncio", {}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}
WAYS = [
    *(f"{way} {name}" for way in ("aclose", "scope", "lifespan") for name in BACKENDS),
    "teardown asyncio",
    "teardown uvloop",
    "close",
    "with",
]

Unwind = Callable[[Callable[[], object]], None]


@pytest.fixture(params=WAYS)
def unwind(request: pytest.FixtureRequest, manager: lastly.ShutdownManager) -> Unwind:
    """Call a function that registers, and unwind, in one of all the ways there are."""
    way, _, name = request.param.partition(" ")

    async def main(register: Callable[[], object]) -> None:
        if way == "aclose":
            register()
            await manager.aclose()
        elif way == "teardown":
            register()
        else:
            async with manager if way == "scope" else manager.lifespan():
                register()

    def run(register: Callable[[], object]) -> None:
        if way == "close":
            register()
            manager.close()
        elif way == "with":
            with manager:
                register()
        else:
            backend, options = BACKENDS[name]
            anyio.run(main, register, backend=backend, backend_options=options)

    return run


async def wait_for_ever() -> None:
    await anyio.Event().wait()


async def hang() -> None:
    await wait_for_ever()


async def refuse_a_cancellation() -> None:
    asyncio.current_task().cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await wait_for_ever()


def exits(callback: Callable[[], Awaitable[None]]) -> contextlib.AsyncExitStack:
    stack = contextlib.AsyncExitStack()
    stack.push_async_callback(callback)
    return stack


def statuses(manager: lastly.ShutdownManager) -> dict[str, str]:
    report = manager.last_report()
    assert report is not None
    return {outcome.name: outcome.status.value for outcome in report.outcomes}


def only(manager: lastly.ShutdownManager) -> lastly.Outcome:
    report = manager.last_report()
    assert report is not None
    (outcome,) = report.outcomes
    return outcome


# -- R20: timeout -------------------------------------------------------------------------


def test_past_its_timeout_a_callback_is_cancelled(
    manager: lastly.ShutdownManager, unwind: Unwind
) -> None:
    """R20: its outcome is a CleanupTimeout with name, origin and line; the others run."""
    calls: list[str] = []
    handles: list[lastly.Registration] = []

    async def fine() -> None:
        await anyio.lowlevel.checkpoint()
        calls.append("fine")

    def register() -> None:
        manager.defer(calls.append, "oldest")
        manager.defer(fine)
        handles.append(manager.defer(hang, name="pool", timeout=0.01))

    with pytest.raises(lastly.CleanupTimeout) as caught:
        unwind(register)
    assert calls == ["fine", "oldest"]
    assert list(statuses(manager).values()) == ["timed_out", "ok", "ok"]
    error = caught.value
    assert isinstance(error, TimeoutError)
    assert (error.name, error.origin) == ("pool", handles[0].origin)
    assert [line.partition(" in ")[2].partition(":")[0] for line in error.where[:2]] == [
        "hang",
        "wait_for_ever",
    ]
    first, *chain = str(error).splitlines()
    assert first == f"pool ({error.origin}) was cancelled after 0.01 s, at {error.where[-1]}"
    assert [line.strip() for line in chain] == list(error.where)
    outcome = manager.last_report().outcomes[0]
    assert outcome.exception is error
    assert outcome.duration > 0
    assert handles[0].status == "timed_out"
    assert str(outcome) == f"CleanupTimeout: {first}"


def test_the_managers_timeout_is_the_default(
    manager: lastly.ShutdownManager, unwind: Unwind
) -> None:
    """R20: configure(timeout=) holds for all that were given none of their own."""
    manager.configure(timeout=0.01)

    async def slower() -> None:
        await anyio.sleep(0.02)

    def register() -> None:
        manager.defer(slower, timeout=math.inf, name="slow by its own wish")
        manager.register(hang)

    with pytest.raises(lastly.CleanupTimeout):
        unwind(register)
    assert statuses(manager) == {"hang": "timed_out", "slow by its own wish": "ok"}


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_on_timeout_runs_in_its_place(
    manager: lastly.ShutdownManager, unwind: Unwind, kind: str
) -> None:
    """R20: once, before the next callback, sync or async; and not for who was in time."""
    calls: list[str] = []

    async def terminate_async() -> None:
        await anyio.lowlevel.checkpoint()
        calls.append("terminated")

    def terminate() -> bool:
        calls.append("terminated")
        return True  # as many of that name do

    on_timeout = terminate if kind == "sync" else terminate_async

    def register() -> None:
        manager.defer(calls.append, "older")
        manager.defer(anyio.lowlevel.checkpoint, timeout=30, on_timeout=on_timeout)
        manager.defer(hang, timeout=0.01, on_timeout=on_timeout)

    with pytest.raises(lastly.CleanupTimeout) as caught:
        unwind(register)
    assert "on_timeout then failed" not in str(caught.value)
    assert calls == ["terminated", "older"]
    assert statuses(manager) == {"hang": "timed_out", "checkpoint": "ok", "list.append": "ok"}


def test_on_timeout_is_bounded_by_the_same_timeout(
    manager: lastly.ShutdownManager, unwind: Unwind
) -> None:
    """R20: an on_timeout that hangs is cancelled too, and the outcome tells of both."""

    async def terminate() -> None:
        await wait_for_ever()

    with pytest.raises(lastly.CleanupTimeout, match="hang .*was cancelled after 0.01 s") as caught:
        unwind(lambda: manager.defer(hang, timeout=0.01, on_timeout=terminate))
    first, second = str(caught.value).split("on_timeout then failed: ")
    assert "in hang:" in first
    assert "terminate:" not in first
    assert second.startswith("CleanupTimeout: on_timeout of hang (")
    assert "terminate:" in second
    assert isinstance(caught.value.__context__, lastly.CleanupTimeout)


def test_on_timeout_that_fails_as_it_is_cut_short(
    manager: lastly.ShutdownManager, unwind: Unwind
) -> None:
    """R20: what it raises then is what the outcome tells, and not that it was cut short."""
    own = OSError("no pipe")

    async def terminate() -> None:
        try:
            await wait_for_ever()
        finally:
            raise own

    with pytest.raises(lastly.CleanupTimeout) as caught:
        unwind(lambda: manager.defer(hang, timeout=0.01, on_timeout=terminate))
    assert str(caught.value).endswith("on_timeout then failed: OSError: no pipe")
    assert caught.value.__context__ is own


async def test_on_timeout_that_keeps_its_own_limit(manager: lastly.ShutdownManager, clock) -> None:
    """R20: it has a limit too, and what ends in time has not failed."""
    calls: list[str] = []

    async def hang() -> None:
        clock.advance(5)
        await anyio.sleep_forever()

    async def terminate() -> None:
        await anyio.sleep(0)
        calls.append("terminated")

    manager.defer(hang, timeout=5, on_timeout=terminate)
    with pytest.raises(lastly.CleanupTimeout) as caught:
        await manager.aclose()
    assert "on_timeout then failed" not in str(caught.value)
    assert calls == ["terminated"]


async def test_a_failing_on_timeout(manager: lastly.ShutdownManager) -> None:
    """R20: its exception is told, and is the context of the CleanupTimeout."""
    boom = OSError("cannot terminate")

    def terminate() -> None:
        raise boom

    manager.defer(hang, timeout=0.01, on_timeout=terminate)
    with pytest.raises(lastly.CleanupTimeout) as caught:
        await manager.aclose()
    assert str(caught.value).endswith("on_timeout then failed: OSError: cannot terminate")
    assert caught.value.__context__ is boom


async def test_an_interrupt_in_on_timeout_comes_out(manager: lastly.ShutdownManager) -> None:
    """R20: a SystemExit of on_timeout is not hidden behind the CleanupTimeout."""
    manager.defer(hang, timeout=0.01, on_timeout=functools.partial(exit_with, 3))
    with pytest.raises(SystemExit) as caught:
        await manager.aclose()
    assert caught.value.code == 3
    assert isinstance(caught.value.__context__, lastly.CleanupTimeout)
    assert only(manager).status == "timed_out"


async def test_an_interrupt_of_what_was_cancelled_comes_out(
    manager: lastly.ShutdownManager,
) -> None:
    """R20: so is a SystemExit of the callback itself that its cancellation has led to."""

    async def close() -> None:
        try:
            await wait_for_ever()
        finally:
            exit_with(4)

    manager.defer(close, timeout=0.01, on_timeout=lambda: 1 / 0)
    with pytest.raises(SystemExit) as caught:
        await manager.aclose()
    assert caught.value.code == 4
    assert {lastly.CleanupTimeout, ZeroDivisionError} <= contexts(caught.value)
    assert only(manager).status == "timed_out"


def contexts(exception: BaseException | None) -> set[type[BaseException]]:
    """Return what kinds of exception the chain below it is made of."""
    found: set[type[BaseException]] = set()
    while (exception := exception.__context__) is not None:
        found.add(type(exception))
    return found


def exit_with(code: int) -> None:
    raise SystemExit(code)


async def test_where_it_was_is_taken_before_it_is_cancelled(
    manager: lastly.ShutdownManager,
) -> None:
    """R20: the line is the one that hung, not one of the clean-up that cancelling starts."""

    async def close() -> None:
        try:
            await wait_for_ever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()

    manager.defer(close, timeout=0.01)
    with pytest.raises(lastly.CleanupTimeout) as caught:
        await manager.aclose()
    assert any("in wait_for_ever" in line for line in caught.value.where)


async def test_a_callback_that_survives_its_cancellation(manager: lastly.ShutdownManager) -> None:
    """R20: it is timed out all the same, whether it then returns or raises."""
    boom = OSError("half closed")

    async def returns() -> None:
        with contextlib.suppress(BaseException):
            await wait_for_ever()

    async def raises() -> None:
        try:
            await wait_for_ever()
        finally:
            raise boom

    manager.defer(raises, timeout=0.01)
    manager.defer(returns, timeout=0.01)
    with pytest.raises(lastly.CleanupTimeout, match="raises") as caught:
        await manager.aclose()
    assert caught.value.__context__ is boom
    assert set(statuses(manager).values()) == {"timed_out"}


async def test_a_timeout_of_the_callbacks_own_is_a_failure(manager: lastly.ShutdownManager) -> None:
    """R20: timed_out is who ran past his own limit; a nested TimeoutError is an exception."""
    inner = lastly.ShutdownManager()
    inner.defer(hang, timeout=0.01)
    manager.defer(inner.aclose, timeout=30)
    with pytest.raises(lastly.CleanupTimeout, match="hang"):
        await manager.aclose()
    assert only(manager).status == "failed"


def test_a_cancellation_from_outside_goes_on(manager: lastly.ShutdownManager) -> None:
    """R18, R20: under a limit, too, task.cancel() interrupts one callback and comes out."""
    calls: list[str] = []

    async def cancel_me() -> None:
        task = asyncio.current_task()
        asyncio.get_running_loop().call_soon(task.cancel)
        await hang()

    manager.defer(calls.append, "older")
    manager.defer(cancel_me, timeout=30)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(manager.aclose())
    assert calls == ["older"]
    assert list(statuses(manager).values()) == ["interrupted", "ok"]


def test_a_cancellation_while_on_timeout_runs(manager: lastly.ShutdownManager) -> None:
    """R18, R20: it comes out, and the outcome stays that of the timeout."""

    async def cancel_me() -> None:
        asyncio.get_running_loop().call_soon(asyncio.current_task().cancel)
        await hang()

    manager.defer(hang, timeout=0.01, on_timeout=cancel_me)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(manager.aclose())
    assert only(manager).status == "timed_out"


def test_at_home_in_another_thread(manager: lastly.ShutdownManager) -> None:
    """R17, R20: a callback on another thread's loop is timed out there."""
    cancelled_in: list[int] = []
    ready, done = threading.Event(), threading.Event()

    async def close() -> None:
        try:
            await wait_for_ever()
        finally:
            cancelled_in.append(threading.get_ident())

    async def serve() -> None:
        manager.defer(close, timeout=0.01, on_timeout=lambda: cancelled_in.append(0))
        ready.set()
        while not done.is_set():
            await asyncio.sleep(0.001)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    ready.wait()
    with pytest.raises(lastly.CleanupTimeout, match="(?s)in wait_for_ever"):
        manager.close()
    manager.configure(errors="log")
    ready.clear()
    done.set()
    thread.join()
    assert cancelled_in == [thread.ident, 0]


async def test_at_home_in_another_thread_from_a_loop(manager: lastly.ShutdownManager) -> None:
    """R17, R20: so it is when a loop's aclose() waits for that thread."""
    with anyio.from_thread.start_blocking_portal() as portal:
        portal.call(functools.partial(manager.defer, hang, timeout=0.01))
        with pytest.raises(lastly.CleanupTimeout, match="(?s)in wait_for_ever"):
            await manager.aclose()
    assert only(manager).status == "timed_out"


# -- R20: callbacks in threads ------------------------------------------------------------


def test_a_callback_in_a_thread_is_abandoned(
    manager: lastly.ShutdownManager, unwind: Unwind
) -> None:
    """R20: past its timeout a sync callback with thread=True is left behind in a daemon thread."""
    threads: list[threading.Thread] = []
    release = threading.Event()

    def block() -> None:
        threads.append(threading.current_thread())
        release.wait()

    def terminate() -> None:
        threads.append(threading.current_thread())

    with pytest.raises(
        lastly.CleanupTimeout, match=r"(?s)was abandoned in its thread .*block.*Event.wait"
    ):
        unwind(lambda: manager.defer(block, thread=True, timeout=0.01, on_timeout=terminate))
    outcome = only(manager)
    assert outcome.status == "abandoned"
    assert any("in " in line and "block" in line for line in outcome.exception.where)
    blocked, terminating = threads
    assert blocked.daemon
    assert blocked.is_alive()
    assert threading.current_thread() not in threads
    assert terminating is not blocked
    release.set()
    blocked.join()


def test_a_callback_in_a_thread(manager: lastly.ShutdownManager, unwind: Unwind) -> None:
    """R20: in time it is like any other: order, context, its exception, an awaitable result."""
    calls: list[str] = []
    word = contextvars.ContextVar("word", default="unset")

    def fail() -> None:
        calls.append(word.get())
        manager.close()  # from inside the unwind: returns at once
        raise OSError("in a thread")

    async def closes() -> None:
        await anyio.lowlevel.checkpoint()
        calls.append("awaited")

    def register() -> None:
        manager.defer(calls.append, "oldest")
        manager.defer(lambda: closes(), thread=True, timeout=30)
        manager.defer(fail, thread=True)

    word.set("carried")
    with pytest.raises(OSError, match="in a thread"):
        unwind(register)
    assert calls == ["carried", "awaited", "oldest"]
    assert list(statuses(manager).values()) == ["failed", "ok", "ok"]


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("timeout", [None, 60])
def test_a_cancellation_while_a_thread_works(
    manager: lastly.ShutdownManager, timeout: float | None, together: bool
) -> None:
    """R1, R18, R20: a thread cannot be cancelled, and the next begins when it has ended."""
    calls: list[str] = []

    async def some_turns() -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    async def main() -> int:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()

        def works() -> None:
            for _ in range(2):
                loop.call_soon_threadsafe(task.cancel)
                asyncio.run_coroutine_threadsafe(some_turns(), loop).result(30)
            calls.append("thread ends")

        manager.defer(fails, name="hand-made")
        manager.defer(calls.append, "older", name="older")
        with manager.together() if together else contextlib.nullcontext():
            manager.defer(works, name="works", thread=True, timeout=timeout)
        with pytest.raises(asyncio.CancelledError):
            await manager.aclose()
        return task.cancelling()

    async def fails() -> None:
        raise asyncio.CancelledError

    assert asyncio.run(main()) == 2
    assert calls == ["thread ends", "older"]
    assert statuses(manager) == {"works": "ok", "older": "ok", "hand-made": "failed"}


def test_a_thread_is_abandoned_after_a_cancellation(manager: lastly.ShutdownManager) -> None:
    """R18, R20: its limit ends the wait for it all the same, and both go on."""
    calls: list[str] = []
    release = threading.Event()

    async def main() -> int:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()

        def blocks() -> None:
            loop.call_soon_threadsafe(task.cancel)
            release.wait(30)

        manager.defer(blocks, thread=True, timeout=0.05, on_timeout=lambda: calls.append("then"))
        with pytest.raises(asyncio.CancelledError):
            await manager.aclose()
        return task.cancelling()

    try:
        assert asyncio.run(main()) == 1
    finally:
        release.set()
    assert only(manager).status == "abandoned"
    assert calls == ["then"]


@pytest.mark.parametrize("timeout", ["None", "60"])
def test_ctrl_c_while_a_thread_works(run_child, timeout: str) -> None:
    """R1, R20: close() waits for the thread, and then the KeyboardInterrupt comes out."""
    ended = run_child(
        """
        import os, signal, sys, threading, time, lastly

        handled = threading.Event()

        def handle(*args):
            handled.set()
            raise KeyboardInterrupt

        def where():
            frame = sys._current_frames()[threading.main_thread().ident]
            while frame is not None:
                yield frame.f_code.co_name
                frame = frame.f_back

        def until_close_waits():
            names = []
            while names[:1] != ["wait"] or "start" in names:  # that is for the thread to start
                time.sleep(0.001)
                names = list(where())

        def works():
            for _ in range(2):
                until_close_waits()
                handled.clear()
                os.kill(os.getpid(), signal.SIGINT)
                handled.wait()
            until_close_waits()
            print("thread ends")

        signal.signal(signal.SIGINT, handle)
        lastly.defer(print, "older")
        lastly.defer(works, thread=True, timeout=eval(sys.argv[1]))
        try:
            lastly.close()
        except KeyboardInterrupt:
            print("out", *[str(outcome.status) for outcome in lastly.last_report().outcomes])
        """,
        timeout,
    )
    assert ended.out == ["thread ends", "older", "out ok ok"]


async def test_no_loop_runs_in_a_thread(manager: lastly.ShutdownManager) -> None:
    """R20: a callback in a thread may run a loop of its own."""
    calls: list[str] = []

    async def main() -> None:
        await anyio.lowlevel.checkpoint()
        calls.append("closed")

    manager.defer(anyio.run, main, thread=True)
    await manager.aclose()
    assert calls == ["closed"]


async def test_the_loop_goes_on_while_a_thread_works(manager: lastly.ShutdownManager) -> None:
    """R20: a callback in a thread may wait for something that the loop does."""
    from_loop = threading.Event()

    async def helper() -> None:
        from_loop.set()

    manager.defer(from_loop.wait, 30, thread=True)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(helper)
        await manager.aclose()
    assert from_loop.is_set()


async def test_close_in_a_running_loop_waits_for_a_thread(manager: lastly.ShutdownManager) -> None:
    """R13, R20: it blocks, as for any sync callback; what it would have to await stays."""
    calls: list[str] = []

    async def closes() -> None:
        calls.append("awaited")

    manager.defer(lambda: closes(), thread=True)
    manager.defer(calls.append, "thread", thread=True)
    with pytest.raises(RuntimeError, match="aclose"):
        manager.close()
    assert calls == ["thread"]
    await manager.aclose()
    assert calls == ["thread", "awaited"]


async def test_close_in_a_running_loop_cannot_await_on_timeout(
    manager: lastly.ShutdownManager,
) -> None:
    """R13, R20: an async on_timeout is then a failure that says why, and warns of nothing."""
    release = threading.Event()

    async def terminate() -> None: ...

    manager.defer(release.wait, thread=True, timeout=0.01, on_timeout=terminate)
    with pytest.raises(lastly.CleanupTimeout, match=r"on_timeout then failed: .*cannot await"):
        manager.close()
    release.set()


def test_no_thread_can_start(
    manager: lastly.ShutdownManager, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    """R20: where the interpreter starts no thread any more, the callback runs without, and says so."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    calls: list[str] = []
    manager.configure(slow_after=None)
    manager.defer(calls.append, "called", thread=True, timeout=1, name="flush")
    monkeypatch.setattr(threading.Thread, "start", refuse)
    manager.close()
    assert calls == ["called"]
    assert any("flush" in line and "without the thread" in line for line in caplog.messages)


def test_a_sync_callback_that_nobody_knew_to_be_sync(
    manager: lastly.ShutdownManager, unwind: Unwind, caplog: pytest.LogCaptureFixture
) -> None:
    """R20: that its timeout meant nothing is explained at run time, with what to write."""

    def register() -> None:
        manager.defer(anyio.lowlevel.checkpoint, timeout=5)
        manager.defer(lambda: 7, timeout=5, name="seven")

    unwind(register)
    assert statuses(manager) == {"seven": "ok", "checkpoint": "ok"}
    (line,) = caplog.messages
    assert line.startswith("callback seven (")
    assert "`thread=True`" in line


def test_what_a_callback_has_left_in_a_worker_thread(manager: lastly.ShutdownManager) -> None:
    """R20: close() waits for it, on its fresh loop, unless the callback ran out of time."""
    calls: list[str] = []
    release = threading.Event()

    def works() -> None:
        release.wait(30)
        calls.append("worked")

    async def hangs() -> None:
        await asyncio.to_thread(threading.Event().wait)

    async def leaves() -> None:
        loop = asyncio.get_running_loop()
        loop.run_in_executor(None, works)
        loop.call_soon(release.set)

    manager.defer(leaves)
    manager.close()
    assert calls == ["worked"]
    manager.defer(hangs, timeout=0.01)
    with pytest.raises(lastly.CleanupTimeout, match="to_thread"):
        manager.close()


# -- R20, R8: context managers ------------------------------------------------------------


async def test_an_exit_that_waits_for_a_child(manager: lastly.ShutdownManager) -> None:
    """R8, R20: a task group is timed out though no scope of lastly's may be around it."""
    cancelled: list[str] = []

    async def child() -> None:
        try:
            await wait_for_ever()
        finally:
            cancelled.append("child")

    manager.configure(timeout=0.01)
    with pytest.raises(lastly.CleanupTimeout) as caught:
        async with manager:
            tasks = await manager.enter_async_context(anyio.create_task_group())
            tasks.start_soon(child)
            await anyio.wait_all_tasks_blocked()
    assert cancelled == ["child"]
    assert any("wait_for_ever" in line for line in caught.value.where)
    assert only(manager).status == "timed_out"


async def test_an_exit_that_hangs(manager: lastly.ShutdownManager) -> None:
    """R8, R20: one that holds no scope is cancelled like any callback."""

    @contextlib.asynccontextmanager
    async def pool() -> AsyncIterator[None]:
        yield
        await wait_for_ever()

    manager.configure(timeout=0.01)
    with pytest.raises(lastly.CleanupTimeout, match="(?s)pool.* in wait_for_ever"):
        async with manager:
            await manager.enter_async_context(pool())


async def test_an_exit_in_time(manager: lastly.ShutdownManager) -> None:
    """R8, R20: under a limit an exit still swallows, and raises what it raises."""

    @contextlib.asynccontextmanager
    async def swallows() -> AsyncIterator[None]:
        with contextlib.suppress(KeyError):
            yield
        await anyio.lowlevel.checkpoint()

    @contextlib.asynccontextmanager
    async def times_out() -> AsyncIterator[None]:
        yield
        raise TimeoutError("of its own")

    manager.configure(timeout=30)
    async with manager:
        tasks = await manager.enter_async_context(anyio.create_task_group())
        await manager.enter_async_context(swallows())
        tasks.start_soon(anyio.lowlevel.checkpoint)
        raise KeyError
    with pytest.raises(TimeoutError, match="of its own"):
        async with manager:
            await manager.enter_async_context(times_out())
    assert only(manager).status == "failed"


def test_an_exit_in_time_in_close(manager: lastly.ShutdownManager) -> None:
    """R8, R20: close() runs exits within limits too."""

    @contextlib.asynccontextmanager
    async def pool() -> AsyncIterator[None]:
        yield
        await wait_for_ever()

    manager.configure(timeout=0.01)
    with asyncio.Runner() as runner:
        runner.run(manager.enter_async_context(pool()))
        with pytest.raises(lastly.CleanupTimeout, match="(?s)in wait_for_ever"):
            manager.close()


# -- R21: grace ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "default", "grace", "passed", "expected"),
    [
        (None, None, None, 0, None),
        (5, None, None, 0, 5),
        (None, 7, None, 0, 7),
        (5, 7, None, 0, 5),
        (9, 7, None, 0, 9),
        (math.inf, 7, None, 0, None),
        (None, None, 10, 0, 8),
        (None, None, 10, 5, 4),
        (5, None, 10, 0, 5),
        (5, None, 10, 5, 4),
        (math.inf, None, 10, 0, 8),
        (9, 2, 10, 0, 8),
        (0, None, 10, 0, 0),
        (5, 5, 10, 10, 0),
        (None, None, 0, 0, 0),
        (None, None, math.inf, 0, None),
    ],
)
def test_what_limits_a_callback(
    manager: lastly.ShutdownManager,
    own: float | None,
    default: float | None,
    grace: float | None,
    passed: float,
    expected: float | None,
) -> None:
    """R21: its own timeout, else the manager's; at most four fifths of the grace that is left."""
    manager.configure(timeout=default, grace=grace)
    registration = manager.defer(hang)
    assert registration.cancel()
    registration._options = Options(own, None, thread=False)
    limit = Budget(manager._settings, manager._ladder, 100.0).limit_for(
        registration, 100.0 + passed
    )
    assert (None if limit is None else limit.seconds) == expected
    assert limit is None or limit.forced == (grace is not None and passed >= grace)


async def test_a_timeout_that_is_the_very_grace(manager: lastly.ShutdownManager) -> None:
    """R20, R21: one and the same value for both limits a callback, as two would."""
    nought = 0.0
    manager.configure(timeout=nought, grace=nought)
    manager.register(anyio.lowlevel.checkpoint)
    with pytest.raises(lastly.CleanupTimeout):
        await manager.aclose()
    assert only(manager).status == "forced"


def test_a_hung_callback_leaves_time_for_the_others(
    manager: lastly.ShutdownManager, unwind: Unwind, clock
) -> None:
    """R21: of five callbacks the first two hang; the other three get real time, and end ok."""
    given: list[float] = []

    async def hangs() -> None:
        clock.advance(1000)
        await wait_for_ever()

    async def works(seconds: float) -> None:
        clock.advance(seconds)
        await anyio.lowlevel.checkpoint()
        given.append(seconds)

    def register() -> None:
        for seconds in (0.05, 0.1, 0.2):
            manager.defer(works, seconds, name=f"works for {seconds} s")
        manager.defer(hangs, name="second", timeout=1e6)
        manager.defer(hangs, name="first")

    # The clock stands still while a cancelled callback ends.
    advance = clock.advance
    clock.advance = lambda seconds: advance(min(seconds, next_timer(clock)))
    manager.configure(grace=10)
    with pytest.raises(lastly.CleanupTimeout, match="after 1.6 s, four fifths of what was left"):
        unwind(register)
    assert given == [0.2, 0.1, 0.05]
    report = manager.last_report()
    assert [round(outcome.duration, 9) for outcome in report.outcomes] == [8, 1.6, 0.2, 0.1, 0.05]
    assert [outcome.status for outcome in report.outcomes] == ["timed_out"] * 2 + ["ok"] * 3
    assert report.duration < 10


def next_timer(clock) -> float:
    return min((when for when, _ in clock._timers.values()), default=math.inf) - clock.time


def test_each_unwind_has_its_own_grace(
    manager: lastly.ShutdownManager, unwind: Unwind, clock
) -> None:
    """R21: it counts from the start of the unwind, not from that of the manager."""
    manager.configure(grace=10)
    for _ in range(2):
        clock.advance(100)
        unwind(lambda: manager.defer(anyio.lowlevel.checkpoint))
        assert only(manager).status == "ok"


async def test_settings_change_in_the_middle(manager: lastly.ShutdownManager) -> None:
    """R21: an unwind in progress heeds configure()."""
    manager.defer(hang)
    manager.defer(functools.partial(manager.configure, timeout=0.01))
    with pytest.raises(lastly.CleanupTimeout):
        await manager.aclose()


# -- R22: forced --------------------------------------------------------------------------


def test_past_the_grace_the_rest_is_forced(
    manager: lastly.ShutdownManager, unwind: Unwind, clock
) -> None:
    """R22: each is still called, once, in order, and its first await ends at once."""
    calls: list[str] = []

    async def close(name: str) -> None:
        calls.append(name)
        await wait_for_ever()

    def register() -> None:
        manager.defer(close, "first", name="first")
        manager.defer(calls.append, "sync", name="sync")
        manager.defer(close, "last", name="last", on_timeout=lambda: calls.append("terminated"))
        manager.defer(clock.advance, 11, name="takes all")

    manager.configure(grace=10)
    with pytest.raises(lastly.CleanupTimeout, match="first .*the grace of 10 s is used up"):
        unwind(register)
    assert calls == ["last", "terminated", "sync", "first"]
    assert statuses(manager) == {
        "takes all": "ok",
        "last": "forced",
        "sync": "ok",
        "first": "forced",
    }
    assert [o.name for o in manager.last_report().failures] == ["last", "first"]


async def test_a_forced_callback_that_needs_no_time(manager: lastly.ShutdownManager) -> None:
    """R22: who ends without being cancelled is forced too, but there is nothing to raise."""
    calls: list[str] = []

    async def quick() -> None:
        calls.append("quick")

    async def shielded() -> None:
        with anyio.CancelScope(shield=True):
            await anyio.lowlevel.checkpoint()
        calls.append("shielded")

    async def fails() -> None:
        raise ValueError("its own")

    manager.configure(grace=0)
    manager.defer(quick, on_timeout=lambda: calls.append("never"))
    manager.defer(shielded)
    await manager.aclose()
    assert calls == ["shielded", "quick"]
    assert set(statuses(manager).values()) == {"forced"}
    assert not manager.last_report().ok
    manager.defer(fails)
    with pytest.raises(ValueError, match="its own"):
        await manager.aclose()
    assert only(manager).status == "failed"


@pytest.mark.parametrize("timeout", [None, 60], ids=["unlimited", "limited"])
async def test_what_is_forced_in_its_last_step(
    manager: lastly.ShutdownManager, timeout: float | None
) -> None:
    """R22: it has ended when that comes to its loop, and the next one is not cut short for it."""

    async def ends() -> None:
        await anyio.lowlevel.checkpoint()
        next(iter(in_progress)).force()

    async def next_one() -> None:
        await anyio.sleep(0)
        await anyio.wait_all_tasks_blocked()

    manager.defer(next_one, timeout=timeout)
    manager.defer(ends, timeout=timeout)
    await manager.aclose()
    assert [outcome.status for outcome in manager.last_report().outcomes] == ["ok", "ok"]


async def test_a_forced_callback_that_fails(manager: lastly.ShutdownManager) -> None:
    """R20, R22: its own exception comes out, and on_timeout runs in its place all the same."""
    calls: list[str] = []
    boom = OSError("half closed")

    async def close() -> None:
        try:
            await wait_for_ever()
        finally:
            raise boom

    def terminate() -> None:
        calls.append("terminated")
        raise LookupError("nothing to terminate")

    manager.configure(grace=0)
    manager.defer(close, on_timeout=terminate)
    with pytest.raises(OSError, match="half closed") as caught:
        await manager.aclose()
    assert caught.value is boom
    assert LookupError in contexts(boom)
    assert calls == ["terminated"]
    assert only(manager).status == "failed"


def test_a_forced_callback_in_a_thread(manager: lastly.ShutdownManager, unwind: Unwind) -> None:
    """R22: it is called, and nobody waits for it."""
    called, release = threading.Event(), threading.Event()

    def block() -> None:
        called.set()
        release.wait()

    manager.configure(grace=0)
    with pytest.raises(lastly.CleanupTimeout, match="abandoned in its thread at once"):
        unwind(lambda: manager.defer(block, thread=True))
    assert only(manager).status == "abandoned"
    assert called.wait(30)
    release.set()


async def test_a_forced_task_group(manager: lastly.ShutdownManager) -> None:
    """R8, R22: its children are cancelled at once."""
    manager.configure(grace=0)
    cancelled: list[str] = []

    async def child() -> None:
        try:
            await wait_for_ever()
        finally:
            cancelled.append("child")

    with pytest.raises(lastly.CleanupTimeout):
        async with manager:
            tasks = await manager.enter_async_context(anyio.create_task_group())
            tasks.start_soon(child)
            await anyio.wait_all_tasks_blocked()
    assert cancelled == ["child"]
    assert only(manager).status == "forced"


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_a_forced_stream_is_closed(
    manager: lastly.ShutdownManager, tls: bool, certificate: str
) -> None:
    """R22: anyio closes a cancelled stream forcefully: the peer sees its end, nothing leaks."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    ended = anyio.Event()

    async def serve(stream: anyio.abc.ByteStream) -> None:
        # A peer that never answers a TLS closing handshake, which would wait for ever.
        async with stream:
            if tls:
                wrapped = await anyio.streams.tls.TLSStream.wrap(
                    stream, server_side=True, ssl_context=context, standard_compatible=False
                )
                await wrapped.receive()
            with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                while True:
                    await stream.receive()
        ended.set()

    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        stream = await anyio.connect_tcp("127.0.0.1", port)
        closed = stream
        if tls:
            trusted = ssl.create_default_context(cafile=certificate)
            stream = await anyio.streams.tls.TLSStream.wrap(
                stream, hostname="localhost", ssl_context=trusted
            )
            await stream.send(b"ready")
        manager.configure(grace=0, errors="log")
        manager.defer(stream.aclose)
        await manager.aclose()
        with anyio.fail_after(30):
            await ended.wait()
        with pytest.raises(anyio.ClosedResourceError):
            await closed.receive()
        tasks.cancel_scope.cancel()
    assert only(manager).status == "forced"


# -- corners ----------------------------------------------------------------------


async def test_an_unwind_inside_of_a_callback_keeps_to_its_time(
    manager: lastly.ShutdownManager, clock
) -> None:
    """R20, R21: a manager that is closed by a callback gets no more than that callback."""
    inner = lastly.ShutdownManager(grace=1000)
    inner._settings.clock = clock
    calls: list[str] = []

    async def close(name: str) -> None:
        calls.append(name)
        clock.advance(min(1000.0, next_timer(clock)))
        await wait_for_ever()

    for name in ("last", "first"):
        inner.defer(close, name, name=name)
    manager.defer(inner.aclose, timeout=10)
    with pytest.raises(lastly.CleanupTimeout, match="last .*the time of the callback around it"):
        await manager.aclose()
    assert calls == ["first", "last"]
    assert set(statuses(inner).values()) == {"timed_out"}
    assert clock.now() <= 10
    assert only(manager).status == "failed"  # it had time to fail by itself


async def test_an_unwind_inside_of_a_callback_that_is_forced(
    manager: lastly.ShutdownManager,
) -> None:
    """R22: what is closed by a forced callback is forced."""
    inner = lastly.ShutdownManager()
    inner.defer(hang)
    manager.configure(grace=0)
    manager.defer(inner.aclose)
    with pytest.raises(
        lastly.CleanupTimeout, match="the time of the callback around it is used up"
    ):
        await manager.aclose()
    assert only(inner).status == "forced"


def test_a_home_that_is_blocked(manager: lastly.ShutdownManager) -> None:
    """R17, R20: a loop of another thread that does not come to it is not waited for."""
    calls: list[str] = []
    registered, release = threading.Event(), threading.Event()

    async def close() -> None:
        calls.append("called")

    async def serve() -> None:
        manager.defer(close, timeout=0.01)
        asyncio.get_running_loop().call_soon(block)
        registered.set()
        await asyncio.sleep(0)

    def block() -> None:
        release.wait(30)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    registered.wait()
    try:
        with pytest.raises(lastly.CleanupTimeout, match=r"(?s)abandoned in its thread.*block"):
            manager.close()
    finally:
        release.set()
        thread.join()
    assert only(manager).status == "abandoned"
    assert calls == []


def test_a_cancellation_that_comes_with_the_timeout(manager: lastly.ShutdownManager, clock) -> None:
    """R18, R20: it goes on, though the callback has caught both as one."""

    async def swallows() -> None:
        task = asyncio.current_task()
        asyncio.get_running_loop().call_soon(lambda: (clock.advance(10), task.cancel()))
        with contextlib.suppress(asyncio.CancelledError):
            await hang()

    async def main() -> int:
        manager.defer(swallows, timeout=10)
        with pytest.raises(asyncio.CancelledError):
            await manager.aclose()
        return asyncio.current_task().cancelling()

    assert asyncio.run(main()) == 1
    assert only(manager).status == "timed_out"


def test_a_timed_out_callback_that_raises_leaves_no_thread_to_wait_for(
    manager: lastly.ShutdownManager,
) -> None:
    """R20: what it has left in a worker thread of the fresh loop is abandoned."""
    release = threading.Event()

    async def fails() -> None:
        try:
            await asyncio.to_thread(release.wait)
        finally:
            raise OSError("on its way out")

    manager.defer(fails, timeout=0.01)
    with pytest.raises(lastly.CleanupTimeout):
        manager.close()
    release.set()


def test_what_another_callback_has_left_in_a_thread_is_not_abandoned(
    manager: lastly.ShutdownManager,
) -> None:
    """R20: one that runs out of time loses its own work only."""
    calls: list[str] = []
    release = threading.Event()

    class Told(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "callbacks have left" in record.getMessage():
                release.set()

    def works() -> None:
        release.wait(30)
        calls.append("worked")

    async def leaves() -> None:
        asyncio.get_running_loop().run_in_executor(None, works)

    async def hangs() -> None:
        await asyncio.to_thread(threading.Event().wait)

    told = Told()
    logging.getLogger("lastly").addHandler(told)
    try:
        manager.configure(slow_after=0.01)
        manager.defer(hangs, timeout=0.01)
        manager.defer(leaves)
        with pytest.raises(lastly.CleanupTimeout):
            manager.close()
        assert calls == ["worked"]
    finally:
        logging.getLogger("lastly").removeHandler(told)
        release.set()


def test_what_callbacks_have_left_is_told(
    manager: lastly.ShutdownManager, caplog: pytest.LogCaptureFixture
) -> None:
    """R23: the fresh loop's end waits for tasks and threads, and the log says for which."""
    release = threading.Event()

    class Told(logging.Handler):
        def emit(self, _: logging.LogRecord) -> None:
            release.set()

    async def leftover() -> None:
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.001)

    async def leaves() -> None:
        tasks.append(asyncio.create_task(leftover(), name="refuses"))
        asyncio.get_running_loop().run_in_executor(None, release.wait)
        await asyncio.sleep(0)

    tasks: list[asyncio.Task[None]] = []
    told = Told()
    logging.getLogger("lastly").addHandler(told)
    try:
        manager.configure(slow_after=0.05)
        manager.defer(leaves)
        manager.close()
    finally:
        logging.getLogger("lastly").removeHandler(told)
    (line,) = caplog.messages
    assert "1 task and 1 call in worker threads" in line
    assert "task 'refuses' of test_what_callbacks_have_left_is_told.<locals>.leftover" in line
    assert "in Event.wait" in line


async def test_a_limit_that_is_taken_away_meanwhile(manager: lastly.ShutdownManager) -> None:
    """R21: what it had begun to limit is told all the same."""

    async def close() -> None:
        manager.configure(grace=None)
        await wait_for_ever()

    manager.configure(grace=0.01)
    manager.defer(close)
    with pytest.raises(lastly.CleanupTimeout, match="the grace of 0.01 s"):
        await manager.aclose()


def test_what_an_abandoned_thread_comes_to(
    manager: lastly.ShutdownManager, caplog: pytest.LogCaptureFixture
) -> None:
    """R5, R20: a coroutine that comes too late is closed, and an exception is logged."""
    release, returned = threading.Event(), threading.Event()

    async def close() -> None: ...

    def late() -> object:
        release.wait()
        try:
            return close()
        finally:
            returned.set()

    def fails() -> None:
        release.wait()
        raise OSError("too late")

    threads = threading.enumerate()
    manager.configure(errors="log")
    manager.defer(late, thread=True, timeout=0.01)
    manager.defer(fails, thread=True, timeout=0.01)
    manager.close()
    release.set()
    for thread in set(threading.enumerate()) - set(threads):
        if thread.name != "lastly: watch":
            thread.join()
    assert returned.is_set()
    gc.collect()  # a coroutine that was never awaited would warn now
    assert caplog.messages[-1].endswith("the abandoned callback has raised OSError: too late")


async def test_on_timeout_where_a_context_manager_was_entered(
    manager: lastly.ShutdownManager,
) -> None:
    """R8, R20, R22: in a shield that has to stay, it is forced, and nobody is told of a cancel."""
    manager.configure(errors="log")

    async def hangs() -> None:
        manager.enter_context(contextlib.nullcontext())
        await anyio.sleep(math.inf)

    async def instead() -> None:
        calls.append("instead")
        await anyio.sleep(0)

    calls: list[str] = []
    manager.defer(anyio.sleep, 0, name="below")
    manager.defer(hangs, timeout=0.01, on_timeout=instead, name="hangs")
    await manager.aclose()
    assert calls == ["instead"]
    outcomes = manager.last_report().outcomes
    assert [str(o.status) for o in outcomes] == ["timed_out", "ok", "ok"]
    assert "on_timeout then failed" in str(outcomes[0].exception)


@pytest.mark.parametrize("nested", [False, True])
async def test_a_context_manager_entered_under_a_limit(
    manager: lastly.ShutdownManager, nested: bool
) -> None:
    """R2, R8, R20: a callback that has a limit may enter a task group, whose exit runs next."""
    calls: list[str] = []

    async def child() -> None:
        await anyio.lowlevel.checkpoint()
        calls.append("child")

    async def enters() -> None:
        tasks = await manager.enter_async_context(anyio.create_task_group())
        tasks.start_soon(child)
        calls.append("entered")

    async def last() -> None:
        await anyio.lowlevel.checkpoint()
        calls.append("last")

    other = lastly.ShutdownManager("other")
    other.register(manager.aclose)
    manager.configure(timeout=30, grace=60)
    manager.defer(last)
    manager.defer(enters)
    await (other if nested else manager).aclose()
    assert calls == ["entered", "child", "last"]
    assert set(statuses(manager).values()) == {"ok"}


def test_a_context_manager_entered_under_a_limit_by_who_loads_anyio(run_child) -> None:
    """R8, R20: the same where nobody had loaded anyio before that callback did."""
    ended = run_child(
        """
        import asyncio, sys, lastly

        async def enters():
            import anyio
            tasks = await lastly.enter_async_context(anyio.create_task_group())
            tasks.start_soon(anyio.sleep, 0)
            print("entered")

        async def main():
            lastly.defer(print, "last")
            lastly.defer(enters, timeout=30)
            assert "anyio" not in sys.modules
            await lastly.aclose()

        asyncio.run(main())
        assert lastly.last_report().ok
        """
    )
    assert ended.out == ["entered", "last"]


async def test_a_callback_that_enters_a_context_manager_and_hangs(
    manager: lastly.ShutdownManager,
) -> None:
    """R8, R20: its exit still runs, in the scope that was cancelled; the next gets a new one."""
    calls: list[str] = []

    async def child() -> None:
        try:
            await wait_for_ever()
        finally:
            calls.append("child")

    async def enters() -> None:
        tasks = await manager.enter_async_context(anyio.create_task_group())
        tasks.start_soon(child)
        await wait_for_ever()

    async def last() -> None:
        await anyio.lowlevel.checkpoint()
        calls.append("last")

    manager.defer(last, timeout=30)
    manager.defer(enters, timeout=0.01, name="enters")
    with pytest.raises(lastly.CleanupTimeout, match="TaskGroup .* was cancelled at once"):
        await manager.aclose()
    assert calls == ["child", "last"]
    assert list(statuses(manager).values()) == ["timed_out", "forced", "ok"]


def test_a_cancellation_after_a_shield_that_was_spent(manager: lastly.ShutdownManager) -> None:
    """R18, R20: what a limit has requested of the task is not taken for what comes later."""

    async def enters() -> None:
        await manager.enter_async_context(anyio.create_task_group())
        await wait_for_ever()

    async def cancel_me() -> None:
        asyncio.get_running_loop().call_soon(asyncio.current_task().cancel)
        await wait_for_ever()

    manager.defer(cancel_me, name="last")
    manager.defer(enters, timeout=0.01, name="enters")
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(manager.aclose())
    assert list(statuses(manager).values()) == ["timed_out", "forced", "interrupted"]


@pytest.mark.parametrize("kind", ["callback", "exit"])
def test_a_limit_of_what_refuses_a_cancellation(manager: lastly.ShutdownManager, kind: str) -> None:
    """R18, R20: it is cut short as ever, and the cancellation goes on when all have run."""
    told: list[str] = []

    async def refuses() -> None:
        await refuse_a_cancellation()
        await wait_for_ever()

    async def main() -> None:
        manager.defer(anyio.lowlevel.checkpoint, name="last")
        if kind == "callback":
            manager.defer(refuses, on_timeout=lambda: told.append("on_timeout"))
        else:
            await manager.enter_async_context(exits(refuses))
        manager.configure(timeout=0.01)
        await manager.aclose()

    with pytest.raises(asyncio.CancelledError, check=lambda exc: not exc.args) as caught:
        asyncio.run(main())
    assert list(statuses(manager).values()) == ["timed_out", "ok"]
    assert "1 callback failed" in caught.value.__notes__[-1]
    assert told == (["on_timeout"] if kind == "callback" else [])


def test_a_limit_and_a_scope_that_end_an_exit_on_trio(manager: lastly.ShutdownManager) -> None:
    """R8, R18, R20: it is cut short as ever, and the cancellation goes on when all have run."""

    async def cancels() -> None:
        try:
            await wait_for_ever()
        finally:
            outer.cancel()
            await anyio.lowlevel.checkpoint()

    async def main() -> None:
        nonlocal outer
        with trio.CancelScope() as outer:
            async with manager:
                manager.defer(anyio.lowlevel.checkpoint, name="last")
                await manager.enter_async_context(exits(cancels))
                manager.configure(timeout=0.01)
            pytest.fail("the cancellation got lost")

    outer = None
    trio.run(main)
    assert outer.cancelled_caught
    assert list(statuses(manager).values()) == ["timed_out", "ok"]


def test_on_timeout_that_refuses_a_cancellation(manager: lastly.ShutdownManager) -> None:
    """R18, R20: it is cut short by its own limit, and the cancellation goes on."""

    async def refuses() -> None:
        await refuse_a_cancellation()
        try:
            await wait_for_ever()
        finally:
            with anyio.CancelScope(shield=True):  # 3.11 traces nothing after an exception alone
                await anyio.lowlevel.checkpoint()

    manager.defer(wait_for_ever, timeout=0.01, on_timeout=refuses, name="slow")
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(manager.aclose())
    assert statuses(manager) == {"slow": "timed_out"}


class Reraises:
    async def __aenter__(self) -> None: ...
    async def __aexit__(self, _: object, exception: BaseException | None, *__: object) -> None:
        if exception is not None:
            raise exception


@pytest.mark.parametrize("entered", [asyncio.TaskGroup, Reraises])
def test_a_forced_exit_that_raises_what_it_is_told(
    manager: lastly.ShutdownManager, entered: Callable[[], Any]
) -> None:
    """R8, R22: it has nothing to await, and has not failed."""

    async def main() -> None:
        async with manager:
            await manager.enter_async_context(entered())
            asyncio.current_task().cancel()
            await asyncio.sleep(0)

    manager.configure(grace=0)
    with pytest.raises(asyncio.CancelledError) as caught:
        asyncio.run(main())
    assert list(statuses(manager).values()) == ["ok"]
    assert not hasattr(caught.value, "__notes__")


def test_a_forced_callback_with_a_cancellation_of_its_own(manager: lastly.ShutdownManager) -> None:
    """R9, R22: it has failed before it could be cut short."""
    mine = asyncio.CancelledError("mine")

    async def fails() -> None:
        raise mine

    manager.configure(grace=0)
    manager.defer(fails)
    with pytest.raises(asyncio.CancelledError) as caught:
        asyncio.run(manager.aclose())
    assert caught.value is mine or caught.value.__context__ is mine
    assert list(statuses(manager).values()) == ["failed"]


@pytest.mark.parametrize("kind", ["limit", "exit"])
@pytest.mark.parametrize("makes", [None, ValueError])
def test_a_cancellation_that_was_refused_is_not_that_of_the_next(
    manager: lastly.ShutdownManager, kind: str, makes: type[Exception] | None
) -> None:
    """R9, R18: the next one fails with a CancelledError of its own."""

    async def refuses() -> None:
        await refuse_a_cancellation()
        if makes is not None:
            raise makes

    async def own() -> None:
        raise asyncio.CancelledError

    async def main() -> None:
        manager.defer(own, name="own")
        if kind == "limit":
            manager.defer(refuses, timeout=30)
        else:
            await manager.enter_async_context(exits(refuses))
        await manager.aclose()

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())
    assert list(statuses(manager).values()) == ["failed" if makes else "ok", "failed"]


def test_a_cancellation_that_was_refused_is_not_that_of_the_next_exit(
    manager: lastly.ShutdownManager,
) -> None:
    """R8, R18: also where the callback above is so simple that nobody asked what it refused."""

    async def own() -> None:
        raise asyncio.CancelledError

    async def main() -> None:
        await manager.enter_async_context(exits(own))
        manager.defer(refuse_a_cancellation)
        await manager.aclose()

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())
    assert list(statuses(manager).values()) == ["ok", "failed"]


async def test_a_context_manager_that_was_entered_in_a_task_of_a_callback(
    manager: lastly.ShutdownManager,
) -> None:
    """R8, R22: it is not forced with a limit that is over when its turn comes."""
    closed: list[str] = []

    async def closes() -> None:
        await anyio.lowlevel.checkpoint()
        closed.append("closed")

    async def enters() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(manager.enter_async_context, exits(closes))
        manager.enter_context(contextlib.nullcontext())
        await wait_for_ever()

    manager.defer(anyio.lowlevel.checkpoint, name="last")
    manager.defer(enters, timeout=0.01, name="enters")
    with pytest.raises(lastly.CleanupTimeout):
        await manager.aclose()
    assert closed == ["closed"]
    assert list(statuses(manager).values()) == ["timed_out", "ok", "ok", "ok"]


async def test_a_context_manager_that_was_entered_in_a_thread(
    manager: lastly.ShutdownManager,
) -> None:
    """R8, R22: it holds no scope of the unwinding task open, not even while it stays open."""

    def enters() -> None:
        manager.enter_context(contextlib.nullcontext())
        (newest, *_) = manager.pending()
        newest.cancel()

    manager.defer(anyio.lowlevel.checkpoint, name="last")
    manager.defer(wait_for_ever, timeout=0.01, name="slow")
    manager.defer(enters, thread=True, name="enters")
    manager.defer(anyio.lowlevel.checkpoint, name="first")
    with pytest.raises(lastly.CleanupTimeout):
        await manager.aclose()
    assert statuses(manager) == {
        "first": "ok",
        "enters": "ok",
        "slow": "timed_out",
        "last": "ok",
    }


async def test_what_was_registered_beside_an_open_task_group(
    manager: lastly.ShutdownManager,
) -> None:
    """R2, R22: what has to run before the exit of such a task group is forced with it."""
    calls: list[str] = []

    async def beside() -> None:
        calls.append("beside")
        await wait_for_ever()

    async def last() -> None:
        await anyio.lowlevel.checkpoint()
        calls.append("last")

    async def enters() -> None:
        await manager.enter_async_context(anyio.create_task_group())
        manager.defer(beside, name="beside")
        await wait_for_ever()

    manager.configure(errors="log")
    manager.defer(last, name="last")
    manager.defer(enters, timeout=0.01, name="enters")
    await manager.aclose()
    assert calls == ["beside", "last"]
    assert list(statuses(manager).items())[:2] == [("enters", "timed_out"), ("beside", "forced")]
    assert list(statuses(manager).values())[2:] == ["forced", "ok"]


async def test_an_unwind_beside_an_open_task_group(manager: lastly.ShutdownManager) -> None:
    """R8, R22: what is closed by a callback that is forced with such a task group is forced."""
    inner = lastly.ShutdownManager(errors="log")
    inner.register(hang)

    async def enters() -> None:
        await manager.enter_async_context(anyio.create_task_group())
        manager.defer(inner.aclose)
        await wait_for_ever()

    manager.configure(errors="log")
    manager.defer(enters, timeout=0.01)
    await manager.aclose()
    assert only(inner).status == "forced"


async def test_an_exit_that_holds_nested_scopes(manager: lastly.ShutdownManager) -> None:
    """R8, R20: all of what it holds open is cut short, not only the innermost scope."""

    @contextlib.asynccontextmanager
    async def nested() -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            with anyio.CancelScope():
                tasks.start_soon(wait_for_ever)
                yield

    manager.configure(timeout=0.01)
    with pytest.raises(lastly.CleanupTimeout):
        async with manager:
            await manager.enter_async_context(nested())
    assert only(manager).status == "timed_out"


def test_without_trios_cancel_status(
    manager: lastly.ShutdownManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R8: without that private attribute exits work as ever; they are not cut short."""
    ended: list[str] = []

    class Pool:
        async def __aenter__(self) -> None: ...

        async def __aexit__(self, *_: object) -> None:
            await trio.sleep(0.02)
            ended.append("pool")

    async def main() -> None:
        manager.configure(timeout=0.01)
        async with manager:
            await manager.enter_async_context(trio.open_nursery())
            await manager.enter_async_context(Pool())

    monkeypatch.setattr(_backends, "current_task", lambda: None)
    with pytest.raises(ExceptionGroup) as caught:  # a nursery makes one of what it is told
        trio.run(main)
    assert isinstance(caught.value.exceptions[0], lastly.CleanupTimeout)
    assert ended == ["pool"]
    assert list(statuses(manager).values()) == ["timed_out", "failed"]


async def test_an_exits_own_timeout_error_of_its_cancellation(
    manager: lastly.ShutdownManager,
) -> None:
    """R8, R20: what an exit raises when it is cut short is the context of the CleanupTimeout."""
    own = TimeoutError("its own")

    class Pool:
        async def __aenter__(self) -> None: ...

        async def __aexit__(self, *_: object) -> None:
            try:
                await wait_for_ever()
            except BaseException as exc:
                raise own from exc

    manager.configure(timeout=0.01)
    with pytest.raises(lastly.CleanupTimeout) as caught:
        async with manager:
            await manager.enter_async_context(Pool())
    assert caught.value.__context__ is own


def test_what_a_thread_returned_is_limited_too(manager: lastly.ShutdownManager) -> None:
    """R5, R20: an awaitable that a call in a thread returned counts for its time, in close()."""

    async def terminate() -> None:
        await wait_for_ever()

    manager.defer(lambda: hang(), thread=True, timeout=0.01, on_timeout=terminate)
    with pytest.raises(lastly.CleanupTimeout, match=r"(?s)was cancelled.*on_timeout then failed"):
        manager.close()
    assert only(manager).status == "timed_out"


def test_a_call_that_comes_too_late(manager: lastly.ShutdownManager) -> None:
    """R3, R17: what another loop comes to when the unwind has gone on is not called any more."""
    calls: list[str] = []
    registered, blocked, release = threading.Event(), threading.Event(), threading.Event()

    async def main() -> None:
        def block() -> None:
            blocked.set()
            release.wait(30)

        manager.defer(calls.append, "late", timeout=0.01, name="late")
        trio.lowlevel.current_trio_token().run_sync_soon(block)
        registered.set()
        await trio.sleep(0)
        await trio.sleep(0)

    manager.configure(errors="log")
    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    registered.wait()
    blocked.wait()
    manager.close()
    release.set()
    thread.join()
    assert statuses(manager) == {"late": "abandoned"}
    assert calls == []


async def test_what_is_left_of_a_group(manager: lastly.ShutdownManager) -> None:
    """R20: of a group with our cancellation in it, the rest is the CleanupTimeout's context."""
    boom = ValueError("while it was closed")

    async def close() -> None:
        try:
            await wait_for_ever()
        except BaseException as exc:
            raise BaseExceptionGroup("both", [exc, boom])  # noqa: B904 - as a task group does

    manager.defer(close, timeout=0.01)
    with pytest.raises(lastly.CleanupTimeout) as caught:
        await manager.aclose()
    left = caught.value.__context__
    assert isinstance(left, BaseExceptionGroup)
    assert left.exceptions == (boom,)
    assert only(manager).status == "timed_out"


@pytest.mark.parametrize(("sync", "status"), [(True, "ok"), (False, "interrupted")])
def test_a_call_that_another_loop_comes_to_when_the_wait_was_interrupted(
    manager: lastly.ShutdownManager, sync: bool, status: str
) -> None:
    """R1, R3, R17, R18: it is called and waited for, and cancelled where it awaits."""
    calls: list[str] = []
    here: list[bool] = []
    registered, handed, release = (threading.Event() for _ in range(3))

    class Loop(asyncio.SelectorEventLoop):
        def call_soon_threadsafe(self, *args, **kwargs):
            handle = super().call_soon_threadsafe(*args, **kwargs)
            (release if handed.is_set() else handed).set()  # first the call, then its end
            return handle

    async def waits() -> None:
        calls.append("late")
        await hang()

    async def serve() -> None:
        manager.defer(*((calls.append, "late") if sync else (waits,)), name="late")
        registered.set()
        release.wait(30)  # blocks the loop
        while len(calls) < 2:
            await asyncio.sleep(0)

    async def main() -> None:
        task = asyncio.create_task(manager.aclose())
        while not handed.is_set():
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    def run() -> None:
        with asyncio.Runner(loop_factory=Loop) as runner:
            runner.run(serve())

    def older() -> None:
        (spot,) = watchman.waits
        here.append(spot.at[0] == threading.get_ident())
        calls.append("older")

    thread = threading.Thread(target=run)
    manager.defer(older, name="older")
    thread.start()
    registered.wait()
    asyncio.run(main())
    thread.join()
    assert statuses(manager) == {"late": status, "older": "ok"}
    assert calls == ["late", "older"]
    assert here == [True]  # and not where the interrupted wait was


@pytest.mark.parametrize("begun", [True, False])
def test_a_call_at_another_loop_when_its_unwind_is_closed(
    manager: lastly.ShutdownManager, begun: bool
) -> None:
    """R3, R17: from outside of its task, where it may not wait: it is cancelled, or not called."""
    calls: list[str] = []
    registered, handed, began, closed = (threading.Event() for _ in range(4))

    class Loop(asyncio.SelectorEventLoop):
        def call_soon_threadsafe(self, *args, **kwargs):
            handed.set()
            return super().call_soon_threadsafe(*args, **kwargs)

    async def waits() -> None:
        calls.append("begun")
        began.set()
        try:
            await hang()
        finally:
            calls.append("cancelled")

    async def serve() -> None:
        manager.defer(waits)
        registered.set()
        if not begun:
            closed.wait(30)  # blocks the loop
        while not closed.is_set() or (begun and len(calls) < 2):
            await asyncio.sleep(0)
        for _ in range(3):
            await asyncio.sleep(0)

    async def main() -> None:
        closing = manager.aclose()
        task = asyncio.create_task(closing)
        while not (began if begun else handed).is_set():
            await asyncio.sleep(0)
        with contextlib.suppress(GeneratorExit):
            closing.close()
        closed.set()
        task.cancel()
        with contextlib.suppress(RuntimeError, asyncio.CancelledError):
            await task  # there is nothing that it could go on with

    def run() -> None:
        with asyncio.Runner(loop_factory=Loop) as runner:
            runner.run(serve())

    thread = threading.Thread(target=run)
    thread.start()
    registered.wait()
    asyncio.run(main())
    thread.join()
    assert calls == (["begun", "cancelled"] if begun else [])
    assert only(manager).status == "interrupted"


# -- nothing is lost ----------------------------------------------------------------------


def test_every_registration_is_in_the_report(
    manager: lastly.ShutdownManager, unwind: Unwind, clock
) -> None:
    """R29: an unwind that ran out of time lists each registration, with its status."""

    def fails() -> None:
        raise ValueError

    manager.configure(grace=10, errors="log")

    def register() -> None:
        for n in range(5):
            manager.defer(hang, name=f"hang {n}")
            manager.defer(fails, name=f"fails {n}")
        manager.defer(clock.advance, 11, name="takes all")

    unwind(register)
    assert statuses(manager) == {
        "takes all": "ok",
        **{
            f"{kind} {n}": status
            for n in reversed(range(5))
            for kind, status in (("fails", "failed"), ("hang", "forced"))
        },
    }
    assert manager.pending() == ()


EXIT = """
    import asyncio, atexit, threading, lastly

    async def hang():
        await asyncio.Event().wait()

    def block():
        threading.Event().wait()

    def show():
        for outcome in lastly.last_report().outcomes:
            print(outcome.name, outcome.status)

    atexit.register(show)
    lastly.defer(print, "oldest", name="oldest")
    """


def test_limits_at_interpreter_exit(run_child) -> None:
    """R16, R20 to R22: at interpreter exit, too, what hangs is cut short and told."""
    ended = run_child(
        EXIT
        + """
    lastly.configure(timeout=0.01)
    lastly.defer(hang, on_timeout=lambda: print("terminated"))
    """
    )
    assert ended.out == ["terminated", "oldest", "hang timed_out", "oldest ok"]
    assert "lastly.CleanupTimeout: hang" in ended.err
    assert "in hang: await asyncio.Event().wait()" in ended.err


def test_the_grace_of_the_interpreters_exit(run_child) -> None:
    """R16, R22: past the grace what is left is forced."""
    ended = run_child(
        EXIT
        + """
    lastly.configure(grace=0)
    lastly.defer(hang)
    """
    )
    assert ended.out == ["oldest", "hang forced", "oldest ok"]


@pytest.mark.skipif(
    (3, 12, 0) <= sys.version_info[:3] < (3, 12, 2),
    reason="no thread can start while this interpreter exits",
)
def test_a_thread_abandoned_at_interpreter_exit(run_child) -> None:
    """R16, R20: a callback that is left behind in its thread does not hold the exit."""
    ended = run_child(
        EXIT
        + """
    lastly.defer(block, thread=True, timeout=0.01)
    """
    )
    assert ended.out == ["oldest", "block abandoned", "oldest ok"]
    assert "block: threading.Event().wait()" in ended.err


# -- R32: bad input -----------------------------------------------------------------------


@pytest.mark.parametrize("setting", ["grace", "timeout", "slow_after"])
@pytest.mark.parametrize(
    ("value", "error", "advice"),
    [
        (-1, ValueError, "seconds, or None"),
        (-0.001, ValueError, "seconds, or None"),
        (math.nan, ValueError, "seconds, or None"),
        (-math.inf, ValueError, "seconds, or None"),
        (True, TypeError, "a number of seconds, or None"),
        ("5", TypeError, "a number of seconds, or None"),
        (Decimal(5), TypeError, "a number of seconds, or None"),
        (datetime.timedelta(seconds=5), TypeError, r"value\.total_seconds\(\)"),
    ],
)
def test_bad_durations_are_refused(
    manager: lastly.ShutdownManager,
    setting: str,
    value: object,
    error: type[Exception],
    advice: str,
) -> None:
    """R32: where they are given, with what to write instead; and nothing is changed."""
    expected = pytest.raises(error, match=f"^{setting}=.*write .*{advice}")
    with expected:
        lastly.ShutdownManager(**{setting: value})
    with expected:
        manager.configure(errors="group", **{setting: value})
    assert manager._settings.errors == "last"
    if setting == "timeout":
        with expected:
            manager.defer(hang, timeout=value)
        with expected:
            manager.defer(timeout=value)


def test_durations_that_are_allowed(manager: lastly.ShutdownManager) -> None:
    """R32: nought, infinity, whole and huge numbers; a slow_after longer than the grace."""
    manager.configure(grace=0, timeout=10**400, slow_after=math.inf)
    assert manager._settings.timeout == math.inf
    lastly.ShutdownManager(grace=1, slow_after=5)
    manager.configure(grace=None, timeout=None, slow_after=None)
    with pytest.raises(ValueError, match="slow_after=0 .*more than 0 seconds, or None"):
        manager.configure(slow_after=0)


class Pool:
    def close(self) -> None:
        """Return nothing."""

    async def aclose(self) -> None: ...

    def maybe(self, flag: bool) -> object:
        return self.aclose() if flag else None

    def either(self) -> object:
        return None or self.aclose()

    async def __call__(self) -> None: ...


def nothing_at_all() -> None:
    if math.pi > 3:
        return
    return None  # noqa: RET501, PLR1711


@pytest.mark.parametrize(
    "func",
    [Pool().close, nothing_at_all, functools.partial(nothing_at_all), lambda: None],
    ids=["method", "function", "partial", "lambda"],
)
def test_a_timeout_for_what_is_known_to_be_sync(
    manager: lastly.ShutdownManager, func: Callable[[], object]
) -> None:
    """R32: is refused without thread=True, and so is on_timeout."""
    with pytest.raises(TypeError, match="^timeout was given .*write thread=True"):
        manager.defer(func, timeout=5)
    with pytest.raises(TypeError, match="^on_timeout was given .*write thread=True"):
        manager.defer(func, on_timeout=func)
    with pytest.raises(TypeError, match="^timeout was given .*write thread=True"):
        manager.defer(timeout=5)(func)
    assert manager.pending() == ()
    assert manager.defer(func, timeout=5, on_timeout=func, thread=True).cancel()


@pytest.mark.parametrize(
    "func",
    [
        Pool().aclose,
        Pool().maybe,
        Pool().either,
        Pool(),
        functools.partial(Pool().aclose),
        lambda: Pool().aclose(),
        int,
        print,
    ],
)
def test_a_timeout_for_what_may_be_async(
    manager: lastly.ShutdownManager, func: Callable[..., object]
) -> None:
    """R32: is accepted, since only the call will tell (R5)."""
    assert manager.defer(func, timeout=5).cancel()


@pytest.mark.parametrize("func", [hang, Pool().aclose, functools.partial(hang), Pool()])
def test_a_thread_for_what_is_known_to_be_async(
    manager: lastly.ShutdownManager, func: Callable[[], object]
) -> None:
    """R32: is refused."""
    with pytest.raises(TypeError, match="^thread=True is for sync callbacks"):
        manager.defer(func, thread=True)


def test_other_bad_options(manager: lastly.ShutdownManager) -> None:
    """R32: an on_timeout that cannot be called, and a thread that is not a bool."""
    with pytest.raises(TypeError, match=r"^on_timeout\(\) needs something to call"):
        manager.defer(hang, timeout=5, on_timeout=7)
    with pytest.raises(TypeError, match="^thread=1 is neither True nor False"):
        manager.defer(hang, thread=1)
    with pytest.raises(TypeError, match="^thread='no' is neither True nor False"):
        manager.defer(thread="no")
    assert manager.pending() == ()
