"""R4: what is registered inside of together() shares one place, and runs side by side."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import logging
import math
import sys
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future

import anyio
import anyio.to_thread
import pytest

import lastly
from test_interpreter import THREADS_START_AT_EXIT


class Meeting:
    """Callbacks that end only when all of them run at once, for so many."""

    def __init__(self, size: int) -> None:
        self.left = size
        self.all_here = anyio.Event()
        self.names: list[str] = []

    async def __call__(self, name: str = "") -> None:
        self.left -= 1
        if not self.left:
            self.all_here.set()
        await self.all_here.wait()
        self.names.append(name)


class ThreadMeeting:
    """The same across threads and loops; nobody waits for ever in it."""

    def __init__(self, size: int) -> None:
        self._barrier = threading.Barrier(size, timeout=30)

    def sync(self) -> None:
        self._barrier.wait()

    async def __call__(self) -> None:
        await anyio.to_thread.run_sync(self._barrier.wait)


def statuses(manager: lastly.ShutdownManager) -> list[tuple[str, str]]:
    return [(o.name, str(o.status)) for o in manager.last_report().outcomes]


async def hangs() -> None:
    await anyio.sleep(math.inf)


# -- one place --------------------------------------------------------------------------


async def test_async_members_run_concurrently(manager: lastly.ShutdownManager) -> None:
    """R4: each waits for all others, between what was registered before and after the block."""
    meeting = Meeting(3)
    manager.defer(meeting.names.append, "below")
    with manager.together():
        for name in "one", "two", "three":
            manager.defer(meeting, name, name=name)
    manager.defer(meeting.names.append, "above", name="above")
    assert [r.name for r in manager.pending()][:4] == ["above", "three", "two", "one"]
    await manager.aclose()
    assert meeting.names[0] == "above"
    assert sorted(meeting.names[1:4]) == ["one", "three", "two"]
    assert meeting.names[4] == "below"
    report = manager.last_report()
    assert [o.name for o in report.outcomes][:4] == ["above", "three", "two", "one"]
    assert report.ok
    assert "three" in report.timeline()


async def test_all_are_called_before_any_is_awaited(manager: lastly.ShutdownManager) -> None:
    """R4: sync members run one by one, newest first, and what is async is awaited then."""
    calls: list[str] = []

    def calls_and_returns(name: str) -> object:
        calls.append(f"{name} called")
        return awaited(name)

    async def awaited(name: str) -> None:
        calls.append(f"{name} awaited")

    with manager.together():
        manager.defer(calls.append, "sync, last")
        manager.defer(calls_and_returns, "one")
        manager.defer(calls.append, "sync, first")
        manager.register(awaited, name="two")
    await manager.aclose()
    assert calls[:3] == ["sync, first", "one called", "sync, last"]
    assert sorted(calls[3:]) == ["one awaited", "two awaited"]


@pytest.mark.parametrize("newest", ["thread", "async"])
async def test_threads_run_beside_the_async_members(
    manager: lastly.ShutdownManager, newest: str
) -> None:
    """R4: members with `thread=True` wait for async ones, and those for them."""
    meeting = ThreadMeeting(4)
    with manager.together():
        if newest == "async":
            manager.defer(meeting.sync, thread=True)
        manager.defer(meeting)
        manager.defer(meeting)
        manager.defer(meeting.sync, thread=True)
        if newest == "async":
            manager.defer(lambda: None)
        else:
            manager.defer(meeting.sync, thread=True)
    await manager.aclose()
    assert manager.last_report().ok


async def test_the_block_is_one_place_though_others_register_in_between(
    manager: lastly.ShutdownManager,
) -> None:
    """R4: the place is that of its newest member; who is not in the block has one of its own."""
    calls: list[str] = []

    def register(name: str) -> None:
        manager.defer(calls.append, name)

    with manager.together():
        register("one")
        thread = threading.Thread(target=register, args=("other thread",))
        thread.start()
        thread.join()
        contextvars.Context().run(register, "other context")
        register("two")
    register("above")
    await manager.aclose()
    assert calls == ["above", "two", "one", "other context", "other thread"]


async def test_tasks_of_the_block_are_inside_while_it_is_open(
    manager: lastly.ShutdownManager,
) -> None:
    """R4: a task that outlives the block registers as any other from then on."""
    meeting = Meeting(3)
    closed = anyio.Event()
    registered = anyio.Event()

    async def task() -> None:
        manager.defer(meeting, "in a task")
        registered.set()
        await closed.wait()
        manager.defer(meeting.names.append, "too late to be inside")

    async with anyio.create_task_group() as group:
        with manager.together():
            manager.defer(meeting, "one")
            group.start_soon(task)
            await registered.wait()
            await anyio.to_thread.run_sync(manager.defer, meeting, "in a thread of the block's")
        closed.set()
    await manager.aclose()
    assert meeting.names[0] == "too late to be inside"
    assert len(meeting.names) == 4


async def test_tasks_of_a_block_are_not_inside_of_the_next(manager: lastly.ShutdownManager) -> None:
    """R4: a task that outlives its block is in none, though the same manager's next is open."""
    calls: list[str] = []
    closed = anyio.Event()

    async def task() -> None:
        await closed.wait()
        manager.defer(calls.append, "task")

    async with anyio.create_task_group() as group:
        with manager.together():
            manager.defer(calls.append, "first block")
            group.start_soon(task)
        manager.defer(calls.append, "between")
        with manager.together():
            closed.set()
            await anyio.wait_all_tasks_blocked()
    manager.defer(calls.append, "above")
    await manager.aclose()
    assert calls == ["above", "task", "between", "first block"]


async def test_nested_blocks_are_one_and_empty_ones_nothing(
    manager: lastly.ShutdownManager,
) -> None:
    """R4: a block inside of another one adds to its place."""
    meeting = Meeting(3)
    with manager.together():
        pass
    with manager.together():
        manager.defer(meeting)
        with manager.together():
            manager.defer(meeting)
            with manager.together():
                pass
        manager.defer(meeting)
    await manager.aclose()
    assert manager.last_report().ok
    await manager.aclose()


async def test_two_blocks_are_two_places(manager: lastly.ShutdownManager) -> None:
    """R4: blocks one after the other run one after the other."""
    first, second = Meeting(2), Meeting(2)
    for meeting in first, second:
        with manager.together():
            manager.defer(meeting, str(meeting is first))
            manager.defer(meeting, str(meeting is first))
    manager.defer(first.names.append, "above")
    second.names = first.names
    await manager.aclose()
    assert first.names == ["above", "False", "False", "True", "True"]


async def test_blocks_of_two_managers_do_not_mix(manager: lastly.ShutdownManager) -> None:
    """R4: each manager's registrations are in its own block, or in none."""
    other, third = lastly.ShutdownManager("other"), lastly.ShutdownManager("third")
    mine, others, calls = Meeting(2), Meeting(2), []
    with manager.together(), other.together():
        manager.defer(mine)
        other.defer(others)
        third.defer(calls.append, 1)
        manager.defer(mine)
        other.defer(others)
        third.defer(calls.append, 2)
    for each in manager, other, third:
        await each.aclose()
        assert each.last_report().ok
    assert calls == [2, 1]


