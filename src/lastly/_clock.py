"""The clock of an unwind: tell the time, and call or wait until a time has come.

The one seam for time: what limits and measures callbacks asks the manager's clock, and a
test may put one of its own there. May import _backends only.
"""

from __future__ import annotations

import sys
from threading import TIMEOUT_MAX
from time import perf_counter

from ._backends import current_home, is_trio

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from typing import Any


class Clock:
    """Count seconds, from whenever."""

    now: Callable[[], float] = staticmethod(perf_counter)

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Callable[[], object]:
        """Call back in the loop that runs here; return a function that takes it back."""
        home = current_home()
        if not is_trio(home):
            cancel: Callable[[], object] = home.call_later(seconds, callback).cancel
            return cancel
        # Trio has no timers. A task of the system's is no task of the user's nursery, which
        # would wait for it. It is shielded, for in a run's teardown those are cancelled.
        trio = sys.modules["trio"]
        scope = trio.CancelScope(shield=True)
        trio.lowlevel.spawn_system_task(_call_after, scope, seconds, callback)
        stop: Callable[[], object] = scope.cancel
        return stop

    def wait(self, future: Future[Any], seconds: float | None) -> bool:
        """Block this thread until the future is done, or so long; return whether it is."""
        from concurrent.futures import wait  # lazy: only a callback in a thread comes here

        limit = None if seconds is None else min(seconds, TIMEOUT_MAX)
        return bool(wait([future], timeout=limit).done)


async def _call_after(scope: Any, seconds: float, callback: Callable[[], object]) -> None:
    with scope:
        await sys.modules["trio"].sleep(seconds)
        callback()
