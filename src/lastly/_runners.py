"""Runners: run awaitables to their end, from outside of a loop, on the loop they belong to.

May import what is below _unwind, and that.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from functools import partial

from ._backends import current_home, current_task, is_closed, is_trio
from ._errors import count
from ._limits import in_time_at
from ._registration import dispose, is_awaitable, qualified_name
from ._threads import InThread, plain_threads
from ._unwind import CannotAwaitError
from ._watch import OneWait, told_of_thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable
    from concurrent.futures import Future, ThreadPoolExecutor
    from threading import Thread
    from typing import Any, Self

    from ._settings import Settings
    from ._spot import Spot

    class PlainThreads(ThreadPoolExecutor):
        """An executor that tells what it is running."""

        running: dict[Future[Any], Thread]


_LOOKS = 0.05  # seconds

CLOSED = (
    "the event loop of this callback was closed before it could run; did you forget to "
    "unwind while the loop was open, with `async with`, `lifespan` or `await aclose()`?"
)


def stop(task: asyncio.Task[Any]) -> None:
    """Close the coroutine of a task whose loop will not run it again.

    An unwind in it ends its books, and leaves what has not run to the next trigger.
    """
    coroutine: Any = task.get_coro()
    with suppress(Exception):
        coroutine.close()
    with suppress(Exception):
        task.cancel()  # nobody shall wait for it, if its loop does run again


def run_to_end(loop: asyncio.AbstractEventLoop, awaitable: Awaitable[Any]) -> Any:
    """Run the loop until the awaitable is done, also when something breaks out of it once.

    A KeyboardInterrupt or a task's SystemExit does, or a call of `loop.stop()`. What is
    suspended then would be overtaken, or never end: so go on first, and raise it then.
    """
    task = sys.modules["asyncio"].ensure_future(awaitable, loop=loop)
    try:
        return loop.run_until_complete(task)
    except BaseException as exc:
        go_on(loop, task, exc)
        raise


def go_on(
    loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any], broke_out: BaseException | None
) -> None:
    coroutine: Any = task.get_coro()
    if isinstance(broke_out, KeyboardInterrupt) and coroutine.cr_await is not None:
        # As asyncio.run does: it is meant for what hangs. A task that has not begun does
        # not, and would never begin.
        task.cancel()
    with suppress(sys.modules["asyncio"].CancelledError):
        loop.run_until_complete(task)


def runner_of(home: Any) -> asyncio.Runner:
    # A Runner cancels on Ctrl-C and waits, where run_until_complete would leave the callback
    # suspended. It is never closed: the loop is not ours.
    runner: asyncio.Runner = sys.modules["asyncio"].Runner(loop_factory=lambda: home)
    return runner


def run_on(runner: asyncio.Runner, awaitable: Awaitable[Any]) -> Any:
    """Run it, also to its end when something breaks out of the loop."""
    tasks: list[asyncio.Task[Any]] = []
    try:
        return runner.run(_noted(awaitable, tasks))
    except BaseException:
        for task in tasks:
            if not task.done():  # a second Ctrl-C, or the SystemExit of another task
                go_on(runner.get_loop(), task, None)
        raise


async def _noted(awaitable: Awaitable[Any], tasks: list[asyncio.Task[Any]]) -> Any:
    tasks.append(current_task())
    return await awaitable


def refuse_to_await(result: Any) -> Any:
    if not is_awaitable(result):
        return result
    dispose(result)
    raise RuntimeError(CLOSED)


class HomeRunner:
    """Run awaitables, from a thread that runs no loop, on the loops that they belong to.

    Those of the interpreter share one fresh loop, whose executor holds nobody up. While the
    interpreter is `exiting`, the other loops get that executor too: theirs are shut down.
    """

    def __init__(self, settings: Settings, *, exiting: bool) -> None:
        self._settings = settings
        self._exiting = exiting
        self._executor: PlainThreads | None = None
        self._fresh: asyncio.Runner | None = None

    def run(self, awaitable: Any, home: Any, spot: Spot) -> Any:
        """Run it to its end, or to that of its limit."""
        if isinstance(awaitable, InThread):
            awaitable = _result_in_time(awaitable, spot)
            if not is_awaitable(awaitable):
                return awaitable
        if current_home() is not None:
            raise CannotAwaitError(awaitable)
        if home is not None and is_closed(home):
            return refuse_to_await(awaitable)
        with spot.excused():
            runner = self._runner_of_fresh() if home is None else runner_of(home)
        if home is None or self._exiting:
            self._give_threads(runner.get_loop().set_default_executor)
        before = self._in_threads()
        try:
            return run_on(runner, in_time_at(spot, awaitable))
        finally:
            if spot.limit is not None and spot.limit.expired:
                self._abandon(self._in_threads() - before)  # they would hold us up

    def prepare(self, home: Any) -> None:
        """Give a loop that runs in another thread what callbacks need there."""
        if self._exiting and not is_trio(home):
            self._give_threads(partial(home.call_soon_threadsafe, home.set_default_executor))

    def _give_threads(self, give: Callable[[PlainThreads], object]) -> None:
        if self._executor is None:
            # Where this is the first thing that the interpreter sees of lastly, and it exits
            # already, that library cannot be loaded any more; the loop then says so itself.
            with suppress(RuntimeError):
                self._executor = plain_threads()
        if self._executor is not None:
            give(self._executor)

    def _in_threads(self) -> set[Future[Any]]:
        return set() if self._executor is None else set(self._executor.running)

    def _abandon(self, calls: set[Future[Any]]) -> None:
        for call in calls:
            assert self._executor is not None
            self._executor.running.pop(call, None)

    def _runner_of_fresh(self) -> asyncio.Runner:
        if self._fresh is None:
            import asyncio  # lazy: a program without a coroutine never comes here

            # A loop_factory keeps the Runner from touching set_event_loop, which belongs to
            # the program.
            self._fresh = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        return self._fresh

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._fresh is None:
            return
        executor = self._executor
        if executor is None:
            self._fresh.close()
            return
        # The loop would wait for the executor in a thread, and none can start at the end of
        # 3.12.0 and 3.12.1.
        loop = self._fresh.get_loop()
        loop.shutdown_default_executor = partial(_shut_down, executor)  # type: ignore[method-assign]
        left = sys.modules["asyncio"].all_tasks(loop)
        wait = _LeftWait(self._settings, executor, left)
        wait.begin()
        try:
            self._fresh.close()
        finally:
            wait.end()


class _LeftWait(OneWait):
    """The wait for what callbacks have left on the fresh loop and in its threads (R23)."""

    __slots__ = ("_executor", "_tasks")

    def __init__(
        self, settings: Settings, executor: PlainThreads, tasks: set[asyncio.Task[Any]]
    ) -> None:
        super().__init__(settings)
        self._executor = executor
        self._tasks = tasks

    def tell(self, elapsed: float) -> str | None:
        threads = list(self._executor.running.values())
        tasks = [
            f"    task {task.get_name()!r} of {qualified_name(task.get_coro())}"
            for task in self._tasks
            if not task.done()
        ]
        what = f"{count(tasks, 'task')} and {count(threads, 'call')} in worker threads"
        told = f"still waiting for what callbacks have left, for {elapsed:.1f} s: {what}"
        return "\n".join((told, *tasks, *map(told_of_thread, threads)))


async def _shut_down(executor: PlainThreads, _timeout: float | None = None) -> None:
    asyncio = sys.modules["asyncio"]
    while executor.running:  # with the loop alive: a thread may be waiting for it
        futures = map(asyncio.wrap_future, list(executor.running))
        await asyncio.gather(*futures, return_exceptions=True)


def _result_in_time(call: InThread, spot: Spot) -> Any:
    while not call.future.done():
        try:
            if not _ends_in_time(call, spot):
                return None
        except BaseException as exc:
            spot.interrupt(exc)  # Ctrl-C; see InThread
    result = call.future.result()
    if spot.limit is not None:
        spot.limit.returned = not is_awaitable(result)
    return result


def _ends_in_time(call: InThread, spot: Spot) -> bool:
    clock, limit = spot.settings.clock, spot.limit
    if limit is None:
        call.future.exception()  # waits
        return True
    limit.armed = True
    # In looks, for nothing could wake this thread when the limit is forced meanwhile.
    while not clock.wait(call.future, min(_LOOKS, left := limit.left(clock.now()))):
        if left == 0:
            limit.where = spot.look_inside()
            limit.expired = True
            call.abandon()
            return False
    return True
