"""Event loops: which one is running, running things on a loop, and loop teardown.

Knows asyncio (uvloop with it) and trio, loads neither before one is needed. Is told what
to call at teardown; may import _registration and _unwind.
"""

from __future__ import annotations

import sys
import threading
from contextlib import suppress
from contextvars import copy_context
from functools import partial

from ._registration import call, dispose, is_awaitable
from ._unwind import CannotAwaitError, reraise

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Coroutine, Iterable
    from concurrent.futures import Future, ThreadPoolExecutor
    from types import TracebackType
    from typing import Any, Self

    import anyio

    from ._registration import Registration
    from ._unwind import Unwind

    # Unwinds one manager's registrations of that loop, unless there are none.
    Hook = Callable[[asyncio.AbstractEventLoop], Coroutine[Any, Any, Unwind | None]]


def current_home() -> Any:
    """Return the asyncio loop that runs in this thread, or the trio run's token, or None."""
    # A loop can only run where somebody has loaded its library; and where another thread
    # has loaded half of it so far, none can run in this one.
    try:
        loop = sys.modules["asyncio.events"]._get_running_loop()
    except (KeyError, AttributeError):
        loop = None
    if loop is not None:
        return loop
    try:
        lowlevel = sys.modules["trio.lowlevel"]
        return lowlevel.current_trio_token() if lowlevel.in_trio_run() else None
    except (KeyError, AttributeError):
        return None


def _is_trio(home: Any) -> bool:
    return type(home).__module__.partition(".")[0] == "trio"


def _is_closed(home: Any) -> bool:
    if not _is_trio(home):
        closed: bool = home.is_closed()
        return closed
    try:
        home.run_sync_soon(_nothing)
    except sys.modules["trio"].RunFinishedError:
        return True
    return False


def _nothing() -> None:
    pass


class Guard:
    """Shield the task that unwinds from the cancel scopes around it (R18).

    Scopes must nest, so that the shield is taken down while a context manager exits (R8).
    """

    def __init__(self) -> None:
        self.scope: anyio.CancelScope | None = None
        self.home = current_home()
        self.thread = threading.current_thread()
        self.task = _current_task()
        self._is_trio = _is_trio(self.task)
        self._cancelled: type[BaseException]
        if self._is_trio:
            self._cancelled = sys.modules["trio"].Cancelled
        else:
            self._cancelled = sys.modules["asyncio"].CancelledError
            # A request that was made and has not arrived yet will arrive in a callback.
            self._requests: int = self.task.cancelling() - self.task._must_cancel

    def shield(self) -> None:
        # Native asyncio has no scopes: where nobody has loaded anyio, none can be open.
        if self.scope is None and (self._is_trio or "anyio" in sys.modules):
            import anyio  # lazy: it takes longer to load than all that `import lastly` loads

            self.scope = anyio.CancelScope(shield=True)
            self.scope.__enter__()

    def unshield(self) -> None:
        scope, self.scope = self.scope, None
        # Only its own task may leave a scope; a coroutine that is closed from outside of
        # that task takes the scope with it.
        if scope is not None and self.is_here():
            scope.__exit__(None, None, None)

    def is_cancellation(self, exception: BaseException) -> bool:
        """Tell whether it is the backend's cancellation, or a group of nothing else."""
        members: Iterable[Any] = getattr(exception, "exceptions", ())
        is_group = isinstance(exception, BaseExceptionGroup)
        return isinstance(exception, self._cancelled) or (
            is_group and all(map(self.is_cancellation, members))
        )

    def interrupted(self, exception: BaseException) -> bool:
        """Tell whether it is a cancellation of this task, and not the callback's own."""
        if not self.is_cancellation(exception):
            return False
        if self._is_trio:
            return True  # trio.Cancelled cannot be made by hand
        before, self._requests = self._requests, self.task.cancelling()
        return self._requests > before

    def consumed(self, cancellation: BaseException) -> bool:
        """Tell whether an exit took a cancellation for its own; on trio each exit may."""
        if not self.is_cancellation(cancellation):
            return False
        if self._is_trio:
            return True
        before, self._requests = self._requests, min(self._requests, self.task.cancelling())
        return self._requests < before

    def is_here(self) -> bool:
        """Tell whether this still runs as a step of the task that it guards."""
        return _current_task() is self.task

    def is_suspended(self) -> bool:
        """Tell whether the loop has stopped under the unwind, which will not go on by itself.

        That is so if no other thread can be running the loop, and this one is not.
        """
        if self._is_trio or (self.thread.is_alive() and self.thread is not _this_thread()):
            return False
        return current_home() is not self.home

    def go_on(self, done: Future[None]) -> None:
        """End a suspended unwind: run its loop on, or else close its coroutine."""
        if not self.home.is_closed() and current_home() is None:
            _run_to_end(self.home, wait(done))
        else:
            stop(self.task)


