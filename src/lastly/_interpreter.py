"""Interpreter exit: the one atexit hook, and an executor that still works by then.

Is told what to call; imports nothing of lastly's.
"""

from __future__ import annotations

import atexit
import threading
from contextlib import suppress
from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, ParamSpec, TypeVar

    P = ParamSpec("P")
    T = TypeVar("T")

_callbacks: dict[Callable[[], object], None] = {}  # as a stack: see Stack for why no lock
_installed: list[None] = []


def call_at_exit(callback: Callable[[], object]) -> None:
    """Have the callback called at interpreter exit, where `atexit` would call it now."""
    if not _installed:
        _install()
    _callbacks[callback] = None


def forget(callback: Callable[[], object]) -> None:
    """Take the callback back, if it is there."""
    _callbacks.pop(callback, None)


def _install() -> None:
    _installed.append(None)
    # One hook for all managers: atexit.unregister leaves a hole for each that is gone.
    atexit.register(unwind_at_exit)
    # asyncio loads it for to_thread, but it cannot be loaded once the interpreter has
    # begun to exit, so lazy would be too late. If it has begun already, whatever needs
    # that executor will say so.
    with suppress(RuntimeError):
        import_module("concurrent.futures.thread")


def unwind_at_exit() -> None:
    # Its name is what the interpreter prints with an exception that comes out.
    error: BaseException | None = None
    while _callbacks:
        callback: Callable[[], object] = next(reversed(_callbacks))
        # A callback forgets itself when it has nothing left. One that Ctrl-C has broken off
        # gets another chance, but not for ever: the interpreter has to end.
        for _ in range(3):
            try:
                callback()
            except BaseException as exc:
                error = exc
            if callback not in _callbacks:
                break
        forget(callback)
    if error is not None:
        raise error


def executor() -> Any:
    """Return an executor for an event loop while the interpreter exits.

    By then `concurrent.futures` refuses new work, but plain threads still start. Where
    they do not (3.12.0 and 3.12.1, mended in 3.12.2) the work is done in the calling
    thread: it blocks the loop, and it is done.
    """
    # Not at the top of the module: `import lastly` should not pay for it.
    from concurrent.futures import Future, ThreadPoolExecutor

    class PlainThreads(ThreadPoolExecutor):  # loops insist on the type
        def __init__(self) -> None:
            super().__init__()
            self.running: set[Future[Any]] = set()

        def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
            future: Future[T] = Future()

            def work() -> None:
                if not future.set_running_or_notify_cancel():
                    return
                try:
                    future.set_result(fn(*args, **kwargs))
                except BaseException as exc:
                    future.set_exception(exc)

            self.running.add(future)
            future.add_done_callback(self.running.discard)
            try:
                threading.Thread(target=work, daemon=True).start()
            except RuntimeError:
                work()
            return future

    return PlainThreads()
