"""The guard of a task that unwinds: shield it, and tell what is done to it from outside.

May import _homes only.
"""

from __future__ import annotations

import sys
from threading import current_thread

from ._homes import current_home, current_task, is_trio, run_to_end, stop, wait

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from concurrent.futures import Future
    from threading import Thread
    from typing import Any

    import anyio


class Guard:
    """Shield the task that unwinds from the cancel scopes around it (R18).

    Scopes must nest, so that the shield is taken down while a context manager exits (R8).
    """

    def __init__(self) -> None:
        self.scope: anyio.CancelScope | None = None
        self.home = current_home()
        self.task = current_task()
        self._is_trio = is_trio(self.task)
        self._cancelled: type[BaseException]
        if self._is_trio:
            self._cancelled = sys.modules["trio"].Cancelled
        else:
            self._cancelled = sys.modules["asyncio"].CancelledError
            # A request that was made and has not arrived yet will arrive in a callback.
            self._requests: int = self.task.cancelling() - getattr(self.task, "_must_cancel", False)

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
        return current_task() is self.task

    def is_suspended(self, thread: Thread) -> bool:
        """Tell whether the loop has stopped under an unwind that began in this thread.

        That is so if no other thread can be running the loop, and this one is not.
        """
        elsewhere = thread is not current_thread() and thread.is_alive()
        if self._is_trio or elsewhere:
            return False
        return current_home() is not self.home

    def go_on(self, done: Future[None]) -> None:
        """End a suspended unwind: run its loop on, or else close its coroutine."""
        if not self.home.is_closed() and current_home() is None:
            run_to_end(self.home, wait(done))
        else:
            stop(self.task)
