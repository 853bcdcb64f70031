"""Programs that make it hard: Ctrl-C, stopped loops, frozen exceptions, nested teardowns."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import logging
import signal
import sys
import threading
import time
import traceback
import types
import warnings
import weakref
from concurrent.futures import Future

import anyio
import anyio.from_thread
import anyio.lowlevel
import pytest

import lastly
from lastly import _interpreter, _threads


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    number: int


def fails(exception: BaseException) -> None:
    raise exception


# -- exits that make something of a cancellation --------------------------------------


@contextlib.asynccontextmanager
async def anyio_tasks():
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_crash)
        yield


@contextlib.asynccontextmanager
async def asyncio_tasks():
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_crash())
        yield


@contextlib.asynccontextmanager
async def anyio_timeout():
    with anyio.fail_after(0):
        yield


@contextlib.asynccontextmanager
async def asyncio_timeout():
    async with asyncio.timeout(0):
        yield


async def _crash() -> None:
    raise ValueError("child")


@pytest.mark.parametrize("form", [anyio_tasks, anyio_timeout, asyncio_tasks, asyncio_timeout])
async def test_an_exit_turns_its_own_cancellation_into_the_real_error(
    manager: lastly.ShutdownManager, form, anyio_backend
) -> None:
    """R8: a crashed child or a timeout comes out as itself, as with `async with`."""
    if form in (asyncio_tasks, asyncio_timeout) and anyio_backend[0] == "trio":
        return  # there is no asyncio in a trio run
    with pytest.raises(TimeoutError if "timeout" in form.__name__ else ExceptionGroup):
        async with manager:
            await manager.enter_async_context(form())
            await anyio.sleep_forever()
    await anyio.lowlevel.checkpoint()  # the cancellation is used up
    assert manager.last_report().failures


async def test_a_child_that_crashes_during_the_unwind(manager: lastly.ShutdownManager) -> None:
    """R8, R18: the exit that its crash interrupts and the one that reports it: the crash wins."""
    crash = anyio.Event()

    async def child() -> None:
        await crash.wait()
        raise ValueError("child")

    class Hangs:
        async def __aenter__(self) -> None: ...

        async def __aexit__(self, *exc: object) -> None:
            crash.set()
            await anyio.sleep_forever()

    with pytest.raises(ExceptionGroup):
        async with manager:
            tasks = await manager.enter_async_context(anyio.create_task_group())
            tasks.start_soon(child)
            await manager.enter_async_context(Hangs())
    assert [o.status for o in manager.last_report().outcomes] == ["interrupted", "failed"]


async def test_an_exit_that_fails_does_not_replace_a_cancellation_from_outside(
    manager: lastly.ShutdownManager, anyio_backend
) -> None:
    """R12: a cancellation that no exit took for its own goes on, whatever an exit raises."""

    class Fails:
        async def __aenter__(self) -> None: ...

        async def __aexit__(self, *exc: object) -> None:
            raise ValueError("exit")

    # On trio each exit may take a cancellation for its own; the scope cancels again.
    on_trio = anyio_backend[0] == "trio"
    with anyio.CancelScope() as scope:
        with contextlib.suppress(ValueError) if on_trio else contextlib.nullcontext():
            async with manager:
                await manager.enter_async_context(Fails())
                scope.cancel()
                await anyio.sleep_forever()
        await anyio.sleep_forever()
    assert scope.cancelled_caught


def test_an_exit_that_raises_the_cancellation_anew(manager: lastly.ShutdownManager) -> None:
    """R8, R12: a fresh copy of what the exit was told is no failure, and the first goes on."""

    class Anew:
        async def __aenter__(self) -> None: ...

        async def __aexit__(self, *exc: object) -> None:
            raise asyncio.CancelledError("anew")

    async def main() -> None:
        with pytest.raises(asyncio.CancelledError, match="first"):
            async with manager:
                await manager.enter_async_context(Anew())
                raise asyncio.CancelledError("first")

    asyncio.run(main())
    assert manager.last_report().ok


@pytest.mark.parametrize("errors", ["last", "log"])
def test_a_trio_nursery_under_a_cancelled_scope(
    manager: lastly.ShutdownManager, errors: str
) -> None:
    """R8, R18: a group of nothing but trio's Cancelled is that cancellation, and goes on."""
    trio = pytest.importorskip("trio")
    manager.configure(errors=errors)
    after: list[str] = []

    async def main() -> None:
        with trio.CancelScope() as scope:
            async with manager:
                nursery = await manager.enter_async_context(trio.open_nursery())
                nursery.start_soon(trio.sleep_forever)
                scope.cancel()
            after.append("the cancellation was swallowed")
        assert scope.cancelled_caught

    trio.run(main)
    assert after == []


async def test_a_task_group_entered_and_left_during_the_unwind(
    manager: lastly.ShutdownManager,
) -> None:
    """R2, R8: what is entered under the shield leaves under it; what is older, outside of it."""
    calls: list[str] = []

    async def enters() -> None:
        tasks = await manager.enter_async_context(anyio.create_task_group())
        tasks.start_soon(anyio.sleep, 0)
        calls.append("entered")

    async with manager:
        manager.defer(calls.append, "bottom")
        await manager.enter_async_context(anyio.create_task_group())
        manager.register(enters)
    assert calls == ["entered", "bottom"]
    assert manager.last_report().ok


# -- cancellations --------------------------------------------------------------------


def test_a_cancellation_that_was_used_up_before(manager: lastly.ShutdownManager) -> None:
    """R18: after a task has caught its cancellation, a callback's CancelledError is its own."""

    async def stop_worker() -> None:
        worker = asyncio.ensure_future(asyncio.sleep(60))
        await asyncio.sleep(0)
        worker.cancel()
        await worker

    async def ends_when_cancelled() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        manager.defer(fails, ValueError("real failure"))
        manager.register(stop_worker)
        await manager.aclose()

    async def main() -> None:
        task = asyncio.ensure_future(ends_when_cancelled())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(ValueError, match="real failure"):
            await task

    asyncio.run(main())
    assert [o.status for o in manager.last_report().outcomes] == ["failed", "failed"]


