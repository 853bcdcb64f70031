"""Homes: which event loop runs here, and how to run things on the loop they belong to.

Knows asyncio (uvloop with it) and trio, and loads neither before one is needed. May import
_registration and _unwind.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from functools import partial

from ._registration import call, dispose, is_awaitable
from ._unwind import CannotAwaitError, reraise

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable
    from concurrent.futures import Future, ThreadPoolExecutor
    from typing import Any, Self

    from ._registration import Registration

    class PlainThreads(ThreadPoolExecutor):
        """An executor that tells what it is running."""

        running: set[Future[Any]]


_STANDS_STILL = 10  # looks, of 50 ms each

_CLOSED = (
    "the event loop of this callback was closed before it could run; did you forget to "
    "unwind while the loop was open, with `async with`, `lifespan` or `await aclose()`?"
)


def current_home() -> Any:
    """Return the asyncio loop that runs in this thread, or the trio run's token, or None."""
    # A loop can only run where somebody has loaded its library; and where another thread
    # has loaded half of it so far, none can run in this one.
    running = getattr(sys.modules.get("asyncio.events"), "_get_running_loop", None)
    loop = None if running is None else running()
    if loop is not None:
        return loop
    lowlevel: Any = sys.modules.get("trio.lowlevel")
    in_run = getattr(lowlevel, "in_trio_run", None)
    return lowlevel.current_trio_token() if in_run is not None and in_run() else None


def is_trio(home: Any) -> bool:
    return type(home).__module__.partition(".")[0] == "trio"


def is_closed(home: Any) -> bool:
    if not is_trio(home):
        closed: bool = home.is_closed()
        return closed
    try:
        home.run_sync_soon(_nothing)
    except sys.modules["trio"].RunFinishedError:
        return True
    return False


def _nothing() -> None:
    pass


def current_task() -> Any:
    home = current_home()
    if home is None:
        return None
    library = sys.modules["trio.lowlevel" if is_trio(home) else "asyncio"]
    return library.current_task()


async def wait(future: Future[None]) -> None:
    """Wait for a future that any thread may resolve, on the loop that is running."""
    import anyio  # lazy: only who arrives during an unwind comes here

    event = anyio.Event()
    home = current_home()
    wake = home.run_sync_soon if is_trio(home) else home.call_soon_threadsafe

    def resolved(_: Future[None]) -> None:
        with suppress(RuntimeError):  # its loop has gone, and whoever waited with it
            wake(event.set)

    future.add_done_callback(resolved)
    await event.wait()


def stop(task: asyncio.Task[Any]) -> None:
    """Close the coroutine of a task whose loop will not run it again.

    An unwind in it ends its books, and leaves what has not run to the next trigger.
    """
    coroutine: Any = task.get_coro()
    with suppress(Exception):
        coroutine.close()
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


def call_at_home(registration: Registration, leaving: BaseException | None) -> Any:
    """Call the callback from inside a loop; return its result, or what to await for it.

    A home that is another loop gets the call in a worker thread that waits for it (R17).
    """
    home: Any = registration.home
    if home is None or home is current_home():
        return call(registration, leaving)
    if is_closed(home):
        return _refuse_to_await(call(registration, leaving))
    from anyio.to_thread import run_sync  # lazy: only another loop's callback comes here

    return run_sync(_call_there, registration, leaving)


def call_from_outside(registration: Registration, leaving: BaseException | None) -> Any:
    """Call the callback from a thread that runs no loop; wait if its home runs elsewhere."""
    home: Any = registration.home
    if home is None or home is current_home() or is_closed(home):
        runs_elsewhere = False
    else:
        runs_elsewhere = is_trio(home) or home.is_running()
    return (_call_there if runs_elsewhere else call)(registration, leaving)


