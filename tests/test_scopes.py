"""R18: scopes unwind the whole manager, in their loop and task, shielded."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import anyio
import anyio.lowlevel
import pytest

import lastly


async def test_the_whole_manager_unwinds_in_the_task_of_the_scope(
    manager: lastly.ShutdownManager,
) -> None:
    """R18: module-level registrations included, in the loop and the task of the block."""
    seen: list[object] = []

    async def callback(name: str) -> None:
        await anyio.sleep(0)
        seen.append((name, anyio.get_current_task().id))

    async with manager as entered:
        assert entered is manager
        manager.defer(callback, "inside")
    manager.defer(callback, "before")
    async with manager.lifespan(object()) as state:
        assert state is None
        manager.defer(callback, "lifespan")
    here = anyio.get_current_task().id
    assert seen == [("inside", here), ("lifespan", here), ("before", here)]


def test_a_lifespan_without_async_is_refused(manager: lastly.ShutdownManager) -> None:
    """R32: `with lifespan()` says to write `async with`, and runs and unwinds nothing."""
    handle = manager.defer(print, "not printed")
    with pytest.raises(TypeError, match="write `async with lifespan"), manager.lifespan():
        pytest.fail("it has entered")  # pragma: no cover
    assert handle.cancel()


def test_module_level_registrations_run_in_the_scopes_loop() -> None:
    """R18: what was registered before any loop ran is awaited on the scope's loop."""
    manager = lastly.ShutdownManager()
    loops: list[asyncio.AbstractEventLoop] = []

    @manager.register
    async def _module_level() -> None:
        loops.append(asyncio.get_running_loop())

    async def main() -> None:
        async with manager:
            pass
        assert loops == [asyncio.get_running_loop()]

    asyncio.run(main())


def test_with_unwinds_when_the_block_ends(manager: lastly.ShutdownManager) -> None:
    """R18: the sync scope runs async callbacks too, on a fresh loop."""
    calls: list[str] = []

    async def callback() -> None:
        await asyncio.sleep(0)
        calls.append("async")

    with manager as entered:
        assert entered is manager
        manager.register(callback)
        manager.defer(calls.append, "sync")
    assert calls == ["sync", "async"]


async def test_callbacks_are_shielded_from_the_surrounding_scope(
    manager: lastly.ShutdownManager,
) -> None:
    """R18: a cancelled scope around the block reaches no callback; afterwards it goes on."""
    calls: list[str] = []

    async def callback(name: str) -> None:
        await anyio.sleep(0)
        calls.append(name)

    with anyio.CancelScope() as scope:
        async with manager:
            manager.defer(callback, "one")
            manager.defer(callback, "two")
            scope.cancel()
            await anyio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert calls == ["two", "one"]
    assert manager.last_report().ok


async def test_cancelled_in_the_middle_of_the_unwind(manager: lastly.ShutdownManager) -> None:
    """R18: the same where the surrounding scope is cancelled while a callback awaits."""
    calls: list[str] = []

    with anyio.CancelScope() as scope:

        async def cancels() -> None:
            scope.cancel()
            await anyio.sleep(0)
            calls.append("cancels")

        async with manager:
            manager.defer(calls.append, "bottom")
            manager.register(cancels)
        calls.append("after the block, until the next checkpoint")
    assert calls == ["cancels", "bottom", "after the block, until the next checkpoint"]
    assert manager.last_report().ok


@pytest.mark.parametrize("errors", ["last", "group", "log"])
def test_a_native_cancel_interrupts_one_callback_and_goes_on(
    manager: lastly.ShutdownManager, errors: str
) -> None:
    """R18: task.cancel() interrupts what is awaited, the rest run, then CancelledError goes on."""
    manager.configure(errors=errors)
    calls: list[str] = []

    async def hangs() -> None:
        began.set()
        await asyncio.Event().wait()

    async def fails() -> None:
        await asyncio.sleep(0)
        raise ValueError("boom")

    async def unwind() -> None:
        async with manager:
            manager.defer(calls.append, "bottom")
            manager.register(fails)
            manager.register(hangs)
            manager.defer(calls.append, "top")

    began = asyncio.Event()

    async def main() -> None:
        task = asyncio.ensure_future(unwind())
        await began.wait()
        task.cancel("stop")
        with pytest.raises(asyncio.CancelledError, match="stop") as caught:
            await task
        assert "1 callback failed while this was on its way out" in caught.value.__notes__[0]
        assert task.cancelled()

    asyncio.run(main())
    assert calls == ["top", "bottom"]
    statuses = [outcome.status for outcome in manager.last_report().outcomes]
    assert statuses == ["ok", "interrupted", "failed", "ok"]


def test_a_native_cancel_while_an_exception_leaves(manager: lastly.ShutdownManager) -> None:
    """R12, R18: the CancelledError outranks the block's ordinary exception, its context."""
    body = ValueError("body")

    async def cancels_itself() -> None:
        asyncio.current_task().cancel()
        await asyncio.sleep(0)

    async def unwind() -> None:
        async with manager:
            manager.register(cancels_itself)
            raise body

    with pytest.raises(asyncio.CancelledError) as caught:
        asyncio.run(unwind())
    chain = caught.value
    while chain is not None and chain is not body:
        chain = chain.__context__
    assert chain is body


