"""R15: the end of a trio run unwinds what was registered in it, with awaiting allowed."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import pytest
import trio
import trio.testing

import lastly
from lastly import _loops

Main = Callable[[], object]


@pytest.fixture(params=["trio.run", "anyio.run", "guest"])
def run(request: pytest.FixtureRequest) -> Callable[[Main], None]:
    """Run a main on trio, in each way there is."""

    def guest(main: Main) -> None:
        import asyncio

        async def host() -> None:
            loop = asyncio.get_running_loop()
            done = loop.create_future()
            trio.lowlevel.start_guest_run(
                main,
                run_sync_soon_threadsafe=loop.call_soon_threadsafe,
                done_callback=done.set_result,
            )
            (await done).unwrap()

        asyncio.run(host())

    if request.param == "guest":
        return guest
    return trio.run if request.param == "trio.run" else lambda main: anyio.run(main, backend="trio")


def test_a_run_that_another_thread_would_tie_first(manager: lastly.ShutdownManager) -> None:
    """R15: one that has just emptied the stack looks at what is registered meanwhile."""
    calls: list[str] = []

    async def main() -> None:
        await trio.to_thread.run_sync(manager._tie, trio.lowlevel.current_trio_token())
        manager.defer(calls.append, "in the run")

    trio.run(main)
    assert calls == ["in the run"]


def test_callbacks_run_in_reverse_order(
    manager: lastly.ShutdownManager, run: Callable[[Main], None]
) -> None:
    """R1, R15: sync and async, with awaiting, threads, name look-ups and processes."""
    ran: list[object] = []

    async def sleeps() -> None:
        await trio.sleep(0.001)
        ran.append("slept")

    async def threads() -> None:
        ran.append(await trio.to_thread.run_sync(lambda: "thread"))

    async def threads_of_anyio() -> None:
        ran.append(await anyio.to_thread.run_sync(lambda: "anyio"))

    async def names() -> None:
        ran.append(bool(await trio.socket.getaddrinfo("localhost", 80)))

    async def processes() -> None:
        command = [sys.executable, "-c", "print('process')"]
        done = await trio.run_process(command, capture_stdout=True)
        ran.append(done.stdout.decode().strip())

    async def tasks() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sleeps)

    async def in_a_task() -> None:
        manager.defer(ran.append, "registered in a task")

    async def main() -> None:
        manager.defer(ran.append, "sync")
        for callback in sleeps, threads, threads_of_anyio, names, processes, tasks:
            manager.register(callback)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(in_a_task)
        ran.append("main")

    run(main)
    assert ran == [
        "main",
        "registered in a task",
        *["slept", "process", True, "anyio", "thread", "slept"],
        "sync",
    ]
    assert str(manager.last_report().reason) == "loop teardown"


def test_before_async_generators_end(manager: lastly.ShutdownManager) -> None:
    """R15: one that is left suspended may still be used by a callback."""
    ran: list[str] = []
    generators: list[AsyncIterator[str]] = []

    async def generate() -> AsyncIterator[str]:
        try:
            yield "first"
            yield "second"
        finally:
            ran.append("generator ends")

    async def main() -> None:
        generators.append(generator := generate())
        ran.append(await anext(generator))

        @manager.register
        async def callback() -> None:
            ran.append(await anext(generator))

    trio.run(main)
    assert ran == ["first", "second", "generator ends"]


@pytest.mark.parametrize("how", ["raises", "is cancelled", "is interrupted"])
def test_however_main_ends(manager: lastly.ShutdownManager, how: str) -> None:
    """R12, R15: what main raises comes out of trio.run; the callbacks are not cancelled."""
    ran: list[str] = []

    async def callback() -> None:
        await trio.sleep(0.001)
        ran.append("callback")

    async def main() -> None:
        manager.register(callback)
        if how == "raises":
            raise LookupError
        if how == "is interrupted":
            signal.raise_signal(signal.SIGINT)
            await trio.sleep_forever()
        with trio.CancelScope() as scope:
            scope.cancel()
            await trio.sleep_forever()
        raise LookupError

    with pytest.raises(KeyboardInterrupt if how == "is interrupted" else LookupError):
        trio.run(main)
    assert ran == ["callback"]


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit])
def test_what_trio_cannot_raise_is_logged(
    manager: lastly.ShutdownManager,
    caplog: pytest.LogCaptureFixture,
    run: Callable[[Main], None],
    kind: type[BaseException],
) -> None:
    """R9, R10, R15: each failure once with its traceback, and once that it comes out nowhere."""
    ran: list[str] = []

    async def main() -> None:
        @manager.register
        async def bottom() -> None:
            await trio.lowlevel.checkpoint()
            ran.append("bottom")

        @manager.register
        async def fails() -> None:
            raise kind("the pool was gone")

    with caplog.at_level(logging.INFO, "lastly"):
        run(main)
    assert ran == ["bottom"]
    assert [outcome.status for outcome in manager.last_report().outcomes] == ["failed", "ok"]
    failure, told = caplog.records
    assert failure.getMessage().startswith("callback test_what_trio_cannot_raise_is_logged")
    assert told.getMessage() == (
        "trio.run cannot raise what has come out of its teardown: "
        f"{kind.__name__}: the pool was gone"
    )


def test_a_broken_manager_does_not_break_trio(
    manager: lastly.ShutdownManager, caplog: pytest.LogCaptureFixture
) -> None:
    """R15: an exception in a system task would end in TrioInternalError."""

    async def broken(_: object) -> None:
        raise LookupError("a bug")

    async def main() -> str:
        _loops.tie(trio.lowlevel.current_trio_token(), broken, lambda: None)
        return "result"

    assert trio.run(main) == "result"
    assert "LookupError: a bug" in caplog.text


def test_limits_hold(manager: lastly.ShutdownManager) -> None:
    """R15, R20: what hangs is cut short there as anywhere, though trio cancels system tasks."""

    async def hangs() -> None:
        await trio.sleep_forever()

    async def takes_its_time() -> None:
        await trio.sleep(0.02)

    async def main() -> None:
        manager.defer(takes_its_time, timeout=30)
        manager.defer(hangs, timeout=0.01)

    trio.run(main)
    assert [o.status for o in manager.last_report().outcomes] == ["timed_out", "ok"]


def test_exits_run_there_too(manager: lastly.ShutdownManager) -> None:
    """R8, R15: one that holds no scope open; it has time, though trio cancels system tasks."""
    ran: list[str] = []

    @asynccontextmanager
    async def connection() -> AsyncIterator[None]:
        yield
        await trio.sleep(0.001)
        ran.append("closed")

    async def main() -> None:
        await manager.enter_async_context(connection())

    trio.run(main)
    assert ran == ["closed"]


def test_registering_in_the_teardown(manager: lastly.ShutdownManager) -> None:
    """R2, R15: what a callback registers runs next."""
    ran: list[str] = []

    async def main() -> None:
        manager.defer(ran.append, "oldest")

        @manager.register
        async def registers() -> None:
            await trio.lowlevel.checkpoint()
            manager.defer(ran.append, "registered meanwhile")

    trio.run(main)
    assert ran == ["registered meanwhile", "oldest"]


def test_two_managers_and_two_runs(manager: lastly.ShutdownManager) -> None:
    """R15: the manager that was tied last unwinds first; and each run has its own."""
    ran: list[str] = []
    other = lastly.ShutdownManager("other")

    async def main() -> None:
        for which in manager, other, manager:
            which.defer(ran.append, which.name)

    for _ in range(2):
        trio.run(main)
        assert ran == ["other", "test", "test"]
        ran.clear()


def test_what_was_closed_before_is_not_run_again(manager: lastly.ShutdownManager) -> None:
    """R3, R15: nothing is left to the teardown, and a run without a registration has none."""
    ran: list[str] = []

    async def main() -> None:
        manager.defer(ran.append, "once")
        await manager.aclose()

    trio.run(main)
    assert ran == ["once"]


def test_what_is_registered_too_late(run_child) -> None:
    """R15, R17: when main has ended before anything was registered, it is a failure that says so."""
    ended = run_child(
        """
        import lastly, trio

        async def callback():
            print("never")

        async def late():
            try:
                await trio.sleep_forever()
            finally:
                lastly.register(callback)
                lastly.defer(print, "sync")

        async def main():
            trio.lowlevel.spawn_system_task(late)
            await trio.testing.wait_all_tasks_blocked()

        trio.run(main)
        """.replace("lastly, trio", "lastly, trio, trio.testing")
    )
    assert ended.out == ["sync"]
    assert "the event loop of this callback was closed before it could run" in ended.err


@pytest.mark.parametrize("phase", ["system tasks are cancelled", "system tasks have ended"])
def test_a_call_from_another_thread_while_the_run_ends(
    manager: lastly.ShutdownManager, phase: str
) -> None:
    """R15, R17: it runs there as long as it can, and does not break trio down."""
    ran: list[str] = []
    errors: list[BaseException] = []
    thread = threading.Thread(target=lambda: close())

    async def callback() -> None:
        await trio.sleep(0.001)
        ran.append("callback")

    def close() -> None:
        try:
            manager.close()
        except RuntimeError as exc:
            errors.append(exc)

    def close_from_another_thread() -> None:
        # Registered in a system task, in a run whose main has ended: nothing is tied to it.
        manager.register(callback)
        thread.start()

    async def ends_with_the_system_tasks() -> None:
        try:
            await trio.sleep_forever()
        finally:
            if phase == "system tasks are cancelled":
                close_from_another_thread()
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(thread.join)

    async def generate() -> AsyncIterator[None]:
        try:
            yield
        finally:
            if phase == "system tasks have ended":
                close_from_another_thread()
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(thread.join)

    generator = generate()

    async def main() -> None:
        await anext(generator)
        trio.lowlevel.spawn_system_task(ends_with_the_system_tasks)
        await trio.testing.wait_all_tasks_blocked()

    trio.run(main)
    if phase == "system tasks are cancelled":
        assert (ran, errors) == (["callback"], [])
    else:
        assert ran == []
        assert "was closed before it could run" in str(errors[0])


def test_tying_to_a_run_from_outside(manager: lastly.ShutdownManager) -> None:
    """R3, R15: from another thread, when all was cancelled meanwhile; or when it is over."""
    ran: list[str] = []
    tokens: list[object] = []

    async def hook(_: object) -> None:
        ran.append("hook")

    async def main() -> None:
        manager.defer(int).cancel()
        tokens.append(trio.lowlevel.current_trio_token())
        await trio.to_thread.run_sync(_loops.tie, tokens[0], hook, lambda: ran.append("forgotten"))

    trio.run(main)
    assert ran == ["hook", "forgotten"]
    assert _loops.tie(tokens[0], hook, ran.clear) is None
    assert not _loops._of_runs


def test_nothing_is_kept_of_a_run_that_is_over(manager: lastly.ShutdownManager) -> None:
    """R15: neither its token nor its main."""
    import gc
    import weakref

    tokens: list[weakref.ref[object]] = []

    async def main() -> None:
        manager.defer(int)
        manager.defer(int)
        tokens.append(weakref.ref(trio.lowlevel.current_root_task()))

    trio.run(main)
    assert not manager._tied
    gc.collect()
    assert [token() for token in tokens] == [None]
