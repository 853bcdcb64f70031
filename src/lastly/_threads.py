"""Threads that nobody has to wait for: for one call (`thread=True`), and as an executor.

May import _backends, _errors, _outcome and _registration.
"""

from __future__ import annotations

import sys
from contextvars import copy_context
from functools import partial
from threading import Thread

from ._backends import wait
from ._errors import warn
from ._outcome import describe
from ._registration import dispose, is_awaitable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from concurrent.futures import Future
    from typing import Any, ParamSpec, TypeVar

    from ._spot import Spot

    P = ParamSpec("P")
    T = TypeVar("T")


class InThread:
    """Run a function in a thread; await its result, or take it from `future`.

    A daemon thread and not one of an executor's, which the interpreter would join: a call
    that is abandoned must not hold the exit. It runs in the context of the caller.
    """

    def __init__(self, function: Callable[[], object], name: str, spot: Spot) -> None:
        from concurrent.futures import Future  # lazy: `import lastly` does not pay for it

        self.future: Future[Any] = Future()
        self._spot = spot
        context = copy_context()
        if (sniffio := sys.modules.get("sniffio")) is not None:
            # No loop runs there, whatever runs here; as trio and anyio do for their threads.
            context.run(sniffio.current_async_library_cvar.set, None)
        self._thread = Thread(
            target=context.run,
            args=(_settle, self.future, function),
            name=f"lastly: {name}",
            daemon=True,
        )
        self._thread.start()

    @property
    def ident(self) -> int:
        return self._thread.ident or 0

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._result().__await__()

    def abandon(self) -> None:
        """Have it seen to what the call may yet return or raise."""
        self.future.add_done_callback(partial(_dispose_result, self._thread.name))

    async def _result(self) -> Any:
        while not self.future.done():
            try:
                await wait(self.future)
            except BaseException as exc:
                limit = self._spot.limit
                if isinstance(exc, GeneratorExit) or (limit is not None and limit.expired):
                    self.abandon()
                    raise
                self._spot.interrupt(exc)  # a thread cannot be; R1: the next one waits for it
        result = self.future.result()
        return await result if is_awaitable(result) else result


def _settle(future: Future[Any], function: Callable[[], object]) -> None:
    try:
        future.set_result(function())
    except BaseException as exc:
        future.set_exception(exc)
    finally:
        del future, function  # the exception's traceback holds this frame: make no cycle


def _dispose_result(name: str, future: Future[Any]) -> None:
    exception = future.exception()
    if exception is None:
        dispose(future.result())
    else:
        warn("%s: the abandoned callback has raised %s", name, describe(exception))


def plain_threads() -> Any:
    """Return an executor whose threads hold nobody up, for a loop of ours.

    While the interpreter exits, `concurrent.futures` refuses new work, but plain threads
    still start. Where they do not (3.12.0 and 3.12.1, mended in 3.12.2) the work is done in
    the calling thread: it blocks the loop, and it is done. `running` is the threads by
    their futures; what is taken out of it is abandoned.
    """
    # Not at the top of the module: `import lastly` should not pay for it.
    from concurrent.futures import Future, ThreadPoolExecutor

    class PlainThreads(ThreadPoolExecutor):  # loops insist on the type
        def __init__(self) -> None:
            super().__init__()
            self.running: dict[Future[Any], Thread] = {}

        def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
            future: Future[T] = Future()

            def work() -> None:
                if future.set_running_or_notify_cancel():
                    _settle(future, partial(fn, *args, **kwargs))

            try:
                thread = self.running[future] = Thread(target=work, daemon=True)
                future.add_done_callback(lambda future: self.running.pop(future, None))
                thread.start()
            except RuntimeError:
                work()
            return future

    return PlainThreads()