async def test_the_module_level_function() -> None:
    """R4: `lastly.together` is the default manager's."""
    meeting = Meeting(2)
    with lastly.together():
        lastly.register(meeting)
        lastly.register(meeting)
    await lastly.aclose()
    assert lastly.last_report().ok


async def test_one_member_alone(manager: lastly.ShutdownManager) -> None:
    """R4: a place of one is as any other; and what its block registers has kwargs, too."""
    seen: list[object] = []

    async def callback(*args: object, **kwargs: object) -> None:
        seen.append((args, kwargs))

    with manager.together():
        manager.register(callback, 1, key=2)
    await manager.aclose()
    assert seen == [((1,), {"key": 2})]


async def test_cancelled_and_unregistered_members(manager: lastly.ShutdownManager) -> None:
    """R4, R7: the others keep the place, and the block keeps nothing alive of those."""
    meeting = Meeting(2)

    class Callback:
        def __call__(self) -> None:
            raise AssertionError

    with manager.together():
        callback = Callback()
        gone = weakref.ref(callback)
        handle = manager.defer(callback)
        manager.defer(meeting)
        manager.register(hangs)
        manager.defer(meeting)
        last = manager.defer(callback)
        assert handle.cancel()
        del callback
        manager.unregister(hangs)
        assert last.cancel()
        gc.collect()
        assert gone() is None
        assert len(manager.pending()) == 2
        (block,) = manager._blocks
        assert len(block.members) == 2
    await manager.aclose()
    assert manager.last_report().ok


async def test_a_member_that_has_begun_cannot_be_cancelled(
    manager: lastly.ShutdownManager,
) -> None:
    """R4, R7: from its turn on, cancel() of any member of the place is False."""
    answers: list[bool] = []

    def cancels() -> None:
        answers.append(other.cancel())

    calls: list[str] = []
    with manager.together():
        other = manager.defer(calls.append, "other")
        manager.defer(cancels)
    await manager.aclose()
    assert answers == [False]
    assert calls == ["other"]


def test_what_has_its_turn_is_not_taken_back(manager: lastly.ShutdownManager) -> None:
    """R4, R6, R7: members begin together, so that none can be cancelled by another."""
    calls: list[str] = []

    def take_back() -> None:
        manager.unregister(calls.append)
        calls.append(f"cancelled: {mate.cancel()}")

    with manager.together():
        mate = manager.defer(calls.append, "mate")
        manager.register(take_back)
    manager.close()
    assert calls == ["cancelled: False", "mate"]


async def test_registering_during_the_place(manager: lastly.ShutdownManager) -> None:
    """R2, R4: what a member registers runs when the place is done, before what is below."""
    meeting = Meeting(2)

    async def registers() -> None:
        manager.defer(meeting.names.append, "newest")
        await meeting("registers")

    manager.defer(meeting.names.append, "below")
    with manager.together():
        manager.defer(registers)
        manager.defer(meeting, "other")
    await manager.aclose()
    assert sorted(meeting.names[:2]) == ["other", "registers"]
    assert meeting.names[2:] == ["newest", "below"]


async def test_unwinding_inside_of_the_block(manager: lastly.ShutdownManager) -> None:
    """R4: a block that is open while the manager unwinds goes on with a place of its own."""
    first, second = Meeting(2), Meeting(2)
    with manager.together():
        manager.defer(first)
        manager.defer(first)
        await manager.aclose()
        assert manager.last_report().ok
        manager.defer(second)
        manager.defer(second)
    await manager.aclose()
    assert manager.last_report().ok


async def test_context_managers_are_refused_in_the_block(
    manager: lastly.ShutdownManager,
) -> None:
    """R4, R8: their exits run alone, in the task that unwinds; refused before they are entered."""
    entered: list[int] = []

    @contextlib.asynccontextmanager
    async def acm():
        entered.append(1)
        yield

    with manager.together():
        with pytest.raises(RuntimeError, match=r"enter_async_context\(\) .* together\(\)"):
            await manager.enter_async_context(acm())
        with pytest.raises(RuntimeError, match=r"enter_context\(\) .* together\(\)"):
            manager.enter_context(contextlib.nullcontext())
        assert not entered
        assert manager.pending() == ()
        # Who is not in the block, though it is open.
        contextvars.Context().run(manager.enter_context, contextlib.nullcontext())
    await manager.enter_async_context(acm())
    manager.enter_context(contextlib.nullcontext())
    await manager.aclose()
    assert manager.last_report().ok


@pytest.mark.parametrize("nested", [False, True])
async def test_a_member_enters_no_async_context(
    manager: lastly.ShutdownManager, nested: bool
) -> None:
    """R4, R8: its task ends before the exit would run, so that a member is refused it, too."""
    other = lastly.ShutdownManager("other", errors="log")
    entered: list[int] = []

    @contextlib.asynccontextmanager
    async def acm():
        entered.append(1)
        yield

    async def enters() -> None:
        with pytest.raises(RuntimeError, match=r"enter_async_context\(\) .* together\(\)"):
            await manager.enter_async_context(acm())
        manager.enter_context(contextlib.nullcontext())

    with manager.together():
        manager.register(enters)
    other.register(manager.aclose)
    await (other if nested else manager).aclose()
    assert not entered
    assert [str(o.status) for o in manager.last_report().outcomes] == ["ok", "ok"]


def test_a_block_that_is_left_in_another_context(manager: lastly.ShutdownManager) -> None:
    """R4: it ends all the same, as where a generator holds it open."""

    def block():
        with manager.together():
            yield

    generator = block()
    contextvars.copy_context().run(next, generator)
    with contextlib.suppress(StopIteration):
        next(generator)
    manager.enter_context(contextlib.nullcontext())
    manager.close()


# -- errors -----------------------------------------------------------------------------


async def test_one_failure_does_not_cancel_the_others(
    manager: lastly.ShutdownManager, caplog: pytest.LogCaptureFixture
) -> None:
    """R4, R11: the final one is what failed last; it has a note on the others, and each a line."""
    meeting = Meeting(4)
    turns = [anyio.Event() for _ in range(4)]

    async def fails(turn: int, error: BaseException) -> None:
        await meeting()
        await turns[turn].wait()
        turns[turn + 1].set()
        raise error

    final = KeyError("final")
    turns[0].set()
    with manager.together():
        manager.defer(fails, 2, final, name="third")
        manager.defer(fails, 0, ValueError("first"), name="first")
        manager.defer(meeting, name="fine")
        manager.defer(fails, 1, SystemExit(3), name="second")
    manager.defer(int, "x", name="above")
    with pytest.raises(KeyError) as caught:
        await manager.aclose()
    assert caught.value is final
    (note,) = final.__notes__
    assert "3 earlier failures" in note
    assert note.index("above") < note.index("first (") < note.index("second (")
    assert statuses(manager) == [
        ("above", "failed"),
        ("second", "failed"),
        ("fine", "ok"),
        ("first", "failed"),
        ("third", "failed"),
    ]
    told = [record.message for record in caplog.records if record.levelno == logging.ERROR]
    assert len(told) == 3