def test_a_cancel_that_is_still_to_arrive(manager: lastly.ShutdownManager) -> None:
    """R18: a cancellation asked for in the block arrives in the unwind, as an interruption."""
    calls: list[str] = []

    async def unwind() -> None:
        async with manager:
            manager.defer(calls.append, "bottom")
            manager.register(lambda: asyncio.sleep(0))
            asyncio.current_task().cancel()

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(unwind())
    assert calls == ["bottom"]
    assert [o.status for o in manager.last_report().outcomes] == ["interrupted", "ok"]


def test_a_callbacks_own_cancelled_error_is_its_failure(manager: lastly.ShutdownManager) -> None:
    """R18: a CancelledError of the callback's making is a failure like any other."""

    async def callback() -> None:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    async def main() -> None:
        manager.register(callback)
        with pytest.raises(asyncio.CancelledError):
            await manager.aclose()
        assert asyncio.current_task().cancelling() == 0

    asyncio.run(main())
    assert [o.status for o in manager.last_report().outcomes] == ["failed"]


def test_a_second_cancellation_does_not_replace_the_first(
    manager: lastly.ShutdownManager,
) -> None:
    """R12, R18: cancelled on the way in and again during the unwind: the first one goes on."""

    async def cancels_itself() -> None:
        asyncio.current_task().cancel("second")
        await asyncio.sleep(0)

    async def unwind() -> None:
        async with manager:
            manager.register(cancels_itself)
            raise asyncio.CancelledError("first")

    async def main() -> None:
        task = asyncio.ensure_future(unwind())
        with pytest.raises(asyncio.CancelledError, match="first"):
            await task

    asyncio.run(main())


def test_plain_asyncio_without_anyio_loaded(run_child) -> None:
    """R18: where nobody has loaded anyio no scope of its can be open, and it stays unloaded."""
    run_child(
        """
        import asyncio, sys, lastly

        async def main():
            async with lastly.lifespan():
                lastly.defer(asyncio.sleep, 0)

        asyncio.run(main())
        assert lastly.last_report().ok
        assert "anyio" not in sys.modules
        """
    )


# -- a home elsewhere, as far as the scopes need it -----------------------------------


async def test_a_home_that_runs_in_another_thread(manager: lastly.ShutdownManager) -> None:
    """R17: a callback of a loop in another thread runs there, and the unwind waits for it."""
    ready = threading.Event()
    ran_on: list[object] = []

    async def callback(fail: bool) -> None:
        await asyncio.sleep(0)
        ran_on.append(asyncio.get_running_loop())
        if fail:
            raise SystemExit(3)

    async def lives() -> None:
        stop = asyncio.Event()
        manager.defer(ran_on.append, "sync")
        manager.defer(callback, True)
        manager.defer(callback, False)
        homes.append((asyncio.get_running_loop(), stop))
        ready.set()
        await stop.wait()

    homes: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
    thread = threading.Thread(target=asyncio.run, args=(lives(),))
    thread.start()
    assert await anyio.to_thread.run_sync(ready.wait, 60)
    (home, stop) = homes[0]
    with pytest.raises(SystemExit):
        await manager.aclose()
    home.call_soon_threadsafe(stop.set)
    await anyio.to_thread.run_sync(thread.join)
    assert ran_on == [home, home, "sync"]


def test_close_waits_for_a_home_that_runs_in_another_thread() -> None:
    """R17: the same for close(), from a thread that runs no loop, and with a trio run."""
    manager = lastly.ShutdownManager()
    for backend in ("asyncio", "trio"):
        ready, stop = threading.Event(), threading.Event()
        ran_in: list[int] = []

        class Resource(contextlib.nullcontext):
            async def __aexit__(self, *exc: object) -> bool:
                await anyio.sleep(0)
                ran_in.append(threading.get_ident())
                return True

        async def lives() -> None:
            await manager.enter_async_context(Resource())
            ready.set()
            await anyio.to_thread.run_sync(stop.wait, 60)

        thread = threading.Thread(target=anyio.run, args=(lives,), kwargs={"backend": backend})
        thread.start()
        assert ready.wait(60)
        manager.close()
        stop.set()
        thread.join()
        assert ran_in == [thread.ident]


def test_a_home_that_is_open_and_does_not_run(manager: lastly.ShutdownManager) -> None:
    """R17: an idle home runs for its callback, also while another loop unwinds."""
    idle = asyncio.new_event_loop()
    ran_on: list[object] = []

    async def callback() -> None:
        await asyncio.sleep(0)
        ran_on.append(asyncio.get_running_loop())

    async def register() -> None:
        manager.register(callback)

    idle.run_until_complete(register())
    manager.close()
    idle.run_until_complete(register())
    asyncio.run(manager.aclose())
    assert ran_on == [idle, idle]
    idle.close()


@pytest.mark.parametrize("close", ["close", "aclose"])
def test_a_home_that_is_closed_is_a_failure_that_says_so(
    manager: lastly.ShutdownManager, close: str
) -> None:
    """R17: the home is gone: an async callback fails and says so, a sync one still runs."""
    calls: list[str] = []

    async def callback() -> None:
        calls.append("never")

    async def register() -> None:
        manager.defer(calls.append, "sync")
        manager.register(callback)
        manager.register(lambda: Endless())

    class Endless:
        def __await__(self):
            calls.append("never")
            yield

    loop = asyncio.new_event_loop()
    loop.run_until_complete(register())
    type(loop).close(loop)  # past its own, as only a crash does otherwise
    with pytest.raises(RuntimeError, match=r"event loop of this callback was closed.*did you"):
        if close == "close":
            manager.close()
        else:
            asyncio.run(manager.aclose())
    assert calls == ["sync"]
    assert [o.status for o in manager.last_report().outcomes] == ["failed", "failed", "ok"]
