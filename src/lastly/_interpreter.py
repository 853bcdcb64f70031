"""Interpreter exit: the one atexit hook, and a watch over the wait for threads before it.

Is told what to call; may import _aside, _errors and _watch.
"""

from __future__ import annotations

import atexit
import threading
from contextlib import suppress
from importlib import import_module

from ._aside import settle
from ._errors import count
from ._watch import OneWait, threads_that_hold, told_of_thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ._registration import Registration
    from ._settings import Settings

    Pending = Callable[[], tuple[Registration, ...]]

# As a stack: see Stack for why no lock. With each, what the watch needs to know meanwhile.
_callbacks: dict[Callable[[], object], tuple[Settings, Pending]] = {}
_installed: list[None] = []
_last: list[Settings] = []  # of the manager that was used last: for when all are empty
_waits: list[_ThreadsWait] = []


def call_at_exit(callback: Callable[[], object], settings: Settings, pending: Pending) -> None:
    """Have the callback called at interpreter exit, where `atexit` would call it now."""
    if not _installed:
        _install()
    _callbacks[callback] = (settings, pending)
    _last[:] = [settings]


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
    # Private, but the one hook that comes before the interpreter joins its threads: later
    # ones run earlier, so that this is before that executor waits for its own. Without it
    # that wait is not watched, and nothing else is lost.
    with suppress(KeyError, RuntimeError):
        register: Any = vars(threading)["_register_atexit"]
        register(_watch_threads)


class _ThreadsWait(OneWait):
    """The interpreter's wait for the threads that hold its exit (R23)."""

    __slots__ = ()

    def tell(self, elapsed: float) -> str | None:
        threads = threads_that_hold()
        holders = count(threads, "thread")
        lines = [f"the interpreter is still waiting for {holders} to end, for {elapsed:.1f} s"]
        for thread in threads:
            lines += [told_of_thread(thread)]
        pending = [r for _, find in reversed(list(_callbacks.values())) for r in find()]
        lines += [f"    {r.name} ({r.origin}) has yet to run" for r in pending]
        return "\n".join(lines) if threads else None


def _watch_threads() -> None:
    # Nothing may escape, or the interpreter would not wait for its threads at all; but for what
    # a signal handler raises to have just that.
    with suppress(Exception):
        used = [settings for settings, _ in _callbacks.values()] or _last
        slow_after = {s.slow_after: s for s in used if s.slow_after is not None}
        if slow_after:
            _waits.append(_ThreadsWait(slow_after[min(slow_after)]))
            _waits[0].begin()


def unwind_at_exit() -> None:
    # Its name is what the interpreter prints with an exception that comes out.
    for wait in _waits:
        wait.end()
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
    settle()
    if error is not None:
        raise error