@pytest.mark.parametrize("errors", ["group", "log"])
async def test_the_errors_setting(manager: lastly.ShutdownManager, errors: str) -> None:
    """R4, R11: a group has the failures of a place, too, in the order in which they came."""
    manager.configure(errors=errors)
    one, two = ValueError("one"), BaseExceptionGroup("two", [KeyboardInterrupt()])
    began = anyio.Event()

    async def fails_second() -> None:
        await began.wait()
        raise two

    async def fails_first() -> None:
        began.set()
        raise one

    with manager.together():
        manager.register(fails_first)
        manager.register(fails_second)
    if errors == "log":
        await manager.aclose()
    else:
        with pytest.raises(BaseExceptionGroup, match="2 callbacks failed") as caught:
            await manager.aclose()
        assert caught.value.exceptions == (one, two)
    assert len(manager.last_report().failures) == 2


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError]
)
async def test_no_exception_stops_the_place(
    manager: lastly.ShutdownManager, error: type[BaseException]
) -> None:
    """R4, R9: whether it is raised by the call or while it is awaited."""
    meeting = Meeting(2)

    async def fails() -> None:
        raise error

    def fails_at_once() -> None:
        raise error

    manager.defer(meeting.names.append, "below")
    with manager.together():
        manager.defer(meeting, "two")
        manager.defer(fails)
        manager.defer(fails_at_once)
        manager.defer(meeting, "one")
    with pytest.raises(error):
        await manager.aclose()
    assert sorted(meeting.names) == ["below", "one", "two"]
    assert sorted(str(o.status) for o in manager.last_report().outcomes) == [
        "failed",
        "failed",
        "ok",
        "ok",
        "ok",
    ]