_this_thread = threading.current_thread


def stop(task: asyncio.Task[Any]) -> None:
    """Close the coroutine of a task whose loop will not run it again.

    An unwind in it ends its books, and leaves what has not run to the next trigger.
    """
    coroutine: Any = task.get_coro()
    with suppress(Exception):
        coroutine.close()
        task.cancel()  # nobody shall wait for it, if its loop does run again


def _run_to_end(loop: asyncio.AbstractEventLoop, awaitable: Awaitable[Any]) -> Any:
    """Run the loop until the awaitable is done, also when something breaks out of it once.

    A KeyboardInterrupt or a task's SystemExit does, or a call of `loop.stop()`. What is
    suspended then would be overtaken, or never end: so go on first, and raise it then.
    """
    task = sys.modules["asyncio"].ensure_future(awaitable, loop=loop)
    try:
        return loop.run_until_complete(task)
    except BaseException as exc:
        _go_on(loop, task, exc)
        raise


def _go_on(
    loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any], broke_out: BaseException | None
) -> None:
    coroutine: Any = task.get_coro()
    if isinstance(broke_out, KeyboardInterrupt) and coroutine.cr_await is not None:
        # As asyncio.run does: it is meant for what hangs. A task that has not begun does
        # not, and would never begin.
        task.cancel()
    with suppress(sys.modules["asyncio"].CancelledError):
        loop.run_until_complete(task)


def _current_task() -> Any:
    home = current_home()
    if home is None:
        return None
    library = sys.modules["trio.lowlevel" if _is_trio(home) else "asyncio"]
    return library.current_task()


async def wait(future: Future[None]) -> None:
    """Wait for a future that any thread may resolve, on the loop that is running."""
    import anyio  # lazy: only who arrives during an unwind comes here

    event = anyio.Event()
    home = current_home()
    wake = home.run_sync_soon if _is_trio(home) else home.call_soon_threadsafe

    def resolved(_: Future[None]) -> None:
        with suppress(RuntimeError):  # its loop has gone, and whoever waited with it
            wake(event.set)

    future.add_done_callback(resolved)
    await event.wait()


def call_at_home(registration: Registration, leaving: BaseException | None) -> Any:
    """Call the callback from inside a loop; return its result, or what to await for it.

    A home that is another loop gets the call in a worker thread that waits for it (R17).
    """
    home: Any = registration.home
    if home is None or home is current_home():
        return call(registration, leaving)
    if _is_closed(home):
        return _refuse_to_await(call(registration, leaving))
    from anyio.to_thread import run_sync  # lazy: see Guard.shield

    return run_sync(_call_there, registration, leaving)


def call_from_outside(registration: Registration, leaving: BaseException | None) -> Any:
    """Call the callback from a thread that runs no loop; wait if its home runs elsewhere."""
    home: Any = registration.home
    if home is None or home is current_home() or _is_closed(home):
        return call(registration, leaving)
    if _is_trio(home) or home.is_running():
        return _call_there(registration, leaving)
    return call(registration, leaving)


def _call_there(registration: Registration, leaving: BaseException | None) -> Any:
    home: Any = registration.home
    if _is_trio(home):
        trio = sys.modules["trio"]
        result, exception = trio.from_thread.run(_invoke, registration, leaving, trio_token=home)
    elif home.is_running():
        asyncio = sys.modules["asyncio"]
        future = asyncio.run_coroutine_threadsafe(_invoke(registration, leaving), home)
        result, exception = future.result()
    else:
        result, exception = HomeRunner().run(_invoke(registration, leaving), home)
    if exception is not None:
        reraise(exception)
    return result


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
    raise RuntimeError(
        "the event loop of this callback was closed before it could run; did you forget to "
        "unwind while the loop was open, with `async with`, `lifespan` or `await aclose()`?"
    )


class HomeRunner:
    """Run awaitables, from a thread that runs no loop, on the loops that they belong to.

    Those of the interpreter share one fresh loop. `executor` makes the default executor
    for where the interpreter has shut down the ordinary ones.
    """

    def __init__(self, executor: Callable[[], ThreadPoolExecutor] | None = None) -> None:
        self._make_executor = executor
        self._executor: ThreadPoolExecutor | None = None
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
        elif _is_closed(home):
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
                    _go_on(loop, task, None)
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


