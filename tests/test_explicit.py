"""R13: close and aclose, any number of times, from anywhere."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import warnings
from functools import partial

import anyio
import anyio.to_thread
import pytest

import lastly


async def test_who_comes_during_an_unwind_waits_and_gets_its_result(
    manager: lastly.ShutdownManager,
) -> None:
    """R13: a second aclose() waits for the same unwind, and gets the very same exception."""
    began, go_on = anyio.Event(), anyio.Event()
    boom = ValueError("boom")
    results: list[BaseException] = []

    async def callback() -> None:
        began.set()
        await go_on.wait()
        raise boom

    async def closer() -> None:
        try:
            await manager.aclose()
        except ValueError as exc:
            results.append(exc)

    manager.register(callback)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(closer)
        await began.wait()
        tasks.start_soon(closer)
        await anyio.wait_all_tasks_blocked()
        assert results == []
        go_on.set()
    assert results == [boom, boom]
    assert len(manager.last_report().outcomes) == 1


def test_a_thread_that_closes_during_an_unwind_waits_for_it(
    manager: lastly.ShutdownManager,
) -> None:
    """R13: the same for close() from another thread, with a scope's own exception kept."""
    began, go_on = threading.Event(), threading.Event()
    results: list[BaseException] = []

    def callback() -> None:
        began.set()
        assert go_on.wait(60)
        raise ValueError("boom")

    def close() -> None:
        try:
            manager.close()
        except ValueError as exc:
            results.append(exc)

    def scope() -> None:
        try:
            with manager:
                raise SystemExit(7)
        except SystemExit as exc:
            results.append(exc)

    manager.register(callback)
    owner = threading.Thread(target=close)
    owner.start()
    assert began.wait(60)
    waiters = [threading.Thread(target=target) for target in (close, scope)]
    for thread in waiters:
        thread.start()
    go_on.set()
    for thread in (owner, *waiters):
        thread.join()
    assert sorted(type(exc).__name__ for exc in results) == [
        "SystemExit",
        "ValueError",
        "ValueError",
    ]
    (exit_,) = [exc for exc in results if isinstance(exc, SystemExit)]
    assert "1 callback failed" in exit_.__notes__[0]


async def test_a_call_from_inside_a_callback_returns_at_once(
    manager: lastly.ShutdownManager,
) -> None:
    """R13: from the callback, a task of its, or a thread with its context: none waits for itself."""
    calls: list[str] = []

    async def callback() -> None:
        await manager.aclose()
        manager.close()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(manager.aclose)
        await anyio.to_thread.run_sync(manager.close)
        with manager:
            calls.append("inside")

    manager.defer(calls.append, "bottom")
    manager.register(callback)
    await manager.aclose()
    assert calls == ["inside", "bottom"]


def test_two_managers_that_close_each_other(manager: lastly.ShutdownManager) -> None:
    """R13: "inside" is passed on: a manager closed by a callback of the other does not wait."""
    other = lastly.ShutdownManager("other")
    calls: list[str] = []
    manager.defer(calls.append, "bottom")
    manager.register(other.close)
    other.defer(calls.append, "other")
    other.register(manager.close)
    manager.close()
    assert calls == ["other", "bottom"]


async def test_close_in_a_running_loop_refuses_before_it_runs_anything(
    manager: lastly.ShutdownManager,
) -> None:
    """R13: close() with anything to await, in a loop, names aclose() and runs nothing."""
    calls: list[str] = []

    class Callable:
        async def __call__(self) -> None:
            calls.append("object")

    manager.defer(partial(Callable()), name="pool")
    manager.defer(calls.append, "top")
    with pytest.raises(RuntimeError, match=r"await pool .*`await aclose\(\)`"):
        manager.close()
    with pytest.raises(RuntimeError, match="`async with` for `with`"), manager:
        pass
    assert calls == []
    assert len(manager.pending()) == 2
    await manager.aclose()
    assert calls == ["top", "object"]


async def test_a_refusal_does_not_replace_control_flow(manager: lastly.ShutdownManager) -> None:
    """R12, R13: where `with` is refused in a loop, SystemExit goes on, with a note that says so."""
    manager.defer(anyio.sleep, 0, name="pool")
    with pytest.raises(SystemExit) as caught, manager:
        raise SystemExit(7)
    assert "lastly: close() would have to await pool" in caught.value.__notes__[0]
    body = ValueError("body")
    with pytest.raises(RuntimeError, match="await pool") as caught, manager:
        raise body
    assert caught.value.__context__ is body
    await manager.aclose()


async def test_close_in_a_running_loop_takes_sync_callbacks(
    manager: lastly.ShutdownManager,
) -> None:
    """R13: only what needs awaiting is refused; sync callbacks alone are run."""
    calls: list[str] = []
    manager.defer(calls.append, "sync")
    manager.close()
    assert calls == ["sync"]


async def test_close_in_a_running_loop_meets_an_awaitable_that_nobody_could_foresee(
    manager: lastly.ShutdownManager,
) -> None:
    """R5, R13: a lambda's coroutine is neither dropped nor overtaken: aclose() awaits it later."""
    calls: list[str] = []

    async def close_pool() -> None:
        calls.append("pool")

    manager.defer(calls.append, "bottom")
    handle = manager.defer(lambda: close_pool(), name="pool")
    manager.defer(calls.append, "top")
    with pytest.raises(RuntimeError, match=r"pool .* returned an awaitable.*`await aclose\(\)`"):
        manager.close()
    assert calls == ["top"]
    assert [r.name for r in manager.pending()] == ["pool", "list.append"]
    assert handle.status is lastly.Status.PENDING
    await manager.aclose()
    assert calls == ["top", "pool", "bottom"]


