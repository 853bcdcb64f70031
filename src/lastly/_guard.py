"""The guard of a task that unwinds: shield it, and tell what is done to it from outside.

May import _backends, _errors and _runners.
"""

from __future__ import annotations

import os
import sys
from threading import current_thread

from ._backends import current_home, current_task, is_trio, load_anyio, wait
from ._errors import consists_of
from ._runners import run_to_end, stop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from concurrent.futures import Future
    from threading import Thread

    import anyio

    from ._unwind import Main


class Guard:
    """Shield the task that unwinds from the cancel scopes around it (R18).

    Scopes must nest, so that the shield is taken down while a context manager exits (R8).
    """

    def __init__(self, main: Main | None = None) -> None:
        self._main = main
        self._process = os.getpid()
        self.scope: anyio.CancelScope | None = None
        self.held = 0  # the context managers that were entered inside of it and are open
        self.is_spent = False  # cancelled by a limit, and held
        self.home = current_home()
        self.task = current_task()
        self.is_trio = is_trio(self.task)
        self._cancelled: type[BaseException]
        if self.is_trio:
            self._cancelled = sys.modules["trio"].Cancelled
        else:
            self._cancelled = sys.modules["asyncio"].CancelledError
            self._requests = self._arrived()

    def shield(self) -> None:
        self.unshield()
        load_anyio()
        scope: anyio.CancelScope = sys.modules["anyio"].CancelScope(shield=True)
        self.scope = scope.__enter__()

    def leave(self, error: BaseException | None) -> BaseException | None:
        """Leave the shield that a limit has cancelled; return what is left of the error.

        If a callback has entered a context manager meanwhile, that may hold a scope open, and
        its exit has to come first.
        """
        self.is_spent = True
        if self.held:
            return self.without_its_own(error)
        try:
            return None if self._take_down(error) else error
        except BaseException as exc:  # what is left of a group
            return exc

    def without_its_own(self, error: BaseException | None) -> BaseException | None:
        """Return the error, unless it is the cancellation of a shield that is spent."""
        if error is not None and self.is_spent and self.is_cancellation(error):
            return None
        return error

    def make_way(self, shield: object | None) -> None:
        """Leave the scopes of ours that are not around an exit that was entered in this one."""
        if not self.is_trio:
            # One that a simple callback above has refused is not one that comes now: to ask
            # after each of them would take too long.
            self._requests = max(self._requests, self._arrived())
        # R8: cancel scopes nest, and a context manager that was entered before the shield went
        # up may hold one open around it.
        if shield is not self.scope or (self.is_spent and not self.held):
            self.unshield()
        elif self._main is not None:
            self._main.step_out()

    def _arrived(self) -> int:
        # A request that was made and has not arrived yet will arrive in a callback. Not public,
        # but the one thing that tells; without it, that one is taken for the callback's own.
        requests: int = self.task.cancelling() - getattr(self.task, "_must_cancel", False)
        return requests

    def unshield(self) -> None:
        self._take_down(None)
        if self._main is not None:  # its scope has to go, as soon as it is the innermost one
            self._main.step_out()

    def _take_down(self, error: BaseException | None) -> bool | None:
        scope, self.scope, self.is_spent = self.scope, None, False
        # Only its own task may leave a scope; a coroutine that is closed from outside of
        # that task takes the scope with it.
        if scope is None or not self.is_here():
            return False
        try:
            if error is None:
                return scope.__exit__(None, None, None)
            return scope.__exit__(type(error), error, error.__traceback__)
        finally:
            if not self.is_trio:  # the scope takes back its own requests
                self._requests = min(self._requests, self.task.cancelling())

    def is_cancellation(self, exception: BaseException) -> bool:
        """Tell whether it is the backend's cancellation, or a group of nothing else."""
        return consists_of(exception, self._cancelled)

    def is_cancelled(self) -> bool:
        """Tell whether a cancellation of this task may have come since the last that was seen."""
        return self.is_trio or self._arrived() > self._requests

    def interrupted(self, exception: BaseException) -> bool:
        """Tell whether it is a cancellation of this task, and not the callback's own."""
        if not self.is_cancellation(exception):
            return False
        if self.is_trio:
            return True  # trio.Cancelled cannot be made by hand
        before, self._requests = self._requests, self.task.cancelling()
        return self._requests > before

    def overlooked(self) -> BaseException | None:
        """Return a cancellation that was taken for that of a limit, with which it came."""
        if self.is_trio:
            return None  # it tells them apart
        before = self._requests
        # One that was seen may be pending again: a TaskGroup takes it back to make it anew.
        self._requests = min(max(before, self._arrived()), self.task.cancelling())
        return self._cancelled() if self._requests > before and not self.is_spent else None

    def consumed(self, cancellation: BaseException) -> bool:
        """Tell whether an exit took a cancellation for its own; on trio each exit may."""
        is_one = self.is_cancellation(cancellation)
        if self.is_trio:
            return is_one
        # Also if it is not: else the next one would be taken for that which was taken back.
        before, self._requests = self._requests, min(self._requests, self.task.cancelling())
        return is_one and self._requests < before

    def is_here(self) -> bool:
        """Tell whether this still runs as a step of the task that it guards."""
        return current_task() is self.task

    def is_suspended(self, thread: Thread) -> bool:
        """Tell whether the loop has stopped under an unwind that began in this thread.

        That is so if no other thread can be running the loop, and this one is not.
        """
        elsewhere = thread is not current_thread() and thread.is_alive()
        if self.is_trio or elsewhere:
            return False
        # In a forked child, the loop that was running in the parent says that it still does.
        runs = self.home.is_running() and self._process == os.getpid()
        return not runs and current_home() is not self.home

    def go_on(self, done: Future[None]) -> None:
        """End a suspended unwind: run its loop on, or else close its coroutine."""
        if current_home() is None and not (self.home.is_closed() or self.home.is_running()):
            run_to_end(self.home, wait(done))
        else:
            stop(self.task)
