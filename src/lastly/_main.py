"""Main of a run: cancel it, tell whether that is what came out of it, and say where it is.

It runs in the task that unwinds, so that what it entered can exit there (R8). May import
_aside, _backends, _errors, _settings, _spot, _unwind, _watch and _where.
"""

from __future__ import annotations

import sys
from _thread import allocate_lock, start_new_thread
from contextlib import suppress
from functools import partial
from threading import TIMEOUT_MAX, current_thread, get_ident

from ._aside import aside
from ._backends import (
    call_soon,
    cancel_status,
    current_home,
    current_task,
    is_trio,
    stepping,
)
from ._errors import leaves, warn
from ._spot import look_from_outside
from ._unwind import in_progress
from ._watch import OneWait, at
from ._where import await_chain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ._settings import Settings


_ANSWERS = 0.1  # seconds in which a loop that is not blocked answers


class Main:
    """The main of a run, in the task that makes this, from now until `end` is called.

    On asyncio it is cancelled natively, since no scope of ours may be open around what it
    leaves open. Trio has nothing but scopes: ours is left as soon as it is the innermost one,
    and what is open in it till then is in a cancelled scope, as in nested `async with`.
    """

    def __init__(self) -> None:
        self.home = current_home()
        self.task = current_task()
        self.ident = get_ident()
        self.awaitable: object = None
        self.is_over = False
        self.may_be_left = False
        self._over = allocate_lock()
        self._over.acquire()
        self._thread = current_thread()
        self._wait: _MainWait | None = None
        self._cancels = 0
        self._raised: BaseException | None = None
        self._scope: Any = None
        if is_trio(self.home):
            self._cancelled = sys.modules["trio"].Cancelled
            self._scope = sys.modules["trio"].CancelScope()
            self._scope.__enter__()
            self._status = cancel_status()
        else:
            self._cancelled = sys.modules["asyncio"].CancelledError

    def call_soon(self, callback: Callable[[], object]) -> None:
        """Have it called in the loop of main, from any thread, if that still runs."""
        with suppress(RuntimeError):
            call_soon(self.home, callback)

    def cancel(self) -> None:
        """Cancel it. To be called in its loop, and not by main itself, which is suspended."""
        if self.is_over:
            return
        self._cancels += 1
        (self.task if self._scope is None else self._scope).cancel()

    def cancel_between(self, why: str | None = None) -> None:
        """Cancel it, but not in the middle of an unwind of its own: when that is done."""
        # A native cancellation would cost that the callback that it is at. The second signal
        # has forced it already.
        cancel = partial(self.cancel_between, why)
        for unwind in list(in_progress):
            if getattr(unwind.guard, "task", None) is self.task:
                unwind.done.add_done_callback(lambda _: self.call_soon(cancel))
                return
        if why is not None and not self.is_over:
            where = await_chain(self.task, self.awaitable)
            aside(partial(warn, "%s: main is cancelled%s", why, at(where)))
        self.cancel()

    def cancel_after(self, seconds: float, interrupt: Callable[[], object]) -> None:
        """Cancel it if it lasts so long yet; and where it blocks its loop, call `interrupt`.

        In a thread, since nothing else would see that the loop is blocked, and one that a signal
        handler may start.
        """

        def wait() -> None:
            if self._over.acquire(timeout=min(seconds, TIMEOUT_MAX)):
                return
            answered = allocate_lock()
            answered.acquire()

            def cancel() -> None:
                answered.release()
                self.cancel_between("half of the grace is over")

            self.call_soon(cancel)
            if not answered.acquire(timeout=_ANSWERS):
                interrupt()

        with suppress(RuntimeError):  # none is to be had
            start_new_thread(wait, ())

    def interrupt(self) -> BaseException | None:
        """Return what a signal handler is to raise, if it is main that it has interrupted.

        That ends a main that never awaits; where it does, to cancel it is enough.
        """
        unwinds = any(unwind.thread is self._thread for unwind in list(in_progress))
        is_elsewhere = current_home() is not self.home or stepping() is not self.task
        if not self.may_be_left or unwinds or is_elsewhere:
            return None
        if self._scope is not None and sys.modules["trio"].lowlevel.currently_ki_protected():
            return None
        self._raised = KeyboardInterrupt()
        return self._raised

    def watch(self, settings: Settings) -> None:
        """Have it logged where main is, when that has not returned for long (R23)."""
        wait = self._wait = _MainWait(settings, self)
        wait.begin()
        if self.is_over:  # since then
            wait.end()

    def end(self, error: BaseException | None) -> BaseException | None:
        """Return what has come out of main, unless it is how it was cancelled."""
        self.is_over = True
        self._over.release()
        if self._wait is not None:
            self._wait.end()
        if self._scope is None:
            for _ in range(self._cancels):
                self.task.uncancel()
        elif cancel_status() is self._status:
            error = self._leave_scope(error)
        return None if error is None or self._is_ours(error) else error

    def step_out(self) -> None:
        """Leave our scope, if all that main has left open in it is closed."""
        if self._scope is not None and cancel_status() is self._status:
            self._leave_scope(None)

    def _leave_scope(self, error: BaseException | None) -> BaseException | None:
        scope, self._scope = self._scope, None
        try:
            swallowed = scope.__exit__(type(error), error, getattr(error, "__traceback__", None))
        except BaseException as exc:  # what is left of a group
            return exc
        return None if swallowed else error

    def _is_ours(self, error: BaseException) -> bool:
        return all(
            leaf is self._raised or (self._cancels > 0 and isinstance(leaf, self._cancelled))
            for leaf in leaves(error)
        )


class _MainWait(OneWait):
    """The wait for main to return, once that is asked of it."""

    __slots__ = ("_main",)

    def __init__(self, settings: Settings, main: Main) -> None:
        super().__init__(settings)
        self._main = main

    def tell(self, elapsed: float) -> str | None:
        main = self._main

        def look_inside() -> tuple[str, ...]:
            return await_chain(main.task, main.awaitable)

        where = look_from_outside(main.ident, main.home, look_inside)
        return f"still waiting for main to return, for {elapsed:.1f} s{at(where)}"