def test_two_cancellations_in_one_unwind(manager: lastly.ShutdownManager) -> None:
    """R18: each request interrupts one callback, and none is taken for a failure."""

    async def cancels_itself() -> None:
        asyncio.current_task().cancel()
        await asyncio.sleep(0)

    async def main() -> None:
        manager.register(cancels_itself)
        manager.register(cancels_itself)
        with pytest.raises(asyncio.CancelledError):
            await manager.aclose()
        assert asyncio.current_task().uncancel() == 1
        assert asyncio.current_task().uncancel() == 0

    asyncio.run(main())
    assert [o.status for o in manager.last_report().outcomes] == ["interrupted"] * 2


def test_a_cancellation_in_the_teardown_comes_out(manager: lastly.ShutdownManager) -> None:
    """R14, R18: nothing else being on its way out, the cancellation goes on out of asyncio.run."""
    calls: list[str] = []

    async def hangs() -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(lambda: [task.cancel() for task in asyncio.all_tasks(loop)])
        await asyncio.Event().wait()

    async def main() -> None:
        manager.defer(calls.append, "bottom")
        manager.register(hangs)

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())
    assert calls == ["bottom"]


def test_a_cancellation_in_the_teardown_keeps_the_exit_status(run_child) -> None:
    """R12, R14: whoever cancels all tasks in the teardown does not replace sys.exit(7)."""
    run_child(
        """
        import asyncio, lastly, sys

        async def main():
            loop = asyncio.get_running_loop()
            lastly.defer(print, "bottom")

            @lastly.register
            async def hangs():
                loop.call_soon(lambda: [task.cancel() for task in asyncio.all_tasks(loop)])
                await asyncio.Event().wait()

            sys.exit(7)

        asyncio.run(main())
        """,
        expect=7,
    )


def test_what_main_handled_and_raised_again_is_on_its_way_out(run_child) -> None:
    """R12, R14: registering inside `except SystemExit` does not make it somebody else's."""
    run_child(
        """
        import asyncio, lastly, sys

        def fails():
            raise ValueError("cleanup")

        async def main():
            try:
                sys.exit(7)
            except SystemExit:
                lastly.register(fails)
                raise

        asyncio.run(main())
        """,
        expect=7,
    )


# -- exceptions that resist -----------------------------------------------------------


def test_frozen_exceptions(manager: lastly.ShutdownManager) -> None:
    """R9, R11: exceptions that take neither note nor context come out, and wedge nothing."""
    manager.defer(fails, Frozen(1))
    with pytest.raises(Frozen) as caught:
        manager.close()
    assert caught.value == Frozen(1)
    manager.defer(fails, Frozen(2))
    manager.defer(fails, Frozen(3))
    with pytest.raises(Frozen) as caught:
        manager.close()
    assert caught.value == Frozen(2)
    with pytest.raises(Frozen) as caught, manager:
        manager.defer(asyncio.run, _frozen())
        raise ValueError("body")
    assert caught.value == Frozen(4)


async def _frozen() -> None:
    raise Frozen(4)


def test_frozen_exceptions_of_async_callbacks(manager: lastly.ShutdownManager) -> None:
    """R11: the same object comes out of close(), too, where another loop has run the callback."""
    with asyncio.Runner() as runner:
        runner.run(_registers(manager))
        for _ in range(2):
            with pytest.raises(Frozen) as caught:
                manager.close()
            assert caught.value is manager.last_report().failures[-1].exception
            manager.register(_frozen)
        manager.unregister(_frozen)


async def _registers(manager: lastly.ShutdownManager) -> None:
    manager.register(_frozen)


