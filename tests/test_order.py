"""R1, R2, R3: one order, registering while unwinding, exactly once."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Iterator
from functools import partial

import anyio
import pytest

import lastly


def fill(manager: lastly.ShutdownManager, calls: list[object]) -> None:
    """Register by every verb that needs no loop, sync and async in turn."""

    async def later(what: object) -> None:
        await anyio.sleep(0)
        calls.append(what)

    manager.register(calls.append, 1)
    manager.register(later, what=2)
    manager.defer(calls.append, 3)
    manager.defer(later, 4)

    @manager.register
    async def _five() -> None:
        calls.append(5)

    @manager.defer(name="six")
    def _six() -> None:
        calls.append(6)

    @contextlib.contextmanager
    def seven():
        yield
        calls.append(7)

    manager.enter_context(seven())


async def test_aclose_runs_everything_newest_first(manager: lastly.ShutdownManager) -> None:
    """R1: by whichever verb, sync or async, registrations run in one order, newest first."""
    calls: list[object] = []
    fill(manager, calls)

    @contextlib.asynccontextmanager
    async def eight():
        yield
        calls.append(8)

    await manager.enter_async_context(eight())
    await manager.aclose()
    assert calls == [8, 7, 6, 5, 4, 3, 2, 1]


def test_close_runs_everything_newest_first(manager: lastly.ShutdownManager) -> None:
    """R1: close() keeps the same one order where no loop is running."""
    calls: list[object] = []
    fill(manager, calls)
    manager.close()
    assert calls == [7, 6, 5, 4, 3, 2, 1]


async def test_each_is_finished_before_the_next_begins(manager: lastly.ShutdownManager) -> None:
    """R1: callbacks never overlap, however long one awaits."""
    calls: list[str] = []

    async def slow(name: str) -> None:
        calls.append(f"{name} begins")
        for _ in range(3):
            await anyio.sleep(0)
        calls.append(f"{name} ends")

    for name in "ab":
        manager.defer(slow, name)
    manager.defer(calls.append, "sync")
    await manager.aclose()
    assert calls == ["sync", "b begins", "b ends", "a begins", "a ends"]


async def test_what_a_callback_registers_runs_next(manager: lastly.ShutdownManager) -> None:
    """R2: a registration made by a callback is the newest, hence runs next; none is lost."""
    calls: list[object] = []

    async def again(n: int) -> None:
        calls.append(n)
        if n < 3:
            manager.defer(again, n + 1)

    manager.defer(calls.append, "bottom")
    manager.defer(again, 1)
    await manager.aclose()
    assert calls == [1, 2, 3, "bottom"]
    assert manager.pending() == ()


def test_registering_from_another_thread_while_unwinding(manager: lastly.ShutdownManager) -> None:
    """R2: what another thread registers during the unwind runs in that unwind, next."""
    calls: list[str] = []

    def meanwhile() -> None:
        thread = threading.Thread(target=manager.defer, args=(calls.append, "from the thread"))
        thread.start()
        thread.join()
        calls.append("top")

    manager.defer(calls.append, "bottom")
    manager.defer(meanwhile)
    manager.close()
    assert calls == ["top", "from the thread", "bottom"]


def test_a_million_triggers_run_each_once() -> None:
    """R3: of many threads that close, cancel and unregister at once, each registration has one."""
    manager = lastly.ShutdownManager()
    ran: list[int] = []
    cancelled: list[int] = []
    count, workers = 2000, 8
    handles = [manager.defer(ran.append, n) for n in range(count)]
    barrier = threading.Barrier(workers)

    def attack(seed: int) -> None:
        order = list(enumerate(handles))
        random.Random(seed).shuffle(order)
        barrier.wait()
        if seed == 0:
            manager.close()
        elif seed == 1:
            asyncio.run(manager.aclose())
        else:
            for n, handle in order[: count // 4]:
                if handle.cancel():
                    cancelled.append(n)

    threads = [threading.Thread(target=attack, args=(seed,)) for seed in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ran) == len(set(ran))
    assert set(ran).isdisjoint(cancelled)
    assert set(ran) | set(cancelled) == set(range(count))


async def test_every_trigger_in_turn_runs_each_once(manager: lastly.ShutdownManager) -> None:
    """R3: scope exit inside a scope, then explicit close: the later ones find nothing left."""
    calls: list[str] = []
    async with manager:
        async with manager.lifespan():
            manager.defer(calls.append, "once")
        await manager.aclose()
    manager.close()
    assert calls == ["once"]


async def test_tasks_that_close_at_once_run_each_once(manager: lastly.ShutdownManager) -> None:
    """R3: ten tasks that close one manager at the same time run each callback once."""
    calls: list[int] = []

    async def callback(n: int) -> None:
        await anyio.sleep(0)
        calls.append(n)

    for n in range(5):
        manager.defer(callback, n)
    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(manager.aclose)
    assert calls == [4, 3, 2, 1, 0]


def test_loops_interleaved_on_one_stack_keep_their_order() -> None:
    """R1: the teardown of one loop takes its own registrations, newest first, from among others'."""
    manager = lastly.ShutdownManager()
    calls: list[str] = []
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()

    async def register(name: str) -> None:
        manager.defer(calls.append, name)

    for n in range(3):
        first.run_until_complete(register(f"first {n}"))
        second.run_until_complete(register(f"second {n}"))

    async def register_more() -> None:
        manager.defer(manager.defer, calls.append, "first, while unwinding")

    first.run_until_complete(register_more())
    second.run_until_complete(register("second 3"))
    first.close()
    assert calls == ["first, while unwinding", "first 2", "first 1", "first 0"]
    second.close()
    assert calls[4:] == ["second 3", "second 2", "second 1", "second 0"]


