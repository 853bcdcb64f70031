"""FakeClock: the time of a manager's limits, which a test can move forward.

May import _backends, _clock and _manager.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from time import perf_counter

from lastly._backends import call_soon, current_home
from lastly._clock import Clock
from lastly._manager import default

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator
    from concurrent.futures import Future
    from typing import Any

    from lastly import ShutdownManager


class _Timer:
    def __init__(self, when: float, callback: Callable[[], object]) -> None:
        self.when = when
        self.callback = callback
        self.home = current_home()
        self.stop: Callable[[], object]  # takes back the real one


class FakeClock(Clock):
    """Real time for a manager's limits, which also jumps forward where a test says so.

    It goes on by itself, so that a callback which really hangs is cut short all the same. Only
    the manager's `timeout`, `grace` and `slow_after` go by it: a callback's own sleep and the
    event loop do not.

    >>> import lastly
    >>> manager = lastly.ShutdownManager(grace=10)
    >>> with fake_clock(manager) as clock:
    ...     handle = manager.defer(clock.advance, 4, name="takes 4 s")
    ...     manager.close()
    >>> manager.last_report().duration >= 4
    True
    """

    def __init__(self) -> None:
        self._ahead: float = 0.0  # of real time, in seconds
        self._listeners: list[Callable[[], object]] = []
        # Dicts, whose single operations are atomic: threads come here, too.
        self._timers: dict[_Timer, None] = {}
        self._hanging: dict[Callable[[], bool], None] = {}

    def now(self) -> float:
        for listener in tuple(self._listeners):
            listener()
        return self._time()

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Callable[[], object]:
        timer = _Timer(self._time() + seconds, callback)
        timer.stop = super().call_later(seconds, partial(self._call, timer))
        self._timers[timer] = None
        self._skip()
        return partial(self._take_back, timer)

    def wait(self, future: Future[Any], seconds: float | None) -> bool:
        if seconds is not None and self._hangs():
            self.advance(seconds)
            seconds = 0.0
        return super().wait(future, seconds)

    def advance(self, seconds: float) -> None:
        """Let so many seconds pass at once; what falls due is called meanwhile, in order.

        May be called from any thread, task or callback. What falls due on an event loop that
        runs elsewhere is called there, soon.
        """
        end = self._time() + seconds
        handed_over: set[_Timer] = set()
        while timer := self._next(handed_over):
            if timer.when > end:
                break
            self._move_to(timer.when)
            if timer.home is current_home():
                self._call(timer)
            else:
                handed_over.add(timer)
                call_soon(timer.home, partial(self._call, timer))
        self._move_to(end)

    def _skip_while(self, hangs: Callable[[], bool]) -> None:
        """Jump from limit to limit for as long as something hangs: there is no other end to it."""
        self._hanging[hangs] = None
        self._skip()

    def _time(self) -> float:
        return perf_counter() + self._ahead

    def _move_to(self, when: float) -> None:
        self._ahead = max(self._ahead, when - perf_counter())

    def _next(self, but: Collection[_Timer] = ()) -> _Timer | None:
        timers = [timer for timer in list(self._timers) if timer not in but]
        return min(timers, key=lambda timer: timer.when, default=None)

    def _call(self, timer: _Timer) -> None:
        if self._take_back(timer):
            timer.callback()

    def _take_back(self, timer: _Timer) -> bool:
        timer.stop()
        return self._timers.pop(timer, timer) is None

    def _hangs(self) -> bool:
        for hangs in list(self._hanging):
            if not hangs():
                self._hanging.pop(hangs, None)
        return bool(self._hanging)

    def _skip(self) -> None:
        timer = self._next()
        if timer is not None and self._hangs():
            # Not at once: what hangs may not have come to its await, nor whoever sets the timer
            # to what takes it back.
            call_soon(timer.home, partial(self._skip_to, timer))

    def _skip_to(self, timer: _Timer) -> None:
        if timer in self._timers and self._hangs():
            self._move_to(timer.when)
            self._call(timer)
            self._skip()


@contextmanager
def fake_clock(manager: ShutdownManager | None = None) -> Generator[FakeClock]:
    """Give a manager, the default one unless given, a `FakeClock` for as long as the block.

    Inside of another such block it is the same clock.
    """
    settings = (default if manager is None else manager)._settings
    before = settings.clock
    settings.clock = clock = before if isinstance(before, FakeClock) else FakeClock()
    try:
        yield clock
    finally:
        settings.clock = before