def _call_there(registration: Registration, leaving: BaseException | None) -> Any:
    home: Any = registration.home
    if is_trio(home):
        trio = sys.modules["trio"]
        result, exception = trio.from_thread.run(_invoke, registration, leaving, trio_token=home)
    elif home.is_running():
        asyncio = sys.modules["asyncio"]
        coroutine = _invoke(registration, leaving)
        future = asyncio.run_coroutine_threadsafe(coroutine, home)
        try:
            result, exception = _result_of(future, home)
        except RuntimeError:
            dispose(coroutine)
            raise
    else:
        result, exception = HomeRunner().run(_invoke(registration, leaving), home)
    if exception is not None:
        reraise(exception)
    return result


def _result_of(future: Future[Any], home: asyncio.AbstractEventLoop) -> Any:
    """Wait for what a running loop was handed, which may have taken its last step just then.

    No event tells that; hence a look now and then. A loop that stands still is only run on
    here when it has done so for a while: its owner may be between two runs of it.
    """
    still = 0
    while True:
        with suppress(TimeoutError):
            return future.result(timeout=0.05)
        if home.is_closed():
            raise RuntimeError(_CLOSED)
        still = 0 if home.is_running() else still + 1
        if still == _STANDS_STILL:
            run_to_end(home, sys.modules["asyncio"].wrap_future(future, loop=home))


async def _invoke(
    registration: Registration, leaving: BaseException | None
) -> tuple[object, BaseException | None]:
    # The exception travels as a value: SystemExit would stop the loop that runs this.
    try:
        result = call(registration, leaving)
        if is_awaitable(result):
            result = await result
    except BaseException as exc:
        return None, exc
    return (bool(result) if registration._takes_exception else None), None


def _refuse_to_await(result: Any) -> Any:
    if not is_awaitable(result):
        return result
    dispose(result)
    raise RuntimeError(_CLOSED)


class HomeRunner:
    """Run awaitables, from a thread that runs no loop, on the loops that they belong to.

    Those of the interpreter share one fresh loop. `executor` makes the default executor
    for where the interpreter has shut down the ordinary ones.
    """

    def __init__(self, executor: Callable[[], PlainThreads] | None = None) -> None:
        self._make_executor = executor
        self._executor: PlainThreads | None = None
        self._fresh: asyncio.Runner | None = None

    def run(self, awaitable: Any, home: Any) -> Any:
        import asyncio  # lazy: a program without a coroutine never comes here

        if current_home() is not None:
            raise CannotAwaitError
        if home is None:
            # A loop_factory keeps the Runner from touching set_event_loop, which belongs
            # to the program.
            if self._fresh is None:
                self._fresh = asyncio.Runner(loop_factory=asyncio.new_event_loop)
            runner = self._fresh
        elif is_closed(home):
            return _refuse_to_await(awaitable)
        else:
            # A Runner cancels on Ctrl-C and waits, where run_until_complete would leave
            # the callback suspended. It is never closed: the loop is not ours.
            runner = asyncio.Runner(loop_factory=lambda: home)
        loop = runner.get_loop()
        if self._make_executor is not None:
            self._executor = self._executor or self._make_executor()
            loop.set_default_executor(self._executor)
        tasks: list[asyncio.Task[Any]] = []
        try:
            return runner.run(_wait_for(awaitable, tasks))
        except BaseException:
            for task in tasks:
                if not task.done():  # a second Ctrl-C, or the SystemExit of another task
                    go_on(loop, task, None)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._fresh is None:
            return
        if self._executor is not None:
            # The loop would wait for the executor in a thread, and none can start at the
            # end of 3.12.0 and 3.12.1.
            executor = self._executor
            loop = self._fresh.get_loop()
            loop.shutdown_default_executor = partial(_shut_down, executor)  # type: ignore[method-assign]
        self._fresh.close()


async def _shut_down(executor: PlainThreads, _timeout: float | None = None) -> None:
    asyncio = sys.modules["asyncio"]
    while executor.running:  # with the loop alive: a thread may be waiting for it
        futures = map(asyncio.wrap_future, list(executor.running))
        await asyncio.gather(*futures, return_exceptions=True)


async def _wait_for(awaitable: Awaitable[Any], tasks: list[asyncio.Task[Any]]) -> Any:
    tasks.append(sys.modules["asyncio"].current_task())
    return await awaitable
