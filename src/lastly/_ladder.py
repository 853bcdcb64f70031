"""The ladder of a shutdown: whether one was requested, since when and why, and who waits for it.

Each manager has one, and the one of the process's signals is around them all. A signal handler
may call any of it: no locks (see Stack). May import _backends, _fork and _outcome.
"""

from __future__ import annotations

from contextlib import suppress
from weakref import WeakSet

from ._backends import call_soon, current_home, new_event
from ._fork import in_child

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from ._backends import Event
    from ._outcome import Reason


class Request:
    """A request to shut down: why, since when, and whether somebody was waiting for it.

    `signum` is the signal that it came by, if it did.
    """

    __slots__ = ("awaited", "reason", "signum", "since")

    def __init__(self, reason: Reason, since: float, signum: int | None, *, awaited: bool) -> None:
        self.reason = reason
        self.since = since
        self.signum = signum
        self.awaited = awaited


class _Waiter:
    __slots__ = ("event", "home", "request")

    def __init__(self, home: Any, event: Event) -> None:
        self.home = home
        self.event = event
        self.request: Request | None = None


_all: WeakSet[Ladder] = WeakSet()


class Ladder:
    """Hold the request to shut down, and tell those who wait for one; the first counts.

    The other two are for that of the signals only. `forced` is whether a second one has come.
    `heeded` counts who handles them: only while somebody does, what is awaited need be such
    that it can be cut short at any time.
    """

    def __init__(self, around: Ladder | None = None) -> None:
        self.listeners: dict[Callable[[], object], None] = {}
        self._around = around
        self._own: dict[None, Request] = {}
        self._waiters: dict[_Waiter, None] = {}
        self.forced = False
        self.heeded = 0
        _all.add(self)  # last: another thread may fork at any line, and the child resets them all

    def __iter__(self) -> Iterator[Ladder]:
        ladder: Ladder | None = self
        while ladder is not None:
            yield ladder
            ladder = ladder._around

    @property
    def request(self) -> Request | None:
        """The request, of this ladder or of one around it, that came first."""
        requests = [request for ladder in self for request in ladder._own.values()]
        return min(requests, key=lambda request: request.since, default=None)

    def ask(self, reason: Reason, now: float, signum: int | None = None) -> bool:
        """Request a shutdown, and wake who waits; return whether it is the first request."""
        request = Request(reason, now, signum, awaited=bool(self._waiters))
        if self._own.setdefault(None, request) is not request:
            return False
        for waiter in list(self._waiters):
            waiter.request = request
            with suppress(RuntimeError):  # its loop has gone
                call_soon(waiter.home, waiter.event.set)
        for listener in list(self.listeners):
            listener()
        return True

    def reset(self) -> None:
        """Begin anew, when what was requested has been done."""
        self._own.clear()
        self.forced = False

    def start_anew(self) -> None:
        """Forget all that is the parent's, in a forked child."""
        self.reset()
        self._waiters.clear()
        self.listeners.clear()

    async def wait(self) -> Reason:
        """Wait for a request, in the loop that is running."""
        waiter = _Waiter(current_home(), new_event())
        everywhere = [ladder._waiters for ladder in self]  # the kit lends a ladder to a test
        for waiters in everywhere:
            waiters[waiter] = None
        try:
            # After the waiter can be seen: a request comes before this, or else wakes it.
            request = self.request
            if request is None:
                await waiter.event.wait()
                request = waiter.request
            assert request is not None
            return request.reason
        finally:
            for waiters in everywhere:
                waiters.pop(waiter, None)


signals = Ladder()


def _start_anew() -> None:
    for ladder in list(_all):
        ladder.start_anew()


in_child(_start_anew)