async def test_nothing_is_kept_alive(
    manager: lastly.ShutdownManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R4: no cycle holds the callbacks or their results once the place is done."""
    monkeypatch.setattr(logging.getLogger("lastly"), "disabled", True)  # pytest keeps records
    gc.collect()
    gc.disable()
    try:

        class Resource:
            async def close(self) -> None:
                await anyio.sleep(0)

            async def fails(self) -> None:
                await anyio.sleep(0)
                raise ValueError

        resource = Resource()
        gone = weakref.ref(resource)
        with manager.together():
            manager.register(resource.close)
            if sys.version_info < (3, 12):  # whose tracebacks keep the frames of the callers
                manager.register(resource.fails)
            manager.defer(id, resource)
        manager.configure(errors="log")
        await manager.aclose()
        manager._last_report = None
        del resource
        assert gone() is None
    finally:
        gc.enable()


# -- calls from inside, and of other unwinds ----------------------------------------------


async def test_a_call_from_a_member_returns_at_once(manager: lastly.ShutdownManager) -> None:
    """R4, R13: aclose() and close() inside of a member do not wait for its own place."""
    meeting = Meeting(2)

    async def calls_aclose() -> None:
        await manager.aclose()
        manager.close()
        await meeting()

    with manager.together():
        manager.defer(meeting)
        manager.defer(calls_aclose)
        manager.defer(manager.close, thread=True)
        manager.defer(manager.close)
    await manager.aclose()
    assert len(manager.last_report().outcomes) == 4
    assert manager.last_report().ok


async def test_who_comes_during_the_place_waits_for_it(
    manager: lastly.ShutdownManager,
) -> None:
    """R4, R13: and gets the result of the unwind."""
    began, go_on = anyio.Event(), anyio.Event()
    raised: list[BaseException] = []

    async def fails() -> None:
        began.set()
        await go_on.wait()
        raise ValueError

    async def closes() -> None:
        with pytest.raises(ValueError) as caught:
            await manager.aclose()
        raised.append(caught.value)

    with manager.together():
        manager.register(fails)
        manager.register(go_on.wait)
    async with anyio.create_task_group() as group:
        group.start_soon(closes)
        await began.wait()
        group.start_soon(closes)
        await anyio.wait_all_tasks_blocked()
        go_on.set()
    assert raised[0] is raised[1]


async def test_another_managers_unwind_keeps_to_the_members_time(
    manager: lastly.ShutdownManager,
) -> None:
    """R4, R21: an unwind inside of a member has no more time than that has left."""
    other = lastly.ShutdownManager("other", slow_after=None)
    other.register(hangs)
    with manager.together():
        manager.defer(other.aclose, timeout=0.05, name="closes the other")
        manager.defer(lambda: None)
    with pytest.raises(lastly.CleanupTimeout):
        await manager.aclose()
    assert [str(o.status) for o in other.last_report().outcomes] == ["timed_out"]
    manager.close()


async def test_context_variables(manager: lastly.ShutdownManager) -> None:
    """R4: each member sees what was set where the unwind began, and sets its own."""
    variable = contextvars.ContextVar("variable", default="unset")
    meeting = Meeting(2)
    seen: list[str] = []

    async def sets(value: str) -> None:
        seen.append(variable.get())
        variable.set(value)
        await meeting()
        seen.append(variable.get())

    with manager.together():
        manager.defer(sets, "one")
        manager.defer(sets, "two")
    variable.set("outside")
    await manager.aclose()
    assert sorted(seen) == ["one", "outside", "outside", "two"]
    assert variable.get() == "outside"


# -- cancellation -----------------------------------------------------------------------


async def test_members_are_shielded(manager: lastly.ShutdownManager) -> None:
    """R4, R18: a cancelled scope around reaches no member, also if anyio is not yet loaded."""
    meeting = Meeting(2)

    async def cancels() -> None:
        scope.cancel()
        await anyio.sleep(0)
        await meeting()
        await anyio.sleep(0)

    with anyio.CancelScope() as scope:
        scope.cancel()
        manager.defer(meeting.names.append, "below")
        with manager.together():
            manager.defer(cancels)
            manager.defer(meeting)
        await manager.aclose()
        await anyio.sleep(0)
        raise AssertionError("the scope is cancelled")
    assert scope.cancelled_caught
    assert manager.last_report().ok


async def test_in_a_shield_that_a_limit_has_cancelled(manager: lastly.ShutdownManager) -> None:
    """R4, R8: the place runs where a context manager keeps such a shield open."""
    meeting = Meeting(2)

    async def enters_and_hangs() -> None:
        await manager.enter_async_context(contextlib.nullcontext())
        with manager.together():
            manager.defer(meeting)
            manager.defer(meeting)
        await hangs()

    manager.defer(enters_and_hangs, timeout=0.05)
    with pytest.raises(lastly.CleanupTimeout):
        await manager.aclose()
    assert [str(o.status) for o in manager.last_report().outcomes] == [
        "timed_out",
        "ok",
        "ok",
        "forced",  # the exit itself
    ]


NATIVE = [
    pytest.param(("asyncio", {}), id="asyncio"),
    pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
]
native = pytest.mark.parametrize("anyio_backend", NATIVE)


@native
async def test_a_native_cancel_is_passed_on_and_goes_on(
    manager: lastly.ShutdownManager,
) -> None:
    """R4, R18: task.cancel() interrupts the members that wait, the rest run, then it goes on."""
    meeting = Meeting(3)
    calls: list[str] = []

    async def cleans_up() -> None:
        await meeting()
        try:
            await hangs()
        finally:
            await asyncio.sleep(0)
            calls.append("cleaned up")

    async def swallows() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await hangs()
        calls.append("swallowed")

    async def own() -> None:
        raise asyncio.CancelledError("its own, and no interruption")

    manager.defer(calls.append, "below")
    manager.defer(own, name="own")
    with manager.together():
        manager.defer(swallows, name="swallows")
        manager.defer(cleans_up, name="cleans up")
        manager.defer(meeting, name="done before")
    task = asyncio.ensure_future(manager.aclose())
    await meeting()
    await asyncio.sleep(0)
    task.cancel("from outside")
    with pytest.raises(asyncio.CancelledError, match="from outside"):
        await task
    assert sorted(calls) == ["below", "cleaned up", "swallowed"]
    assert statuses(manager)[:4] == [
        ("done before", "ok"),
        ("cleans up", "interrupted"),
        ("swallows", "ok"),
        ("own", "failed"),
    ]


@native
async def test_cancelled_twice(manager: lastly.ShutdownManager) -> None:
    """R4, R18: each cancellation is passed on, once."""
    began = asyncio.Event()
    again = asyncio.Event()
    calls: list[str] = []

    async def clings() -> None:
        began.set()
        try:
            await hangs()
        finally:
            again.set()
            try:
                await hangs()
            finally:
                calls.append("twice")

    with manager.together():
        manager.register(clings)
    task = asyncio.ensure_future(manager.aclose())
    await began.wait()
    task.cancel("first")
    await again.wait()
    task.cancel("second")
    with pytest.raises(asyncio.CancelledError, match="first"):
        await task
    assert calls == ["twice"]


@native
async def test_cancelled_before_the_members_begin(manager: lastly.ShutdownManager) -> None:
    """R4, R18: what was called and is not awaited is interrupted; a thread ends by itself."""
    calls: list[str] = []

    def cancels() -> None:
        task.cancel("from outside")

    manager.defer(calls.append, "below")
    with manager.together():
        manager.register(hangs)
        manager.defer(hangs, timeout=5)
        manager.defer(threading.Event().wait, 0, thread=True)
        manager.register(cancels)
    task = asyncio.ensure_future(manager.aclose())
    with pytest.raises(asyncio.CancelledError, match="from outside"):
        await task
    assert calls == ["below"]
    assert [str(o.status) for o in manager.last_report().outcomes] == [
        "ok",
        "ok",
        "interrupted",
        "interrupted",
        "ok",
    ]


@native
async def test_all_tasks_are_cancelled_before_the_members_begin(
    manager: lastly.ShutdownManager,
) -> None:
    """R4, R18: asyncio never begins a task that was cancelled before; the place goes on."""
    calls: list[str] = []

    def cancels_all() -> None:
        for each in asyncio.all_tasks() - tasks:
            each.cancel()

    manager.defer(calls.append, "below")
    with manager.together():
        manager.register(hangs)
        manager.register(hangs)
        manager.defer(asyncio.get_running_loop().call_soon, cancels_all)
    tasks = asyncio.all_tasks()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.ensure_future(manager.aclose())
    assert calls == ["below"]
    statuses = [str(o.status) for o in manager.last_report().outcomes]
    assert statuses == ["ok", "interrupted", "interrupted", "ok"]


@native
async def test_all_tasks_are_cancelled_before_some_members_begin(
    manager: lastly.ShutdownManager,
) -> None:
    """R4, R18: one that has begun gets that cancellation once, whatever becomes of the others."""
    calls: list[str] = []

    async def cancels_all() -> None:
        for each in asyncio.all_tasks() - tasks:
            each.cancel()
        try:
            await hangs()
        finally:
            for _ in range(5):
                await asyncio.sleep(0)
            calls.append("cleaned up")

    with manager.together():
        manager.register(hangs)
        manager.register(cancels_all)
    tasks = asyncio.all_tasks()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.ensure_future(manager.aclose())
    assert calls == ["cleaned up"]
    assert [str(o.status) for o in manager.last_report().outcomes] == ["interrupted"] * 2


@native
@pytest.mark.parametrize("begun", [True, False])
def test_asyncio_run_cancels_all_tasks(anyio_backend: object, begun: bool) -> None:
    """R4, R18: a place in another task than main gets each cancellation once, and ends."""
    manager = lastly.ShutdownManager()
    calls: list[str] = []

    async def cleans_up() -> None:
        try:
            await hangs()
        finally:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            calls.append("cleaned up")

    async def main() -> None:
        with manager.together():
            manager.register(cleans_up)
            manager.register(cleans_up)
        reached = asyncio.Event()
        manager.defer(reached.set)
        main.task = asyncio.ensure_future(manager.aclose())
        if begun:
            await reached.wait()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert len(asyncio.all_tasks()) == 4
        else:
            while len(asyncio.all_tasks()) < 4:
                await asyncio.sleep(0)

    anyio.run(main, backend=anyio_backend[0], backend_options=anyio_backend[1])
    assert manager.pending() == ()
    assert len(manager.last_report().outcomes) == 3
    if begun:
        assert calls == ["cleaned up"] * 2
        assert [str(o.status) for o in manager.last_report().failures] == ["interrupted"] * 2


def test_a_place_that_is_closed_from_outside() -> None:
    """R3, R4: where its loop is closed under it, each member ends, and the rest stays."""
    manager = lastly.ShutdownManager("closed from outside")
    calls: list[str] = []

    async def member() -> None:
        loop.call_soon(loop.stop)
        try:
            await hangs()
        finally:
            calls.append("closed")

    manager.defer(calls.append, "below")
    with manager.together():
        manager.register(member)
        manager.register(member)
    loop = asyncio.new_event_loop()
    task = loop.create_task(manager.aclose())
    loop.run_forever()
    loop.close()
    manager.close()
    del task
    assert calls == ["closed", "closed", "below"]
    assert [str(o.status) for o in manager.last_report().outcomes] == ["ok"]


def test_a_place_that_is_closed_before_it_awaits() -> None:
    """R3, R4: what was called and can not be awaited any more is disposed of."""
    manager = lastly.ShutdownManager("closed from outside")
    calls: list[str] = []

    def stops() -> None:
        loop.stop()

    manager.defer(calls.append, "below")
    with manager.together():
        manager.register(hangs)
        manager.register(stops)
    loop = asyncio.new_event_loop()
    task = loop.create_task(manager.aclose())
    loop.run_forever()
    loop.close()
    manager.close()
    del task
    assert calls == ["below"]


def test_a_place_on_a_stopped_loop_is_taken_over(manager: lastly.ShutdownManager) -> None:
    """R4, R13: where another loop unwinds on, no task of a member's is left on the old one."""
    calls: list[str] = []

    async def member() -> None:
        loop.stop()
        await hangs()

    manager.defer(calls.append, "below")
    with manager.together():
        manager.register(member)
        manager.register(member)
    loop = asyncio.new_event_loop()
    task = loop.create_task(manager.aclose())
    loop.run_forever()
    asyncio.run(manager.aclose())
    assert calls == ["below"]
    with pytest.raises((asyncio.CancelledError, RuntimeError)):
        loop.run_until_complete(task)
    assert asyncio.all_tasks(loop) == set()
    loop.close()


# -- time -------------------------------------------------------------------------------


async def test_each_member_has_its_own_timeout(manager: lastly.ShutdownManager) -> None:
    """R4, R20: on_timeout, sync or async, runs in its place, while the others go on."""
    meeting = Meeting(2)

    async def on_timeout() -> None:
        await meeting("instead")

    release = threading.Event()
    with manager.together():
        manager.defer(meeting, "waits for an on_timeout", timeout=60, name="fine")
        manager.defer(hangs, timeout=0.01, on_timeout=on_timeout, name="async")
        manager.defer(
            hangs, timeout=0.01, on_timeout=lambda: meeting.names.append("sync"), name="sync"
        )
        manager.defer(release.wait, thread=True, timeout=0.01, name="thread")
    try:
        with pytest.raises(lastly.CleanupTimeout):
            await manager.aclose()
    finally:
        release.set()
    assert statuses(manager) == [
        ("thread", "abandoned"),
        ("sync", "timed_out"),
        ("async", "timed_out"),
        ("fine", "ok"),
    ]
    assert sorted(meeting.names) == ["instead", "sync", "waits for an on_timeout"]
    errors = {o.name: o.exception for o in manager.last_report().failures}
    assert errors["async"].name == "async"
    assert any("hangs" in line for line in errors["async"].where)


async def test_the_calls_of_others_are_not_its_time(manager: lastly.ShutdownManager, clock) -> None:
    """R4, R20: a sync member that blocks the loop does not use up an async member's timeout."""
    meeting = Meeting(2)

    async def lets_timers_fire() -> None:
        await anyio.wait_all_tasks_blocked()
        clock.advance(4)
        await meeting()

    with manager.together():
        manager.defer(lambda: clock.advance(10))
        manager.defer(meeting, timeout=5)
        manager.defer(lets_timers_fire)
    await manager.aclose()
    assert manager.last_report().ok


async def test_a_members_limit_is_not_that_of_the_next(manager: lastly.ShutdownManager) -> None:
    """R4, R20: what comes after a place is not taken for cut short, nor a failure for a timeout."""
    manager.configure(errors="group")
    manager.defer(int, "x", name="fails")
    with manager.together():
        manager.defer(hangs, timeout=0.01, name="hangs")
    with pytest.raises(BaseExceptionGroup):
        await manager.aclose()
    assert statuses(manager) == [("hangs", "timed_out"), ("fails", "failed")]


def test_a_place_after_one_that_was_cut_short(manager: lastly.ShutdownManager) -> None:
    """R4, R22: the limit of a member is not that of the place below, when close() runs both."""
    manager.configure(grace=0, errors="log")
    for name in "below", "above":
        with manager.together():
            manager.defer(hangs, name=name)
    manager.close()
    assert statuses(manager) == [("above", "forced"), ("below", "forced")]


def test_members_of_another_loop_after_one_that_was_cut_short(
    manager: lastly.ShutdownManager,
) -> None:
    """R4, R20: nor is it that of the members which close() runs on the next loop."""
    manager.configure(errors="log")

    async def registers() -> None:
        manager.defer(hangs, timeout=0.01, name="at home")

    with contextlib.ExitStack() as stack:
        with manager.together():
            manager.defer(anyio.sleep, 0, name="elsewhere")
            stack.enter_context(asyncio.Runner()).run(registers())
        manager.close()
    assert statuses(manager) == [("at home", "timed_out"), ("elsewhere", "ok")]


async def test_the_grace_is_one_for_all(manager: lastly.ShutdownManager, clock) -> None:
    """R4, R21, R22: members share what a callback may take of it; what comes later is forced."""
    manager.configure(grace=10)
    meeting = Meeting(4)

    async def member() -> None:
        await meeting()
        await hangs()

    async def later() -> None:
        await anyio.sleep(0)
        await hangs()

    async def lets_time_pass() -> None:
        await meeting()
        await anyio.wait_all_tasks_blocked()
        clock.advance(8)
        clock.advance(2)

    manager.defer(later, name="later")
    with manager.together():
        manager.defer(lambda: clock.advance(0))
        manager.defer(member, name="two")
        manager.defer(meeting, name="fine")
        manager.defer(lets_time_pass, name="lets time pass")
        manager.defer(member, name="one")
    with pytest.raises(lastly.CleanupTimeout, match="four fifths|used up"):
        await manager.aclose()
    assert [(n, s) for n, s in statuses(manager) if s != "ok"] == [
        ("one", "timed_out"),
        ("lets time pass", "timed_out"),
        ("two", "timed_out"),
        ("later", "forced"),
    ]


async def test_with_no_grace_left_members_are_forced(
    manager: lastly.ShutdownManager, clock
) -> None:
    """R4, R22: each is called, and cancelled where it first awaits."""
    manager.configure(grace=0)
    calls: list[str] = []

    async def member(name: str) -> None:
        calls.append(f"{name} called")
        try:
            await anyio.sleep(0)
        finally:
            calls.append(f"{name} cancelled")

    with manager.together():
        manager.defer(calls.append, "sync")
        manager.defer(member, "one")
        manager.defer(member, "two")
    with pytest.raises(lastly.CleanupTimeout):
        await manager.aclose()
    assert sorted(calls) == [
        "one called",
        "one cancelled",
        "sync",
        "two called",
        "two cancelled",
    ]
    assert [str(o.status) for o in manager.last_report().outcomes] == ["forced", "forced", "ok"]


async def test_the_report_has_the_times_of_each(manager: lastly.ShutdownManager, clock) -> None:
    """R4, R29: members overlap in the report, and what is below begins when all have ended."""
    meeting = Meeting(2)
    first_done = anyio.Event()

    async def short() -> None:
        await meeting()
        clock.advance(1)
        first_done.set()

    async def long() -> None:
        await meeting()
        await first_done.wait()
        clock.advance(2)

    async def below() -> None:
        clock.advance(4)

    manager.register(below)
    with manager.together():
        manager.register(long)
        manager.register(short)
    manager.defer(clock.advance, 8)
    await manager.aclose()
    report = manager.last_report()
    assert [(o.start, o.duration) for o in report.outcomes] == [(0, 8), (8, 1), (8, 3), (11, 4)]
    assert report.duration == 15
    assert "long" in report.blame()
    assert "<svg" in report.to_svg()


async def test_each_that_waits_has_a_line_in_the_log(
    manager: lastly.ShutdownManager, caplog: pytest.LogCaptureFixture
) -> None:
    """R4, R23: with its number, and the line where that member is."""
    caplog.set_level(logging.WARNING, "lastly")
    manager.configure(slow_after=0.01)
    release = anyio.Event()

    async def waits_here() -> None:
        await release.wait()

    def is_told(name: str, number: str) -> bool:
        return any(
            f"{name} (" in r.message and f", {number}," in r.message and "waits_here" in r.message
            for r in caplog.records
        )

    async def releases() -> None:
        while not (is_told("one", "3 of 5") and is_told("two", "2 of 5")):
            await anyio.sleep(0)
        release.set()

    manager.defer(lambda: None)
    with manager.together():
        manager.defer(releases)
        manager.defer(waits_here, name="one")
        manager.defer(waits_here, name="two")
    manager.defer(lambda: None)
    with anyio.fail_after(30):
        await manager.aclose()
    assert manager.last_report().ok


# -- from outside of a loop -------------------------------------------------------------


@pytest.mark.parametrize("newest", ["thread", "async"])
def test_close_on_a_fresh_loop(manager: lastly.ShutdownManager, newest: str) -> None:
    """R4, R13: what belongs to the interpreter runs side by side on a loop of its own."""
    meeting = ThreadMeeting(4)
    calls: list[str] = []
    variable = contextvars.ContextVar("variable", default="unset")
    variable.set("outside")

    async def sees() -> None:
        calls.append(variable.get())

    with manager.together():
        manager.defer(meeting)
        manager.defer(meeting)
        manager.defer(meeting.sync, thread=True)
        manager.defer(meeting.sync, thread=True)
        manager.defer(lambda: asyncio.run(sees()))
        if newest == "async":
            manager.register(sees)
    manager.close()
    assert manager.last_report().ok
    assert set(calls) == {"outside"}


def test_threads_alone(manager: lastly.ShutdownManager) -> None:
    """R4: threads run side by side where nothing else has to be awaited."""
    meeting = ThreadMeeting(3)
    with manager.together():
        for _ in range(3):
            manager.defer(meeting.sync, thread=True)
    manager.close()
    assert manager.last_report().ok


def test_a_home_that_is_open_and_not_running(manager: lastly.ShutdownManager) -> None:
    """R4, R17: its members run side by side on it, with threads beside them."""
    meeting = ThreadMeeting(3)
    loops: list[object] = []

    async def member() -> None:
        await meeting()
        loops.append(asyncio.get_running_loop())

    async def fresh() -> None:
        loops.append(asyncio.get_running_loop())

    async def registers() -> None:
        manager.register(member)
        manager.register(member)

    with contextlib.closing(asyncio.new_event_loop()) as loop:
        with manager.together():
            manager.register(fresh)
            loop.run_until_complete(registers())
            manager.defer(meeting.sync, thread=True)
        manager.close()
        loop.run_until_complete(loop.shutdown_default_executor())
    assert manager.last_report().ok
    assert loops[:2] == [loop, loop]
    assert loops[2] is not loop


def test_a_home_that_is_closed(manager: lastly.ShutdownManager) -> None:
    """R4, R17: a failure that says so, and the others run."""
    meeting = ThreadMeeting(2)

    async def registers() -> None:
        manager.register(hangs)
        manager.defer(meeting.sync, thread=True)

    loop = asyncio.SelectorEventLoop()
    # A loop of which lastly does not see the end.
    with manager.together():
        manager.register(meeting)
        loop.run_until_complete(registers())
        asyncio.SelectorEventLoop.close(loop)
    with pytest.raises(RuntimeError, match="was closed before"):
        manager.close()
    assert sorted(str(o.status) for o in manager.last_report().outcomes) == ["failed", "ok", "ok"]


@contextlib.contextmanager
def running_elsewhere(backend: tuple[str, dict[str, object]]):
    """Run a loop in another thread; yields how to run a function there, and wait."""
    from anyio.from_thread import start_blocking_portal

    with start_blocking_portal(*backend) as portal:
        yield portal.call


@pytest.mark.parametrize("trigger", ["close", "aclose"])
def test_a_home_that_runs_in_another_thread(
    manager: lastly.ShutdownManager, anyio_backend, trigger: str
) -> None:
    """R4, R17: members run there, side by side with each other and with those from here."""
    meeting = ThreadMeeting(4)
    threads: list[str] = []

    async def there() -> None:
        threads.append(threading.current_thread().name)
        await meeting()

    async def registers() -> None:
        with manager.together():
            manager.register(there)
            manager.register(there)
            await anyio.to_thread.run_sync(manager.register, meeting)
            manager.defer(meeting.sync, thread=True)

    with running_elsewhere(anyio_backend) as call:
        call(registers)
        if trigger == "close":
            manager.close()
        else:
            anyio.run(manager.aclose)
    assert len(threads) == 2
    assert threading.current_thread().name not in threads
    assert manager.last_report().ok


def test_many_members_elsewhere(manager: lastly.ShutdownManager, anyio_backend) -> None:
    """R4, R17: more than anyio has worker threads for run at once there, too."""
    with running_elsewhere(anyio_backend) as call:

        async def registers() -> None:
            meeting = Meeting(50)
            with manager.together():
                for _ in range(50):
                    manager.defer(meeting, timeout=60)

        call(registers)
        manager.close()
    assert manager.last_report().ok


def test_timeouts_of_members_elsewhere(manager: lastly.ShutdownManager, anyio_backend) -> None:
    """R4, R17, R20: their limits and what runs instead are there, too."""
    meeting = ThreadMeeting(2)

    async def registers() -> None:
        with manager.together():
            manager.defer(hangs, timeout=0.01, on_timeout=meeting)
            manager.defer(meeting, timeout=60)

    with running_elsewhere(anyio_backend) as call:
        call(registers)
        with pytest.raises(lastly.CleanupTimeout):
            manager.close()
    assert [str(o.status) for o in manager.last_report().outcomes] == ["ok", "timed_out"]


def test_close_in_a_running_loop_is_refused(manager: lastly.ShutdownManager) -> None:
    """R4, R13: before it runs anything; aclose() then runs the place as it was."""
    calls: list[str] = []
    meeting = Meeting(2)

    async def main() -> None:
        with manager.together():
            manager.defer(calls.append, "sync")
            manager.defer(meeting.__call__)
            manager.defer(meeting.__call__)
        with pytest.raises(RuntimeError, match="aclose"):
            manager.close()
        assert not calls
        assert len(manager.pending()) == 3
        await manager.aclose()

    asyncio.run(main())
    assert calls == ["sync"]


def test_close_in_a_running_loop_that_stops_at_a_place(
    manager: lastly.ShutdownManager,
) -> None:
    """R4, R13: what was called and not awaited stays registered, and still shares a place."""
    calls: list[str] = []

    async def main() -> None:
        meeting = Meeting(2)
        done = threading.Event()
        manager.defer(calls.append, "below")
        with manager.together():
            manager.defer(lambda: meeting("one"))
            manager.defer(calls.append, "sync")
            manager.defer(done.set, thread=True)
            manager.defer(lambda: meeting("two"), name="two")
            gone = manager.defer(lambda: meeting("gone"), name="newest")
        with pytest.raises(RuntimeError, match="still registered") as caught:
            manager.close()
        assert str(caught.value).startswith(f"callback newest ({gone.origin}) returned an")
        assert done.is_set()
        assert calls == ["sync"]
        assert [r.name for r in manager.pending()][1] == "two"
        assert len(manager.pending()) == 4
        assert gone.cancel()
        await manager.aclose()
        assert sorted(meeting.names) == ["one", "two"]

    asyncio.run(main())
    assert calls == ["sync", "below"]


@pytest.mark.parametrize("newest", ["home", "fresh"])
def test_a_thread_waits_for_a_member_of_any_home(
    manager: lastly.ShutdownManager, newest: str
) -> None:
    """R4: whichever loop comes first, no thread of the place holds up the others."""
    meeting = ThreadMeeting(2)
    with contextlib.closing(asyncio.new_event_loop()) as loop:

        async def registers() -> None:
            manager.register(meeting)

        with manager.together():
            manager.defer(meeting.sync, thread=True)
            if newest == "fresh":
                loop.run_until_complete(registers())
            manager.defer(asyncio.sleep, 0)
            if newest == "home":
                loop.run_until_complete(registers())
        manager.close()
        loop.run_until_complete(loop.shutdown_default_executor())
    assert manager.last_report().ok


def test_members_of_two_homes(manager: lastly.ShutdownManager) -> None:
    """R4: each home's members run on it; two loops that nobody runs cannot run at once here."""
    ran: list[object] = []

    async def member() -> None:
        ran.append(asyncio.get_running_loop())

    async def registers() -> None:
        manager.register(member)
        manager.register(member)

    one, two = asyncio.new_event_loop(), asyncio.new_event_loop()
    with contextlib.closing(one), contextlib.closing(two):
        with manager.together():
            one.run_until_complete(registers())
            two.run_until_complete(registers())
        manager.close()
    assert ran == [two, two, one, one]
    assert manager.last_report().ok


@pytest.mark.parametrize("size", [1, 2, 3])
def test_an_idle_home_of_a_place_in_another_loop(
    manager: lastly.ShutdownManager, size: int
) -> None:
    """R4, R17: members whose home nobody runs do not get into each other's way on it."""
    ran: list[object] = []

    async def member() -> None:
        await asyncio.to_thread(threading.Event().wait, 0.02)
        ran.append(asyncio.get_running_loop())

    async def registers() -> None:
        for _ in range(size):
            manager.register(member)

    home = asyncio.new_event_loop()
    with contextlib.closing(home):
        with manager.together():
            home.run_until_complete(registers())
            manager.register(member)
        asyncio.run(manager.aclose())
        home.run_until_complete(home.shutdown_default_executor())
    assert len(ran) == size + 1
    assert ran.count(home) == size
    assert manager.last_report().ok


# -- triggers ---------------------------------------------------------------------------


async def test_scopes(manager: lastly.ShutdownManager) -> None:
    """R4, R18: a place unwinds at the end of `async with`, in tasks of that loop."""
    meeting = Meeting(2)
    with contextlib.suppress(ValueError):
        async with manager:
            with manager.together():
                manager.defer(meeting)
                manager.defer(meeting)
            raise ValueError
    assert manager.last_report().ok


def test_loop_teardown(anyio_backend) -> None:
    """R4, R14, R15: at the end of the loop, of a place runs what belongs to it; the rest stays."""
    manager = lastly.ShutdownManager()
    meeting = ThreadMeeting(3)
    loops: list[bool] = []

    async def member() -> None:
        await meeting()
        loops.append(True)

    def registers_elsewhere() -> None:
        manager.defer(loops.append, False)

    async def main() -> None:
        with manager.together():
            manager.register(member)
            await anyio.to_thread.run_sync(registers_elsewhere)
            manager.register(member)
            manager.defer(meeting.sync, thread=True)
            await anyio.to_thread.run_sync(registers_elsewhere)

    anyio.run(main, backend=anyio_backend[0], backend_options=anyio_backend[1])
    assert loops == [True, True]
    assert str(manager.last_report().reason) == "loop teardown"
    assert len(manager.pending()) == 2
    manager.close()
    assert loops == [True, True, False, False]


def test_an_unwind_that_waits_for_the_loop_that_ends(anyio_backend) -> None:
    """R4, R17: a loop that is torn down waits for another thread's place that runs on it."""
    manager = lastly.ShutdownManager()
    began: Future[None] = Future()
    ended: list[str] = []

    async def member() -> None:
        if not began.done():
            began.set_result(None)
        try:
            await anyio.wait_all_tasks_blocked()
        finally:  # asyncio.run cancels every task of its loop
            ended.append("member")

    async def main() -> None:
        with manager.together():
            manager.register(member)
            manager.register(member)
        closes.start()
        await anyio.to_thread.run_sync(began.result)

    def close() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            manager.close()

    closes = threading.Thread(target=close)
    anyio.run(main, backend=anyio_backend[0], backend_options=anyio_backend[1])
    closes.join()
    assert ended == ["member", "member"]
    assert manager.pending() == ()


def test_interpreter_exit(run_child) -> None:
    """R4, R16: all are called with no loop running, then awaited side by side."""
    ended = run_child(
        """
        import asyncio, lastly
        here = []
        async def old_style():
            print("old style")
        async def member():
            here.append(1)
            while len(here) < 2:
                await asyncio.sleep(0.001)
            print("met", await asyncio.to_thread(str, "in a thread"))
        lastly.defer(print, "below")
        with lastly.together():
            lastly.register(member)
            lastly.register(lambda: asyncio.run(old_style()))
            lastly.register(member)
        """
    )
    assert ended.out == ["old style", *["met in a thread"] * 2, "below"]
    assert not ended.err


@pytest.mark.skipif(not THREADS_START_AT_EXIT, reason="3.12.0 and 3.12.1 start none")
def test_threads_at_interpreter_exit(run_child) -> None:
    """R4, R16: `thread=True` members run beside the async ones there, too."""
    ended = run_child(
        """
        import asyncio, lastly, threading
        barrier = threading.Barrier(3, timeout=30)
        async def member():
            await asyncio.to_thread(barrier.wait)
        with lastly.together():
            lastly.register(member)
            lastly.defer(barrier.wait, thread=True)
            lastly.defer(barrier.wait, thread=True)
        """
    )
    assert not ended.err


@pytest.mark.skipif(not THREADS_START_AT_EXIT, reason="3.12.0 and 3.12.1 start none")
def test_a_hung_thread_of_a_member_does_not_hold_the_exit(run_child) -> None:
    """R4, R16, R20: what a member that was cut short has left in a thread is let go."""
    ended = run_child(
        """
        import asyncio, lastly, threading
        async def hangs():
            await asyncio.to_thread(threading.Event().wait)
        lastly.defer(print, "below")
        with lastly.together():
            lastly.defer(hangs, timeout=0.05)
            lastly.defer(asyncio.sleep, 0)
        """
    )
    assert ended.out == ["below"]
    assert "CleanupTimeout" in ended.err


def test_before_threads(run_child) -> None:
    """R4, R16: of a place, those that ask for it run before the threads are waited for."""
    ended = run_child(
        """
        import asyncio, lastly, threading
        stop = threading.Event()
        here = []
        async def stops():
            here.append(1)
            while len(here) < 2:
                await asyncio.sleep(0.001)
            stop.set()
        threading.Thread(target=lambda: (stop.wait(), print("thread ended"))).start()
        with lastly.together():
            lastly.defer(print, "after")
            lastly.defer(stops, before_threads=True)
            lastly.defer(print, "after, too")
            lastly.defer(stops, before_threads=True)
        """
    )
    assert ended.out == ["thread ended", "after, too", "after"]
    assert not ended.err


def test_the_exit_status_tells_of_a_member(run_child) -> None:
    """R4, R26: run never ends with 0 where a member has failed."""
    ended = run_child(
        """
        import lastly
        async def fails():
            raise ValueError("of a member")
        async def main():
            with lastly.together():
                lastly.register(fails)
                lastly.register(print, "fine")
        lastly.run(main)
        """,
        expect=1,
    )
    assert ended.out == ["fine"]
    assert ended.err.rstrip().endswith("ValueError: of a member")


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_second_signal_forces_all_members(start_child, backend: str) -> None:
    """R4, R22, R25: each member is cancelled at once, also one in a thread; the rest run."""
    child = start_child(
        f"""
        import anyio, lastly, os, threading
        left = 3
        async def hangs():
            await anyio.sleep(0)
            began()
            await anyio.sleep(1000)
        def blocks():
            began()
            threading.Event().wait()
        def began():
            global left
            left -= 1
            if not left:
                print("all began")
        async def main():
            lastly.defer(print, "below")
            with lastly.together():
                lastly.register(hangs)
                lastly.defer(blocks, thread=True)
                lastly.register(hangs)
            print("ready")
            await lastly.wait_requested()
        try:
            lastly.run(main, backend={backend!r})
        finally:
            print(*(o.status for o in lastly.last_report().outcomes))
        """
    )
    child.wait_for("ready")
    child.send(15)
    child.wait_for("all began")
    child.send(15)
    ended = child.wait()
    assert ended.out[-2:] == ["below", "forced abandoned forced ok"], ended.err
    assert ended.status == 1


@pytest.mark.parametrize("run", ["asyncio.run(main())", "trio.run(main)", "main_outside()"])
def test_ctrl_c_during_a_place(run_child, run: str) -> None:
    """R4, R9, R18: it interrupts the members that wait, and the rest run."""
    ended = run_child(
        f"""
        import anyio, asyncio, lastly, signal, trio
        left = 2
        # In code of trio's own, say, where it waits until main may be told.
        @trio.lowlevel.enable_ki_protection
        def ctrl_c():
            signal.raise_signal(signal.SIGINT)
        async def hangs():
            global left
            left -= 1
            try:
                if not left:
                    await anyio.wait_all_tasks_blocked()
                    ctrl_c()
                await anyio.sleep(1000)
            finally:
                print("interrupted")
        def register():
            lastly.defer(print, "below")
            with lastly.together():
                lastly.register(hangs)
                lastly.register(hangs)
        async def main():
            register()
            await lastly.aclose()
        def main_outside():
            register()
            lastly.close()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            {run}
        except KeyboardInterrupt:
            print("KeyboardInterrupt", lastly.last_report().ok)
        """
    )
    assert ended.out == ["interrupted", "interrupted", "below", "KeyboardInterrupt False"], (
        ended.err
    )


def test_what_breaks_out_of_the_loop(manager: lastly.ShutdownManager) -> None:
    """R4, R9: the members go on to their end, the rest runs, and it comes out then."""
    calls: list[str] = []

    async def exits() -> None:
        asyncio.get_running_loop().call_soon(sys.exit, 3)
        await member("exits")

    async def member(name: str) -> None:
        for _ in range(5):
            await asyncio.sleep(0)
        calls.append(name)

    manager.defer(calls.append, "below")
    with manager.together():
        manager.register(exits)
        manager.register(member, "other")
    with pytest.raises(SystemExit, match="3"):
        manager.close()
    assert sorted(calls) == ["below", "exits", "other"]
    assert calls[-1] == "below"


def test_ctrl_c_before_the_members_begin(run_child) -> None:
    """R4, R9: what was called and is not awaited yet is interrupted, on trio, too."""
    ended = run_child(
        """
        import lastly, logging, signal, trio
        logging.disable()
        @trio.lowlevel.enable_ki_protection
        def ctrl_c():
            signal.raise_signal(signal.SIGINT)
        async def main():
            with lastly.together():
                lastly.register(trio.sleep_forever)
                lastly.register(trio.sleep_forever)
                lastly.register(ctrl_c)
            await lastly.aclose()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for _ in range(40):  # trio begins its tasks in the one order or in the other
            try:
                trio.run(main)
            except KeyboardInterrupt:
                print(*(o.status for o in lastly.last_report().outcomes))
        """
    )
    assert ended.out == ["ok interrupted interrupted"] * 40


def test_ctrl_c_while_members_are_called(run_child) -> None:
    """R4, R9: a Ctrl-C that hits lastly's own code between two calls loses neither of them."""
    ended = run_child(
        """
        import lastly, lastly._place
        class Interrupts(lastly._place._Member):
            def go_on(self):
                super().go_on()
                if self._registration.name == "interrupted":
                    raise KeyboardInterrupt
        lastly._place._Member = Interrupts
        lastly.defer(print, "below")
        with lastly.together():
            lastly.defer(print, "member")
            lastly.defer(print, "first", name="interrupted")
        try:
            lastly.close()
        except KeyboardInterrupt:
            print("KeyboardInterrupt")
        """
    )
    assert ended.out == ["first", "member", "below", "KeyboardInterrupt"]


def test_a_forked_child_keeps_the_place(run_child) -> None:
    """R4, R19: what belongs to the interpreter shares its place in the child, too."""
    ended = run_child(
        """
        import asyncio, lastly, os, sys
        here = []
        async def member():
            here.append(1)
            while len(here) < 2:
                await asyncio.sleep(0.001)
            print("met", flush=True)
        with lastly.together():
            lastly.register(member)
            lastly.register(member)
        if os.fork():
            os.wait()
        """
    )
    assert ended.out == ["met"] * 4


async def test_many_members(manager: lastly.ShutdownManager) -> None:
    """R4: a thousand members run at once."""
    meeting = Meeting(1000)
    with manager.together():
        for _ in range(1000):
            manager.defer(meeting)
    await manager.aclose()
    assert len(manager.last_report().outcomes) == 1000
    assert manager.last_report().ok


def test_threads_that_register_meanwhile_share_no_place(
    manager: lastly.ShutdownManager,
) -> None:
    """R3, R4: what other threads register while the block is open runs once, alone."""
    calls: list[int] = []
    start = threading.Barrier(4)

    def registers() -> None:
        start.wait()
        for n in range(200):
            manager.defer(calls.append, n)

    threads = [threading.Thread(target=registers) for _ in range(3)]
    for thread in threads:
        thread.start()
    with manager.together():
        start.wait()
        members = [manager.defer(calls.append, n) for n in range(200)]
    for thread in threads:
        thread.join()
    assert sum(r._options is not None for r in manager.pending()) == len(members)
    manager.close()
    assert sorted(calls) == sorted([*range(200)] * 4)
