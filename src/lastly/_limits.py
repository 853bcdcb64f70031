"""Limits: how long a callback may take, and cutting it short when that has passed.

May import _backends, _ladder, _outcome and _watch.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from math import inf

from ._backends import (
    call_soon,
    current_home,
    is_trio,
    load_anyio,
    nothing,
    outermost_scope,
)
from ._ladder import signals
from ._outcome import CleanupTimeout
from ._watch import at

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ._ladder import Ladder
    from ._registration import Registration
    from ._settings import Settings
    from ._spot import Spot

_SHARE = 0.8  # of the grace that is left, for one callback (R21)


class Limit:
    """The seconds that one callback may take, and what came of them."""

    __slots__ = (
        "_expire",
        "abandoned",
        "armed",
        "by_signal",
        "elsewhere",
        "expired",
        "forced",
        "grace",
        "returned",
        "seconds",
        "shared",
        "start",
        "where",
    )

    def __init__(
        self,
        seconds: float,
        start: float,
        *,
        shared: bool = False,
        grace: float | None = None,
        forced: bool = False,
        by_signal: bool = False,
    ) -> None:
        self.seconds = seconds
        self.start = start
        self.shared = shared  # it is a part of the unwind's budget
        self.grace = grace  # the whole budget, unless that is what a callback around leaves
        self.forced = forced
        self.by_signal = by_signal  # that is why it is forced
        self._expire: tuple[Any, Callable[[], None]] | None = None  # in which loop, and how
        self.armed = False  # there was something to cut short
        self.elsewhere = False  # it is armed in another thread's loop
        self.expired = False
        self.abandoned = False  # it goes on in another thread
        self.returned = False  # the callback did, by itself
        self.where: tuple[str, ...] = ()

    def is_idle(self) -> bool:
        """Tell whether there is nothing that it could cut short, here or on another loop."""
        return not self.armed and not self.elsewhere

    def left(self, now: float) -> float:
        return max(0.0, self.start + self.seconds - now)

    def arm(self, spot: Spot, cancel: Callable[[], object]) -> Callable[[], object]:
        """Have `cancel` called in the loop that runs here when the time has passed.

        Returns what disarms it, for when the callback has ended.
        """

        def expire() -> None:
            if self._expire is None or self.expired:
                return  # it has ended since, or it was cut short before
            self.where = spot.look_inside()  # before it is cancelled, and runs for the exit
            self.expired = True
            cancel()

        def disarm() -> None:
            self._expire = None
            stop()

        stop: Callable[[], object] = nothing
        self.armed = True
        self._expire = (current_home(), expire)  # before the look, so that no force is lost
        if self.forced:
            self.expired = True
            cancel()
        elif self.seconds < inf:
            clock = spot.settings.clock
            stop = clock.call_later(self.left(clock.now()), expire)
        return disarm

    def force(self, now: float) -> None:
        """Cut the callback short at once, from any thread, or when it begins to wait."""
        if self.forced:
            return
        self.seconds = min(self.seconds, max(0.0, now - self.start))
        self.forced = self.by_signal = True
        if (armed := self._expire) is not None:
            with suppress(RuntimeError):  # its loop has gone
                call_soon(*armed)


class Budget:
    """What one unwind may take in all: its grace, or less if it runs inside of a callback.

    `outer` is the spot of the unwind around it, whose callback it is or serves; `is_part` is
    whether that has a limit.
    """

    __slots__ = ("_began", "_ladder", "_outer_end", "_settings")

    def __init__(
        self, settings: Settings, ladder: Ladder, began: float, outer: Spot | None = None
    ) -> None:
        self._settings = settings
        self._ladder = ladder
        self._began = began
        # A shield would hide from it that the callback around it is being cancelled (R18), so
        # it has to keep to the time of that one by itself.
        self._outer_end = inf
        if outer is not None and outer.limit is not None:
            self._outer_end = began + outer.limit.left(outer.settings.clock.now())

    @property
    def is_part(self) -> bool:
        return self._outer_end < inf

    def limit_for(self, registration: Registration, start: float) -> Limit | None:
        """Return how long a callback that starts now may take; None for as long as it likes.

        Its own timeout comes first, then the manager's default; but never more than four
        fifths of what is left of the grace (R21), and nothing when that is used up or a second
        signal has come (R22). The clock of the grace starts at a first signal (R25).
        """
        settings, options, outer_end = self._settings, registration._options, self._outer_end
        if signals.forced:
            return Limit(0.0, start, forced=True, by_signal=True)
        own = None if options is None else options.timeout
        default = inf if settings.timeout is None else settings.timeout
        seconds = default if own is None else own
        end = inf
        if settings.grace is not None:
            request = self._ladder.request
            since = self._began if request is None else min(self._began, request.since)
            end = since + settings.grace
        # What it is of that limits, for the message.
        grace = None if outer_end <= end else settings.grace
        left = min(end, outer_end) - start
        if left <= 0:
            return Limit(0.0, start, shared=True, grace=grace, forced=True)
        if seconds > _SHARE * left:
            return Limit(_SHARE * left, start, shared=True, grace=grace)
        return None if seconds == inf and not signals.heeded else Limit(seconds, start)


async def in_time_at(spot: Spot, awaitable: Any) -> Any:
    """Await it within its limit, in a thread and task that the watch does not know yet."""
    with spot.here():
        return await in_time(spot, awaitable)


async def in_time(spot: Spot, awaitable: Any) -> Any:
    spot.awaitable = awaitable
    return await (awaitable if spot.limit is None else bounded(spot, awaitable))


async def bounded(spot: Spot, awaitable: Any, scope: Any = None) -> Any:
    """Await a callback's result within its limit; if it was cut short, return None.

    Given a scope, it cancels that instead of one of its own, and lets what comes of it out:
    a callback may hold scopes open when it ends, by entering a context manager (R8).
    """
    if scope is not None:
        return await _armed(spot, awaitable, scope.cancel)
    exit_ = spot.registration._exit
    if is_trio(current_home()):
        if exit_ is not None and exit_.around is not None:
            return await _in_its_scope(spot, awaitable, exit_.around)
        return await _in_a_scope(spot, awaitable)
    # R8: an anyio scope must nest with those that a context manager holds open, and there is
    # no telling here which of them do. asyncio's own timeouts need not nest.
    return await (_in_a_scope if exit_ is None else _natively)(spot, awaitable)


async def _in_a_scope(spot: Spot, awaitable: Any) -> Any:
    with spot.excused():
        load_anyio()
    with (scope := sys.modules["anyio"].CancelScope()):
        return await _armed(spot, awaitable, scope.cancel)


async def _in_its_scope(spot: Spot, awaitable: Any, around: Any) -> Any:
    # R8: no scope of ours may be open around it. But to cancel the outermost one that it holds
    # open, a nursery's say, ends what it waits for.
    scope = outermost_scope(around)
    result = await _armed(spot, awaitable, nothing if scope is None else scope.cancel)
    if spot.limit is not None and scope is not None:
        spot.limit.returned = not scope.cancelled_caught
    return result


async def _natively(spot: Spot, awaitable: Any) -> Any:
    asyncio = sys.modules["asyncio"]
    raised = None
    try:
        async with asyncio.timeout(None) as timeout:
            try:
                return await _armed(spot, awaitable, lambda: timeout.reschedule(0))
            except TimeoutError as exc:
                raised = exc
                raise
    except TimeoutError as exc:
        if exc is raised:  # the exit's own
            raise
    finally:
        del raised  # its traceback holds this frame: make no cycle


async def _armed(spot: Spot, awaitable: Any, cancel: Callable[[], object]) -> Any:
    limit = spot.limit
    assert limit is not None
    disarm = limit.arm(spot, cancel)
    try:
        result = await awaitable
    finally:
        disarm()
    limit.returned = True
    return result


def cleanup_timeout(name: str, origin: str, limit: Limit) -> CleanupTimeout:
    """Make the exception for a callback that was cut short."""
    why = "was abandoned in its thread" if limit.abandoned else "was cancelled"
    budget = "the time of the callback around it"
    if limit.grace is not None:
        budget = f"the grace of {limit.grace:g} s"
    if limit.by_signal:
        why += " by a second signal"
    elif limit.forced:
        why += f" at once: {budget} is used up"
    else:
        why += f" after {limit.seconds:.3f}".rstrip("0").rstrip(".") + " s"
        if limit.shared:
            why += f", four fifths of what was left of {budget}"
    error = CleanupTimeout(f"{name} ({origin}) {why}{at(limit.where)}")
    error.name, error.origin, error.where = name, origin, limit.where
    return error