async def test_a_context_managers_exit_that_nobody_could_foresee(
    manager: lastly.ShutdownManager,
) -> None:
    """R13: the same for an async exit that is no coroutine function."""
    calls: list[str] = []

    class Resource:
        async def __aenter__(self) -> None: ...

        def __aexit__(self, *exc: object):
            return self.leave()

        async def leave(self) -> None:
            calls.append("left")

    await manager.enter_async_context(Resource())
    with pytest.raises(RuntimeError, match="returned an awaitable"):
        manager.close()
    await manager.aclose()
    assert calls == ["left"]


async def test_close_in_a_running_loop_cannot_wait_for_an_unwind(
    manager: lastly.ShutdownManager,
) -> None:
    """R13: close() beside an aclose() in progress would block the loop that it waits for."""
    began, go_on = anyio.Event(), anyio.Event()

    async def callback() -> None:
        began.set()
        await go_on.wait()

    manager.register(callback)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(manager.aclose)
        await began.wait()
        with pytest.raises(RuntimeError, match=r"unwind that is in progress.*`await aclose\(\)`"):
            manager.close()
        go_on.set()


async def test_afterwards_the_manager_is_open_again(manager: lastly.ShutdownManager) -> None:
    """R13: closing is no end: what is registered later runs in the next unwind."""
    calls: list[str] = []
    await manager.aclose()
    for name in ("first", "second"):
        manager.defer(calls.append, name)
        await manager.aclose()
    await manager.aclose()
    assert calls == ["first", "second"]


def test_an_unwind_of_one_loop_does_not_stand_for_the_whole(
    manager: lastly.ShutdownManager,
) -> None:
    """R13: who closes during a loop's teardown waits for it, and then unwinds the rest."""
    began, go_on = threading.Event(), threading.Event()
    calls: list[str] = []

    def callback() -> None:
        began.set()
        assert go_on.wait(60)
        calls.append("of the loop")

    async def main() -> None:
        manager.register(callback)

    manager.defer(calls.append, "module level")
    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    assert began.wait(60)
    closer = threading.Thread(target=manager.close)
    closer.start()

    async def teardown_of_another_loop() -> None:
        manager.defer(calls.append, "of another loop")

    go_on.set()
    thread.join()
    closer.join()
    asyncio.run(teardown_of_another_loop())
    assert calls == ["of the loop", "module level", "of another loop"]


def test_aclose_during_the_teardown_of_another_loop(manager: lastly.ShutdownManager) -> None:
    """R13: the same for aclose(): it waits for the other loop's teardown, then unwinds all."""
    began, go_on = threading.Event(), threading.Event()
    calls: list[str] = []

    def callback() -> None:
        began.set()
        assert go_on.wait(60)
        calls.append("of the loop")

    async def main() -> None:
        manager.register(callback)

    async def aclose() -> None:
        asyncio.get_running_loop().call_later(0, go_on.set)
        await manager.aclose()

    manager.defer(calls.append, "module level")
    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    assert began.wait(60)
    asyncio.run(aclose())
    thread.join()
    assert calls == ["of the loop", "module level"]


def test_a_loop_torn_down_during_another_unwind_waits_its_turn(
    manager: lastly.ShutdownManager,
) -> None:
    """R13, R14: one unwind at a time: a teardown waits for the one in progress, then goes on."""
    began, go_on = threading.Event(), threading.Event()
    calls: list[str] = []

    def callback() -> None:
        began.set()
        assert go_on.wait(60)
        calls.append("first loop")

    async def first() -> None:
        manager.register(callback)

    async def second() -> None:
        manager.defer(calls.append, "second loop")
        asyncio.get_running_loop().call_later(0, go_on.set)

    thread = threading.Thread(target=asyncio.run, args=(first(),))
    thread.start()
    assert began.wait(60)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(second())
    loop.close()
    thread.join()
    assert calls == ["first loop", "second loop"]


@pytest.mark.parametrize("joined", [False, True])
def test_an_unwind_whose_coroutine_is_closed_leaves_the_rest(
    manager: lastly.ShutdownManager, joined: bool
) -> None:
    """R12, R13: a dropped aclose() may not await: it stops, and who waits or comes next goes on."""
    calls: list[str] = []

    async def hangs() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            calls.append("hangs")

    async def main() -> None:
        manager.defer(calls.append, "bottom")
        manager.register(hangs)
        task = asyncio.get_running_loop().create_task(manager.aclose())
        await asyncio.sleep(0)
        joiner = asyncio.ensure_future(manager.aclose()) if joined else None
        await asyncio.sleep(0)
        coroutine = task.get_coro()
        await asyncio.get_running_loop().run_in_executor(None, coroutine.close)
        if joiner is not None:
            await joiner
            assert calls == ["hangs", "bottom"]
        else:
            assert calls == ["hangs"]
            assert [o.status for o in manager.last_report().outcomes] == ["interrupted"]
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, RuntimeError):
            await task

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asyncio.run(main())
        gc.collect()
    assert calls == ["hangs", "bottom"]