async def _shut_down(executor: ThreadPoolExecutor, _timeout: float | None = None) -> None:
    executor.shutdown(wait=True)


async def _wait_for(awaitable: Awaitable[Any], tasks: list[asyncio.Task[Any]]) -> Any:
    tasks.append(sys.modules["asyncio"].current_task())
    return await awaitable


def tie(
    loop: asyncio.AbstractEventLoop, hook: Hook, forget: Callable[[], object]
) -> Callable[[], object]:
    """Have `hook(loop)` awaited when the loop is torn down, before what it needs is gone.

    Calls `forget` when the loop is closed. Returns a function that takes the hook back.
    """
    if _is_trio(loop):
        return _nothing  # trio has no such hook: end its scopes in the run, with `async with`
    teardown = getattr(loop.close, "__self__", None)
    if not isinstance(teardown, _Teardown):
        teardown = _Teardown(loop)
    teardown.hooks[hook] = forget
    return partial(teardown.hooks.pop, hook, None)


class _Teardown:
    """Stand in for `shutdown_asyncgens` and `close` of one loop object.

    Runners call the first while everything still works; what was not unwound there,
    because nobody called it or because it was broken off, is unwound in `close`. There,
    too, the exception comes out: raised any earlier it would skip the rest of the
    runner's own teardown.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.hooks: dict[Hook, Callable[[], object]] = {}
        self._loop = loop
        self._task: asyncio.Task[Any] | None = None
        self._unwinds: list[Unwind] = []
        self._handled = _handled()
        self._shutdown_asyncgens = loop.shutdown_asyncgens
        self._close = loop.close
        loop.shutdown_asyncgens = self.shutdown_asyncgens  # type: ignore[method-assign]
        loop.close = self.close  # type: ignore[method-assign]

    async def shutdown_asyncgens(self) -> None:
        # Before the original, which marks the loop: async generators that start later,
        # and every @asynccontextmanager is one, draw a ResourceWarning.
        await self._unwind()
        await self._shutdown_asyncgens()

    async def _unwind(self) -> None:
        self._task = sys.modules["asyncio"].current_task()
        ran = True
        while ran:
            ran = False
            for hook in reversed(list(self.hooks)):
                unwind = await hook(self._loop)
                if unwind is not None:
                    self._unwinds.append(unwind)
                    ran = True

    def close(self) -> None:
        loop = self._loop
        if loop.is_running() or loop.is_closed():
            self._close()  # refuses the one, and takes the other in good part
            return
        # What was being handled when the loop was tied is not on its way out of this call:
        # think of `except KeyboardInterrupt: asyncio.run(clean_up())`. It has grown a
        # longer traceback if it was raised on from there.
        leaving = None if _handled() == self._handled else sys.exception()
        try:
            if self._task is not None and not self._task.done():
                # A KeyboardInterrupt, say, broke out of run_until_complete.
                _in_a_free_thread(partial(_go_on, loop, self._task, leaving))
            if self.hooks:
                _in_a_free_thread(partial(_run_to_end, loop, self._unwind()))
        finally:
            self._untie()
            self._close()
            if self._task is not None and not self._task.done():
                stop(self._task)
        error = leaving
        for unwind in self._unwinds:
            if error is None or isinstance(error, Exception):
                error = unwind.leaving or error
            error = unwind.verdict(error)
        if error is not None and error is not leaving:
            reraise(error)

    def _untie(self) -> None:
        # Breaks the cycle with the loop; whatever somebody else has put on top stays.
        while self.hooks:
            _, forget = self.hooks.popitem()
            forget()
        self._handled = None
        if self._loop.close == self.close:
            del self._loop.close
        if self._loop.shutdown_asyncgens == self.shutdown_asyncgens:
            del self._loop.shutdown_asyncgens


def _handled() -> tuple[BaseException, TracebackType | None] | None:
    exception = sys.exception()
    return None if exception is None else (exception, exception.__traceback__)


def _in_a_free_thread(work: Callable[[], None]) -> None:
    """Do what runs a loop in this thread, or if another loop runs here, in one of its own."""
    if current_home() is None:
        work()
        return
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as exc:
            errors.append(exc)

    # With this context: a callback that closes a loop is still inside its unwind.
    thread = threading.Thread(target=copy_context().run, args=(run,))
    thread.start()
    thread.join()
    for error in errors:
        reraise(error)
