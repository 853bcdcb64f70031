"""Event loops: which one is running, running things on a loop, and loop teardown.

Knows asyncio (uvloop with it) and trio, loads neither before one is needed. Is told what
to call at teardown; may import _registration and _unwind.
"""

from __future__ import annotations

import sys
import threading

from ._registration import call, dispose, is_awaitable
from ._unwind import CannotAwaitError, reraise

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Coroutine
    from concurrent.futures import Executor, Future
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

    def __init__(self, leaving: BaseException | None) -> None:
        self._scope: anyio.CancelScope | None = None
        self._task = _current_task()
        self._cancelled: type[BaseException]
        if _is_trio(self._task):
            self._cancelled = sys.modules["trio"].Cancelled
        else:
            self._cancelled = sys.modules["asyncio"].CancelledError
            # A request that is not on its way out already may still arrive.
            delivered = isinstance(leaving, self._cancelled)
            self._requests: int = self._task.cancelling() if delivered else 0

    def shield(self) -> None:
        # Native asyncio has no scopes: where nobody has loaded anyio, none can be open.
        if self._scope is None and (_is_trio(self._task) or "anyio" in sys.modules):
            import anyio  # lazy: it takes longer to load than all that `import lastly` loads

            self._scope = anyio.CancelScope(shield=True)
            self._scope.__enter__()

    def unshield(self) -> None:
        scope, self._scope = self._scope, None
        # Only its own task may leave a scope; a coroutine that is closed from outside of
        # that task takes the scope with it.
        if scope is not None and self.is_here():
            scope.__exit__(None, None, None)

    def interrupted(self, exception: BaseException) -> bool:
        """Tell whether the exception is a cancellation of this task, not the callback's own."""
        if not isinstance(exception, self._cancelled):
            return False
        if _is_trio(self._task):
            return True  # trio.Cancelled cannot be made by hand
        before, self._requests = self._requests, self._task.cancelling()
        return self._requests > before

    def is_here(self) -> bool:
        """Tell whether this still runs as a step of the task that it guards."""
        return _current_task() is self._task


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
    future.add_done_callback(lambda _: wake(event.set))
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

    def __init__(self, executor: Callable[[], Executor] | None = None) -> None:
        self._executor = executor
        self._fresh: asyncio.Runner | None = None

    def run(self, awaitable: Any, home: Any) -> Any:
        import asyncio  # lazy: a program without a coroutine never comes here

        if current_home() is not None:
            raise CannotAwaitError
        if home is None:
            runner = self._fresh
            if runner is None:
                # A loop_factory keeps the Runner from touching set_event_loop, which
                # belongs to the program.
                runner = self._fresh = asyncio.Runner(loop_factory=asyncio.new_event_loop)
                if self._executor is not None:
                    # Its threads are waited for one by one, and the thread that waits
                    # for all cannot start at the end of 3.12.0 and 3.12.1.
                    runner.get_loop().shutdown_default_executor = _no_shutdown  # type: ignore[method-assign]
        elif _is_closed(home):
            return _refuse_to_await(awaitable)
        else:
            # A Runner cancels on Ctrl-C and waits, where run_until_complete would leave
            # the callback suspended. It is never closed: the loop is not ours.
            runner = asyncio.Runner(loop_factory=lambda: home)
        if self._executor is not None:
            runner.get_loop().set_default_executor(self._executor())
        return runner.run(_wait_for(awaitable))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._fresh is not None:
            self._fresh.close()


async def _wait_for(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


async def _no_shutdown(_timeout: float | None = None) -> None:
    pass


def tie(loop: asyncio.AbstractEventLoop, hook: Hook) -> None:
    """Have `hook(loop)` awaited when the loop is torn down, before what it needs is gone."""
    if _is_trio(loop):
        return  # trio has no such hook: end its scopes in the run, with `async with`
    teardown = getattr(loop.close, "__self__", None)
    if not isinstance(teardown, _Teardown):
        teardown = _Teardown(loop)
    teardown.hooks[hook] = None


class _Teardown:
    """Stand in for `shutdown_asyncgens` and `close` of one loop object.

    Runners call the first while everything still works; what was not unwound there,
    because nobody called it or because it was broken off, is unwound in `close`. There,
    too, the exception comes out: raised any earlier it would skip the rest of the
    runner's own teardown.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.hooks: dict[Hook, None] = {}
        self._loop = loop
        self._task: asyncio.Task[Any] | None = None
        self._unwinds: list[Unwind] = []
        # What is being handled already is not on its way out of this loop's teardown:
        # think of `except KeyboardInterrupt: asyncio.run(clean_up())`.
        self._handled = sys.exception()
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
        while self.hooks:
            hook, _ = self.hooks.popitem()
            unwind = await hook(self._loop)
            if unwind is not None:
                self._unwinds.append(unwind)

    def close(self) -> None:
        loop = self._loop
        if loop.is_running() or loop.is_closed():
            self._close()  # refuses the one, and takes the other in good part
            return
        leaving = sys.exception()
        if leaving is self._handled:
            leaving = None
        try:
            if self._task is not None and not self._task.done():
                # A KeyboardInterrupt, say, broke out of run_until_complete: go on.
                _run_until_complete(loop, self._task)
            if self.hooks:
                _run_until_complete(loop, self._unwind())
        finally:
            self._untie()
            self._close()
        error = leaving
        for unwind in self._unwinds:
            error = unwind.verdict(unwind.leaving or error)
        if error is not None and error is not leaving:
            reraise(error)

    def _untie(self) -> None:
        # Breaks the cycle with the loop; whatever somebody else has put on top stays.
        if self._loop.close == self.close:
            del self._loop.close
        if self._loop.shutdown_asyncgens == self.shutdown_asyncgens:
            del self._loop.shutdown_asyncgens


def _run_until_complete(loop: asyncio.AbstractEventLoop, awaitable: Awaitable[None]) -> None:
    if current_home() is None:
        loop.run_until_complete(awaitable)
        return
    # Another loop runs in this thread, and asyncio allows one a thread.
    thread = threading.Thread(target=loop.run_until_complete, args=(awaitable,))
    thread.start()
    thread.join()