def test_a_cancelled_registration_of_a_loop_is_passed_over() -> None:
    """R3: what a callback of a loop cancels during that loop's teardown does not run."""
    manager = lastly.ShutdownManager()
    calls: list[str] = []

    async def main() -> None:
        manager.defer(calls.append, "bottom")
        victim = manager.defer(calls.append, "cancelled")
        manager.defer(victim.cancel)

    asyncio.run(main())
    assert calls == ["bottom"]


def test_what_another_thread_takes_in_between_is_passed_over() -> None:
    """R3: between choosing a registration and taking it, another thread may have taken it."""
    manager = lastly.ShutdownManager()
    calls: list[str] = []

    class Racing(dict):
        """The dict of a stack that another thread changes at the worst of moments."""

        raced = False

        def __delitem__(self, key: object) -> None:
            super().__delitem__(key)
            if not self.raced:
                self.raced = True
                raise KeyError("another thread has taken it")

    async def main() -> None:
        manager.defer(calls.append, "bottom")
        manager.defer(calls.append, "taken by another thread")

    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    manager._stack._registrations = Racing(manager._stack._registrations)
    loop.close()
    assert calls == ["bottom"]


def test_what_another_thread_changes_in_the_middle_of_a_look() -> None:
    """R2, R3: a look at the newest that another thread disturbs is taken once more."""
    manager = lastly.ShutdownManager()
    calls: list[str] = []

    class Racing(dict):
        """The dict of a stack that another thread pushes to between two steps of a look."""

        raced = False

        def __reversed__(self) -> Iterator[lastly.Registration]:
            looks = super().__reversed__()
            if not self.raced:
                self.raced = True
                manager.defer(calls.append, "pushed by another thread")
            return looks

    async def main() -> None:
        manager.defer(calls.append, "bottom")

    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    manager._stack._registrations = Racing(manager._stack._registrations)
    loop.close()
    assert calls == ["pushed by another thread", "bottom"]


@pytest.mark.parametrize("size", [1, 1000])
def test_partials_and_duplicates_are_registrations_of_their_own(size: int) -> None:
    """R1: registering one callable many times puts it on the stack many times."""
    manager = lastly.ShutdownManager()
    calls: list[int] = []
    for n in range(size):
        manager.defer(partial(calls.append, n))
    manager.close()
    assert calls == list(range(size))[::-1]