def test_books_that_cannot_be_closed_end_the_unwind(
    manager: lastly.ShutdownManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R13: whatever goes wrong at the end of an unwind, the next one does not wait for it."""
    monkeypatch.setattr(lastly._books, "Report", lambda *_: 1 / 0)
    manager.defer(int)
    with pytest.raises(ZeroDivisionError):
        manager.close()
    monkeypatch.undo()
    manager.defer(int)
    manager.close()
    assert manager.last_report().ok


def test_a_chain_that_ends_in_the_error_makes_no_cycle(manager: lastly.ShutdownManager) -> None:
    """R12: the block's exception came of what a callback in another thread raises again."""
    cause, body = KeyError("cause"), ValueError("body")
    body.__context__ = cause
    ready, stop = threading.Event(), threading.Event()

    async def lives() -> None:
        manager.defer(fails, cause)
        ready.set()
        await asyncio.to_thread(stop.wait, 60)

    thread = threading.Thread(target=asyncio.run, args=(lives(),))
    thread.start()
    assert ready.wait(60)
    with pytest.raises(KeyError), manager:
        raise body
    stop.set()
    thread.join()
    seen: list[BaseException] = []
    link: BaseException | None = cause
    while link is not None:
        assert link not in seen
        seen.append(link)
        link = link.__context__


# -- Ctrl-C ---------------------------------------------------------------------------


@pytest.mark.parametrize("is_member", [False, True])
def test_ctrl_c_in_a_log_handler(manager: lastly.ShutdownManager, is_member: bool) -> None:
    """R4, R9, R10: it is nobody's failure; the rest run, and then it goes on."""
    calls: list[str] = []

    class Interrupted(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            logging.getLogger("lastly").removeHandler(self)
            raise KeyboardInterrupt

    manager.defer(calls.append, "bottom")
    with manager.together() if is_member else contextlib.nullcontext():
        manager.defer(fails, ValueError("one"))
    logging.getLogger("lastly").addHandler(Interrupted())
    with pytest.raises(KeyboardInterrupt):
        manager.close()
    assert calls == ["bottom"]


def test_ctrl_c_when_the_turn_was_just_taken(manager: lastly.ShutdownManager) -> None:
    """R13: an unwind that is broken off before it began is not waited for."""

    class Interrupting(dict):
        def setdefault(self, *args: object) -> object:
            super().setdefault(*args)
            manager._current = {None: self[None]}
            raise KeyboardInterrupt

    calls: list[str] = []
    manager.defer(calls.append, "callback")
    manager._current = Interrupting()
    with pytest.raises(KeyboardInterrupt):
        manager.close()
    manager.close()
    assert calls == ["callback"]


CTRL_C_INSIDE = """
import asyncio, sys, threading
import lastly
from lastly._unwind import in_progress, inside

awaits = sys.argv[1] == "aclose"

def interrupted(moment):
    "Close a manager, with a Ctrl-C at the so-manieth call or line of its module; if there is one."
    manager, ran, seen = lastly.ShutdownManager(slow_after=None), [], 0
    for name in "ab":
        manager.defer(ran.append, name)

    def trace(frame, event, arg):
        nonlocal seen
        if frame.f_code.co_filename != lastly._manager.__file__ or event not in ("call", "line"):
            return None if event == "call" else trace
        seen += 1
        if seen == moment:
            sys.settrace(None)
            raise KeyboardInterrupt
        return trace

    async def aclose():
        sys.settrace(trace)
        await manager.aclose()

    try:
        if awaits:
            asyncio.run(aclose())
        else:
            sys.settrace(trace)
            manager.close()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(None)
    manager.defer(ran.append, "later")
    closer = threading.Thread(target=manager.close, daemon=True)
    closer.start()
    closer.join(20)
    if closer.is_alive() or in_progress or inside.get() or sorted(ran) != ["a", "b", "later"]:
        print("at", moment, "of", seen, ran, closer.is_alive(), in_progress, inside.get(), flush=True)
    return seen >= moment

moment = 1
while interrupted(moment):
    moment += 1
print("at none of", moment > 50)
"""


@pytest.mark.parametrize("verb", ["close", "aclose"])
def test_ctrl_c_at_any_line_of_the_manager(run_child, verb: str) -> None:
    """R3, R13: the manager can be closed again, and what has not run runs then."""
    assert run_child(CTRL_C_INSIDE, verb).out == ["at none of True"]


CTRL_C = """
import asyncio, os, signal, sys
import lastly

lastly.defer(print, "module level")

def ctrl_c():
    asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGINT)

async def main():
    lastly.defer(print, "bottom")

    @lastly.register
    async def hangs():
        ctrl_c()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            print("hangs was cancelled")
            if "twice" in sys.argv:
                ctrl_c()
                await asyncio.Event().wait()
            raise
"""


@pytest.mark.parametrize("closing", ["asyncio.run(main())", "loop.close()"])
@pytest.mark.parametrize("args", [(), ("twice",)])
def test_ctrl_c_while_a_callback_hangs_in_the_teardown(run_child, closing: str, args) -> None:
    """R9, R14, R16: once ends the callback, twice the teardown; the interpreter's own still run."""
    source = CTRL_C
    if closing == "loop.close()":
        source += "\nloop = asyncio.new_event_loop()\nloop.run_until_complete(main())\n"
    ended = run_child(source + "\n" + closing, *args, expect=-signal.SIGINT)
    expected = ["hangs was cancelled", *([] if args else ["bottom"]), "module level"]
    assert [line for line in ended.out if line != "bottom" or not args] == expected


def test_ctrl_c_while_a_callback_hangs_in_close(run_child) -> None:
    """R1, R9: once cancels the callback; twice, and it is still not overtaken by the next."""
    ended = run_child(
        """
        import asyncio, os, signal, lastly

        @lastly.register
        async def bottom():
            print("bottom")

        @lastly.register
        async def stubborn():
            loop = asyncio.get_running_loop()
            loop.call_soon(os.kill, os.getpid(), signal.SIGINT)
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                loop.call_soon(os.kill, os.getpid(), signal.SIGINT)
                loop.call_later(0.01, print, "still here")
                await asyncio.sleep(0.02)
                print("stubborn ends")

        lastly.close()
        """,
        expect=-signal.SIGINT,
    )
    assert ended.out == ["still here", "stubborn ends", "bottom"]


def test_a_subtasks_exit_does_not_let_the_next_overtake(manager: lastly.ShutdownManager) -> None:
    """R1, R9: SystemExit in a task of a callback's breaks out of the loop, not of the order."""
    calls: list[str] = []

    async def exits() -> None:
        raise SystemExit(3)

    async def callback() -> None:
        task = asyncio.ensure_future(exits())
        with contextlib.suppress(SystemExit):
            await task
        await asyncio.sleep(0)
        calls.append("callback ends")

    async def bottom() -> None:
        calls.append("bottom")

    manager.register(bottom)
    manager.register(callback)
    with pytest.raises(SystemExit):
        manager.close()
    assert calls == ["callback ends", "bottom"]


def test_the_exit_hook_tries_again_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """R16: what Ctrl-C has broken off gets another chance, a bounded number of times."""
    monkeypatch.setattr(_interpreter, "_managers", {})
    monkeypatch.setattr(_interpreter, "_over", [])  # this process goes on
    calls: list[str] = []

    class Never(lastly.ShutdownManager):
        def _exit_interpreter(self) -> None:
            calls.append(self.name)
            raise KeyboardInterrupt

    class Recovers(Never):
        def _exit_interpreter(self) -> None:
            if self.name in calls:
                _interpreter.forget(self)
            super()._exit_interpreter()

    _interpreter.hold(Never("never"))
    _interpreter.hold(Recovers("recovers"))
    with pytest.raises(KeyboardInterrupt):
        _interpreter.unwind_at_exit()
    assert calls == ["recovers"] * 2 + ["never"] * 3


# -- loops that stop under an unwind --------------------------------------------------


def test_an_unwind_on_a_loop_that_stopped_is_ended_at_exit(run_child) -> None:
    """R13, R16: the exit hook runs a stopped loop on instead of waiting for ever."""
    ended = run_child(
        """
        import asyncio, lastly

        lastly.defer(print, "module level")
        loop = asyncio.new_event_loop()

        async def main():
            @lastly.register
            async def slow():
                await asyncio.sleep(0.01)
                print("slow")

        loop.run_until_complete(main())
        task = loop.create_task(lastly.aclose())
        loop.run_until_complete(asyncio.sleep(0))
        print("main")
        """
    )
    assert ended.out == ["main", "slow", "module level"]


def test_an_unwind_on_a_stopped_loop_is_taken_over(manager: lastly.ShutdownManager) -> None:
    """R13: where another loop runs, or the old one is closed, what it awaited is interrupted."""
    calls: list[str] = []

    async def hangs() -> None:
        await asyncio.Event().wait()

    async def register() -> None:
        manager.defer(calls.append, "bottom")
        manager.register(hangs)
        task = asyncio.ensure_future(manager.aclose())
        await asyncio.sleep(0)
        tasks.append(task)

    tasks: list[asyncio.Task[None]] = []
    loop = asyncio.new_event_loop()
    loop.run_until_complete(register())
    asyncio.run(manager.aclose())
    assert calls == ["bottom"]
    with pytest.raises((asyncio.CancelledError, RuntimeError)):
        loop.run_until_complete(tasks[0])
    loop.close()


@pytest.mark.parametrize("how", ["close", "aclose"])
@pytest.mark.parametrize("began_here", [True, False])
def test_an_unwind_whose_loop_runs_on_in_another_thread(
    manager: lastly.ShutdownManager, began_here: bool, how: str
) -> None:
    """R13: it is waited for, whether the thread that it began in has ended or is one's own."""
    calls: list[str] = []
    go_on = asyncio.Event()
    here = threading.get_ident()

    async def callback() -> None:
        await go_on.wait()
        calls.append("callback")

    async def begin() -> None:
        manager.defer(calls.append, "bottom")
        manager.register(callback)
        tasks.append(asyncio.ensure_future(manager.aclose()))
        await asyncio.sleep(0)

    async def aclose() -> None:
        closes = asyncio.ensure_future(manager.aclose())
        await asyncio.sleep(0)
        loop.call_soon_threadsafe(go_on.set)
        await closes

    def go_on_when_it_waits() -> None:
        def waits() -> bool:
            stack = traceback.walk_stack(sys._current_frames()[here])
            return any(frame.f_code is Future.result.__code__ for frame, _ in stack)

        while not waits():
            time.sleep(0.001)
        loop.call_soon_threadsafe(go_on.set)

    tasks: list[asyncio.Task[None]] = []
    loop = asyncio.new_event_loop()
    first = threading.Thread(target=loop.run_until_complete, args=(begin(),))
    if began_here:
        first.run()
    else:
        first.start()
        first.join()
    second = threading.Thread(target=loop.run_forever, daemon=True)
    second.start()
    asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(60)
    if how == "aclose":
        asyncio.run(aclose())
    else:
        threading.Thread(target=go_on_when_it_waits, daemon=True).start()
        manager.close()
    assert calls == ["callback", "bottom"]
    loop.call_soon_threadsafe(loop.stop)
    second.join()
    loop.close()


def test_a_callback_that_stops_the_loop_that_is_closed(manager: lastly.ShutdownManager) -> None:
    """R14: loop.stop() in the teardown does not leave the rest behind."""
    calls: list[str] = []
    loop = asyncio.new_event_loop()

    async def stops() -> None:
        loop.stop()
        await asyncio.sleep(0)
        calls.append("stops")

    async def register() -> None:
        manager.defer(calls.append, "bottom")
        manager.register(stops)

    loop.run_until_complete(register())
    with pytest.raises(RuntimeError, match="stopped before"):
        loop.close()
    assert calls == ["stops", "bottom"]
    assert loop.is_closed()


def test_a_waiter_whose_loop_has_gone(
    manager: lastly.ShutdownManager, caplog: pytest.LogCaptureFixture
) -> None:
    """R13: who waited for an unwind and is no more is not woken, and nobody complains."""
    began, go_on = threading.Event(), threading.Event()

    def callback() -> None:
        began.set()
        assert go_on.wait(60)

    async def waits() -> None:
        task = asyncio.ensure_future(manager.aclose())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    manager.register(callback)
    thread = threading.Thread(target=manager.close)
    thread.start()
    assert began.wait(60)
    asyncio.run(waits())
    go_on.set()
    thread.join()
    assert caplog.records == []


# -- teardowns inside an unwind -------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "aclose"])
def test_a_callback_that_runs_a_loop_of_its_own(manager: lastly.ShutdownManager, how: str) -> None:
    """R14, R16: what `lambda: asyncio.run(...)` registers is unwound when that loop ends."""
    calls: list[str] = []

    async def inner() -> None:
        @manager.register
        async def close_x() -> None:
            calls.append("close_x")

    def callback() -> None:
        asyncio.run(inner())
        calls.append("callback")

    manager.defer(calls.append, "bottom")
    if how == "close":
        manager.register(callback)
        manager.close()
    else:
        manager.register(lambda: asyncio.to_thread(callback))
        asyncio.run(manager.aclose())
    assert calls == ["close_x", "callback", "bottom"]


def test_a_callback_that_closes_another_loop(manager: lastly.ShutdownManager) -> None:
    """R13, R14: the other loop's teardown, in a thread of its own, is inside this unwind too."""
    calls: list[str] = []
    inner = asyncio.new_event_loop()

    async def register(*raises: BaseException) -> None:
        manager.defer(calls.append, "of the inner loop")
        for exception in raises:
            manager.defer(fails, exception)

    async def closes() -> None:
        inner.close()
        calls.append("closed")

    inner.run_until_complete(register())
    manager.register(closes)
    asyncio.run(manager.aclose())
    assert sorted(calls) == ["closed", "of the inner loop"]
    inner = asyncio.new_event_loop()
    inner.run_until_complete(register(ValueError("inner")))

    async def main() -> None:
        inner.call_soon(fails, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            inner.close()

    asyncio.run(main())
    manager.close()


def test_what_is_registered_while_the_fresh_loop_ends(manager: lastly.ShutdownManager) -> None:
    """R2: a task left on close()'s fresh loop registers in its `finally`: that is run, too."""
    calls: list[str] = []
    tasks: list[asyncio.Task[None]] = []

    async def left_behind() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            manager.register(late)

    async def late() -> None:
        calls.append("late")

    async def callback() -> None:
        tasks.append(asyncio.ensure_future(left_behind()))
        await asyncio.sleep(0)

    manager.register(callback)
    manager.close()
    assert calls == ["late"]


def test_the_programs_own_event_loop_stays_set(manager: lastly.ShutdownManager) -> None:
    """R13: close() makes a loop for its callbacks, and leaves the program's current one alone."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        manager.defer(asyncio.sleep, 0)
        manager.close()
        assert asyncio.get_event_loop() is loop
    finally:
        asyncio.set_event_loop(None)
        loop.close()


# -- letting go -----------------------------------------------------------------------


def test_a_loop_lets_go_of_managers_that_are_done() -> None:
    """R14: a server that makes a manager for each request keeps none of them."""
    gone: list[weakref.ref[lastly.ShutdownManager]] = []

    async def main() -> None:
        for _ in range(3):
            async with lastly.ShutdownManager() as manager:
                manager.defer(int)
            gone.append(weakref.ref(manager))
        del manager
        gc.collect()
        assert [ref() for ref in gone] == [None] * 3

    asyncio.run(main())


def test_a_manager_keeps_no_trio_run_that_is_over(manager: lastly.ShutdownManager) -> None:
    """R18: what a trio run has left to do holds on to it, the manager itself does not."""
    trio = pytest.importorskip("trio")
    runs: list[weakref.ref[object]] = []

    async def main() -> None:
        runs.append(weakref.ref(trio.lowlevel.current_trio_token()))
        assert manager.defer(int).cancel()

    kept = manager.defer(int)
    for _ in range(3):
        trio.run(main)
    gc.collect()
    assert [run() for run in runs] == [None] * 3
    assert kept.cancel()


def test_closing_leaves_nothing_of_itself(manager: lastly.ShutdownManager) -> None:
    """R13: a process that closes again and again keeps no trace of it but the last report."""

    def left() -> int:
        gc.collect()
        return sum(type(thing).__name__ == "Unwind" for thing in gc.get_objects())

    async def main() -> None:
        manager.defer(int)
        await manager.aclose()

    before = left()
    for _ in range(3):
        manager.defer(int)
        manager.close()
        asyncio.run(main())
    assert left() == before


def test_a_cancelled_handle_lets_go_of_its_callback(manager: lastly.ShutdownManager) -> None:
    """R7: keeping the handle of what was cancelled does not keep what it would have closed."""

    class Pool:
        def close(self) -> None: ...

    pool = Pool()
    gone = weakref.ref(pool)
    handle = manager.defer(pool.close)
    other = manager.defer(id, pool)
    assert handle.cancel()
    manager.close()
    del pool
    assert gone() is None
    assert handle.name.endswith("Pool.close")
    assert other.status == "ok"


# -- what is not ours to close --------------------------------------------------------


def test_refusing_an_awaitable_does_not_close_it(manager: lastly.ShutdownManager) -> None:
    """R32: a connection that can be awaited and closed is refused, and stays open."""
    closed: list[bool] = []

    class Connection:
        def __await__(self):
            yield

        def close(self) -> None:
            closed.append(True)

    with pytest.raises(TypeError, match="Connection"):
        manager.register(Connection())
    assert closed == []


async def test_a_postponed_callback_is_still_the_users(manager: lastly.ShutdownManager) -> None:
    """R6, R13: unregister finds a callback whose awaitable waits for aclose()."""

    async def close_pool() -> None: ...

    def callback() -> object:
        return close_pool()

    manager.register(callback)
    with pytest.raises(RuntimeError, match="returned an awaitable"):
        manager.close()
    assert len({registration._func for registration in manager.pending()}) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        manager.unregister(callback)
        gc.collect()
    assert manager.pending() == ()


def test_a_context_manager_with_odd_attributes(manager: lastly.ShutdownManager) -> None:
    """R8: naming the exit runs none of the context manager's code: nothing can leak by it."""

    class Odd:
        @property
        def gen(self) -> object:
            raise OSError

        def __enter__(self) -> None: ...

        def __exit__(self, *exc: object) -> None: ...

    manager.enter_context(Odd())
    assert manager.pending()[0].name.endswith("Odd")
    manager.close()


def test_bound_methods_of_other_things_than_functions(manager: lastly.ShutdownManager) -> None:
    """R5, R32: a method object over something without code is a callable like any other."""
    calls: list[object] = []
    manager.register(types.MethodType(calls.append, "bound"))
    manager.close()
    assert calls == ["bound"]


# -- the executor at exit -------------------------------------------------------------


def test_work_left_to_the_executor_at_exit_is_done(run_child) -> None:
    """R16: the fresh loop waits for its threads, and drops what was cancelled, without noise."""
    ended = run_child(
        """
        import asyncio, lastly, threading

        gate = threading.Event()

        @lastly.register
        async def close():
            loop = asyncio.get_running_loop()
            loop.run_in_executor(None, lambda: (gate.wait(1), print("done")))
            future = loop.run_in_executor(None, gate.wait, 0)
            future.cancel()
            gate.set()
        """
    )
    assert (ended.out, ended.err) == (["done"], "")


def test_a_thread_of_the_executor_that_needs_the_loop(run_child) -> None:
    """R16: the fresh loop runs on while it waits for its threads at exit."""
    ended = run_child(
        """
        import asyncio, lastly, sys, threading

        tasks_were_cancelled = threading.Event()

        async def waits():
            try:
                await asyncio.Event().wait()
            finally:
                tasks_were_cancelled.set()

        async def ping():
            print("ping")

        def work(loop):
            tasks_were_cancelled.wait()
            asyncio.run_coroutine_threadsafe(ping(), loop).result()

        @lastly.register
        async def close():
            loop = asyncio.get_running_loop()
            loop.kept = loop.create_task(waits())
            await asyncio.sleep(0)
            if (3, 12) <= sys.version_info < (3, 12, 2):
                print("ping")  # no thread can start, and work would block the loop
            else:
                loop.run_in_executor(None, work, loop)
        """
    )
    assert (ended.out, ended.err) == (["ping"], "")


def test_a_cancelled_future_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """R16: work that was cancelled before its thread came to it is left out."""
    threads: list[threading.Thread] = []

    class Later(threading.Thread):
        """A thread that the system is slow to start."""

        def start(self) -> None:
            threads.append(self)

    calls: list[str] = []
    executor = _threads.plain_threads()
    monkeypatch.setattr(_threads, "Thread", Later)
    kept, dropped = (executor.submit(calls.append, name) for name in ("kept", "dropped"))
    assert set(executor.running) == {kept, dropped}
    assert dropped.cancel()
    for thread in threads:
        thread.run()
    assert executor.running == {}
    assert calls == ["kept"]


# -- loops of other threads -----------------------------------------------------------


def test_a_home_that_ends_while_its_callback_runs(manager: lastly.ShutdownManager) -> None:
    """R13, R14: a loop's teardown waits for its callback that another thread's unwind runs."""
    ready, began = threading.Event(), threading.Event()
    calls: list[str] = []

    async def callback() -> None:
        began.set()
        for _ in range(10):
            await asyncio.sleep(0)
        calls.append("callback")

    async def lives() -> None:
        manager.register(callback)
        ready.set()
        while not began.is_set():
            await asyncio.sleep(0)

    def run() -> None:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(lives())
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    assert ready.wait(60)
    manager.close()
    thread.join()
    assert calls == ["callback"]
    assert manager.last_report().ok


@pytest.mark.parametrize("closed", [False, True])
def test_a_home_that_took_its_last_step(manager: lastly.ShutdownManager, closed: bool) -> None:
    """R17: a loop that only seemed to run is run on; one that was closed is a failure."""
    calls: list[str] = []

    class Seems(asyncio.SelectorEventLoop):
        seems = 0

        def is_running(self) -> bool:
            self.seems -= 1
            return self.seems >= 0 or super().is_running()

        def call_soon_threadsafe(self, *args, **kwargs):
            handle = super().call_soon_threadsafe(*args, **kwargs)
            if closed:
                asyncio.SelectorEventLoop.close(self)
            return handle

    async def callback() -> None:
        calls.append("callback")

    async def register() -> None:
        manager.register(callback)

    loop = Seems()
    loop.run_until_complete(register())
    loop.seems = 1
    with pytest.raises(RuntimeError, match="was closed") if closed else contextlib.nullcontext():
        manager.close()
    assert calls == ([] if closed else ["callback"])
    loop.close()


# -- what exits are told --------------------------------------------------------------


async def test_exits_below_are_told_what_came_of_a_cancellation(
    manager: lastly.ShutdownManager,
) -> None:
    """R8: a transaction below a task group whose child crashed is told so, and may swallow it."""
    told: list[object] = []

    class Transaction:
        async def __aenter__(self) -> None: ...

        async def __aexit__(self, kind: object, *exc: object) -> bool:
            told.append(kind)
            return len(told) == 2

    async with manager:
        for _ in range(3):
            await manager.enter_async_context(Transaction())
        tasks = await manager.enter_async_context(anyio.create_task_group())
        tasks.start_soon(_crash)
        await anyio.sleep_forever()
    assert told == [ExceptionGroup, ExceptionGroup, None]
    assert len(manager.last_report().failures) == 1


class Told(contextlib.nullcontext):
    """Note what its exit is told, and raise something, or return whether it swallows that."""

    told: list[BaseException | None]

    def __init__(
        self, told: list[BaseException | None], raises: object = None, *, swallows: bool = False
    ) -> None:
        super().__init__()
        self.told, self.raises, self.swallows = told, raises, swallows

    async def __aexit__(self, kind: object, exc: BaseException | None, tb: object) -> bool:
        self.told.append(exc)
        if self.raises is not None:
            raise self.raises(exc) if callable(self.raises) else self.raises
        return self.swallows


def grouped(told: BaseException | None) -> BaseException:
    return ExceptionGroup("around", [told])


def part_of(told: BaseException | None) -> BaseException:
    assert isinstance(told, BaseExceptionGroup)
    return told.derive(told.exceptions[:1])


async def test_an_exit_is_told_what_the_one_above_it_raised(
    manager: lastly.ShutdownManager,
) -> None:
    """R8: whatever came out of the block, or nothing; and what a callback raised is told to none."""
    told: list[BaseException | None] = []
    above, callbacks, body = ValueError("above"), KeyError("callback"), OSError("body")
    for raised in None, body:
        with pytest.raises(KeyError) as caught:
            async with manager:
                await manager.enter_async_context(Told(told))
                manager.defer(fails, callbacks)
                await manager.enter_async_context(Told(told))
                await manager.enter_async_context(Told(told, above))
                await manager.enter_async_context(Told(told))
                if raised is not None:
                    raise raised
        assert "1 earlier failure in this unwind: Told" in caught.value.__notes__[-1]
    assert told == [None, None, above, above, body, body, above, above]


async def test_a_transaction_below_a_task_group_that_failed(
    manager: lastly.ShutdownManager, anyio_backend
) -> None:
    """R8: it is told of the group, also where the block was clean, and so is contextlib.suppress."""
    told: list[BaseException | None] = []
    with pytest.raises(ExceptionGroup) as caught:
        async with manager:
            await manager.enter_async_context(Told(told))
            tasks = await manager.enter_async_context(anyio.create_task_group())
            tasks.start_soon(_crash)
    assert told == [caught.value]
    async with manager:
        manager.enter_context(contextlib.suppress(Exception))
        await manager.enter_async_context(anyio.create_task_group())
        raise ValueError("body")


@pytest.mark.parametrize("errors", ["last", "group"])
@pytest.mark.parametrize(("raises", "earlier"), [(KeyError, 1), (grouped, 0), (part_of, 0)])
async def test_what_an_exit_makes_of_the_failure_above_it(
    manager: lastly.ShutdownManager, errors: str, raises: object, earlier: int
) -> None:
    """R8, R11: a group of it, or a part of it, takes its place; another is one failure more."""
    manager.configure(errors=errors)
    told: list[BaseException | None] = []
    above = ExceptionGroup("above", [ValueError("one"), OSError("two")])
    with pytest.raises(Exception) as caught:  # noqa: PT011 - looked at below
        async with manager:
            await manager.enter_async_context(Told(told))
            await manager.enter_async_context(Told(told, raises))
            await manager.enter_async_context(Told(told, above))
    final = told[-1]
    assert told == [None, above, final]
    assert [o.exception for o in manager.last_report().failures] == [above, final]
    if errors == "last":
        assert caught.value is final
        assert len(getattr(final, "__notes__", [])) == earlier
    else:
        assert list(caught.value.exceptions) == [above, final][1 - earlier :]


async def test_an_exit_swallows_all_that_was_made_of_it(manager: lastly.ShutdownManager) -> None:
    """R8: as in nested `with` nothing comes out; what ran below it is not told of anything."""
    told: list[BaseException | None] = []
    async with manager:
        await manager.enter_async_context(Told(told))
        await manager.enter_async_context(Told(told, swallows=True))
        await manager.enter_async_context(Told(told, KeyError("second")))
        await manager.enter_async_context(Told(told, ValueError("first")))
        raise OSError("body")
    assert [*map(repr, told[1:])] == ["ValueError('first')", "KeyError('second')", "None"]
    assert len(manager.last_report().failures) == 2


async def test_control_flow_of_which_an_exit_was_not_told(manager: lastly.ShutdownManager) -> None:
    """R8, R12: who swallows the failure of an exit above does not swallow what that was told."""
    told: list[BaseException | None] = []
    with pytest.raises(SystemExit) as caught:
        async with manager:
            await manager.enter_async_context(Told(told))
            await manager.enter_async_context(Told(told, swallows=True))
            await manager.enter_async_context(Told(told, ValueError("exit")))
            sys.exit(3)
    assert not hasattr(caught.value, "__notes__")
    assert told[0] is told[2] is caught.value


async def test_exits_are_told_of_a_cancellation_that_comes_after_a_failure(
    manager: lastly.ShutdownManager, anyio_backend
) -> None:
    """R8, R18: the newest is what is on its way out; and R11: the failure is still in the note."""
    if anyio_backend[0] == "trio":
        return  # there are no native cancellations
    told: list[BaseException | None] = []
    task = asyncio.current_task()

    async def is_cancelled() -> None:
        task.cancel()
        await asyncio.sleep(0)

    with pytest.raises(asyncio.CancelledError) as caught:
        async with manager:
            await manager.enter_async_context(Told(told))
            manager.defer(is_cancelled)
            await manager.enter_async_context(Told(told, ValueError("exit")))
    task.uncancel()
    assert told == [None, caught.value]
    assert "1 callback failed" in caught.value.__notes__[-1]


def test_a_cancellation_that_an_exit_takes_while_the_program_exits(
    manager: lastly.ShutdownManager,
) -> None:
    """R8, R12, R18: sys.exit() goes on all the same, and the next cancellation is a new one."""

    class Fails:
        def __init__(self, exception: BaseException) -> None:
            self.exception = exception

        def __enter__(self) -> None: ...
        def __exit__(self, *_: object) -> None:
            if isinstance(self.exception, ValueError):
                assert asyncio.current_task().uncancel() == 0
            raise self.exception

    async def is_cancelled() -> None:
        asyncio.current_task().cancel()
        await asyncio.sleep(0)

    async def main() -> None:
        async with manager:
            manager.defer(is_cancelled)
            manager.enter_context(Fails(ValueError("its own")))
            manager.enter_context(Fails(asyncio.CancelledError()))
            manager.defer(is_cancelled)
            sys.exit(3)

    with pytest.raises(SystemExit):
        asyncio.run(main())
    found = [outcome.status for outcome in manager.last_report().outcomes]
    assert found == ["interrupted", "failed", "failed", "interrupted"]


def test_a_nursery_that_fails_as_a_scope_around_it_is_cancelled(
    manager: lastly.ShutdownManager,
) -> None:
    """R8, R12: the scope takes its cancellation out of the group, and the rest comes out."""
    trio = pytest.importorskip("trio")

    async def child() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise OSError("flush failed")

    async def main() -> None:
        async with manager:
            scope = manager.enter_context(trio.CancelScope())
            nursery = await manager.enter_async_context(trio.open_nursery())
            nursery.start_soon(child)
            nursery.start_soon(trio.sleep_forever)
            manager.defer(scope.cancel)

    manager.configure(errors="group")
    with pytest.raises(BaseExceptionGroup) as caught:
        trio.run(main)
    ((failure,),) = (group.exceptions for group in caught.value.exceptions)
    assert isinstance(failure, OSError)


async def test_a_scope_whose_cancellation_was_made_a_failure_above(
    manager: lastly.ShutdownManager,
) -> None:
    """R8, R12: the cancellation stays in it, and the failure comes out."""

    async def child() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise LookupError("child")

    with pytest.raises(ExceptionGroup) as caught:
        async with manager:
            scope = manager.enter_context(anyio.CancelScope())
            tasks = await manager.enter_async_context(anyio.create_task_group())
            tasks.start_soon(child)
            await anyio.wait_all_tasks_blocked()
            scope.cancel()
            await anyio.sleep_forever()
    (failure,) = caught.value.exceptions
    assert isinstance(failure, LookupError)


# From 3.13 on a TaskGroup cancels a task that somebody else has cancelled meanwhile once more.
MEANWHILE = [None, "the scope", *(["the task"] if sys.version_info < (3, 13) else [])]


@pytest.mark.parametrize("meanwhile", MEANWHILE)
async def test_a_task_group_whose_cancellation_was_made_a_failure_above(
    manager: lastly.ShutdownManager, anyio_backend, meanwhile: str | None
) -> None:
    """R8, R12: what comes out is its group, also if there is another cancellation meanwhile."""
    if anyio_backend[0] == "trio":
        return  # a TaskGroup is asyncio's
    task = asyncio.current_task()

    async def slow(scope: anyio.CancelScope) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            if meanwhile is not None:
                scope.cancel() if meanwhile == "the scope" else task.cancel()
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            raise LookupError("slow")

    with pytest.raises(ExceptionGroup, match="unhandled errors") as caught:
        async with manager:
            scope = manager.enter_context(anyio.CancelScope())
            outer = await manager.enter_async_context(asyncio.TaskGroup())
            inner = await manager.enter_async_context(asyncio.TaskGroup())
            inner.create_task(slow(scope))
            await asyncio.sleep(0)
            outer.create_task(_crash())
            await anyio.sleep_forever()
    crash, group = caught.value.exceptions
    assert isinstance(crash, ValueError)
    assert isinstance(group.exceptions[0], LookupError)
    assert task.cancelling() == (meanwhile == "the task")
    if meanwhile == "the task":
        task.uncancel()


def test_a_suspended_callback_that_awaits_when_it_is_closed(
    manager: lastly.ShutdownManager,
) -> None:
    """R3, R13: closing a suspended unwind takes nothing more off the stack."""
    calls: list[str] = []

    async def callback() -> None:
        loop.call_soon(loop.stop)
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)

    async def second() -> None:
        await asyncio.sleep(0)
        calls.append("second")

    async def main() -> None:
        manager.register(callback)
        await manager.aclose()

    loop = asyncio.new_event_loop()
    manager.register(second)
    with pytest.raises(RuntimeError, match="stopped before"):
        loop.run_until_complete(main())
    asyncio.SelectorEventLoop.close(loop)
    manager.close()
    assert calls == ["second"]


# -- a coroutine that is closed within its task ---------------------------------------


async def _awaits_one_that_dies() -> None:
    async def dies() -> None:
        raise GeneratorExit("dies")

    await asyncio.create_task(dies())


async def _close_by_hand(closing: types.CoroutineType[object, object, None]) -> None:
    closing.send(None)
    closing.close()


@pytest.mark.parametrize("how", ["closed", "a future's"])
@pytest.mark.parametrize("timeout", [None, 60])
def test_an_unwind_that_is_closed_within_its_task(
    manager: lastly.ShutdownManager, how: str, timeout: float | None
) -> None:
    """R3, R13: by hand, or by asyncio for the GeneratorExit of a task: the rest stays."""
    calls: list[int] = []

    async def callback(number: int) -> None:
        await asyncio.sleep(0)
        calls.append(number)

    async def main() -> None:
        for number in range(3):
            manager.register(callback, number)
        if how == "closed":
            await _close_by_hand(manager.aclose())
        else:
            manager.defer(_awaits_one_that_dies)
            with pytest.raises(GeneratorExit):
                await manager.aclose()
        (outcome,) = manager.last_report().outcomes
        assert outcome.status == "interrupted"
        await manager.aclose()

    manager.configure(timeout=timeout)
    asyncio.run(main())
    assert calls == ([1, 0] if how == "closed" else [2, 1, 0])


async def test_a_generator_exit_of_a_callback_is_a_failure(
    manager: lastly.ShutdownManager,
) -> None:
    """R9: one that a callback raises closes nothing, wherever that is at home."""
    calls: list[str] = []

    def fails_() -> None:
        raise GeneratorExit

    async def below() -> None:
        await anyio.lowlevel.checkpoint()
        calls.append("below")

    async def fails_async() -> None:
        await anyio.lowlevel.checkpoint()
        raise GeneratorExit

    async def register() -> None:
        manager.defer(fails_)
        manager.defer(fails_async)

    manager.defer(below)
    manager.defer(fails_)
    manager.defer(fails_async)
    with anyio.from_thread.start_blocking_portal() as portal:
        portal.call(register)
        with pytest.raises(GeneratorExit):
            await manager.aclose()
    assert calls == ["below"]
    assert [o.status for o in manager.last_report().outcomes] == ["failed"] * 4 + ["ok"]
