"""The watch over unwinds: say in the log what one is still waiting for, and where (R23).

One thread for all, because nothing else sees a blocked event loop; it lingers, because to
start one for each quick unwind would cost more than that. May import _errors, _fork
and _where.
"""

from __future__ import annotations

import threading
from _thread import allocate_lock
from abc import ABC, abstractmethod
from contextlib import suppress
from math import inf
from threading import Thread
from time import perf_counter

from ._errors import logger
from ._fork import in_child
from ._outcome import one_line
from ._where import thread_stack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._settings import Settings

_LOOKS = 5.0  # seconds between two looks of the thread, at most; at the second idle one it ends
_PATIENCE = 1.0  # seconds for which the end of a wait waits for a line about it


class Wait(ABC):
    """Something that the watch reports on: steps, of which each has a number and a start."""

    __slots__ = ("_speaking", "_step", "_told", "settings")

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._step = (0, 0.0)
        self._told = 0
        self._speaking = allocate_lock()

    @abstractmethod
    def current(self) -> tuple[int, float]:
        """Return the number of the current step, and when it began."""

    @abstractmethod
    def tell(self, elapsed: float) -> str | None:
        """Return what to log about it, unless it is over."""

    def tell_now(self) -> str | None:
        return self.tell(self.settings.clock.now() - self.current()[1])

    def look(self) -> float:
        """Log a line if one is due, and return the seconds until the next."""
        step = self.current()
        if step != self._step:
            self._step, self._told = step, 0
        number, since = step
        slow_after = self.settings.slow_after
        if slow_after is None:
            return inf
        if not number:
            return slow_after
        elapsed = self.settings.clock.now() - since
        due = slow_after * 2.0 ** min(self._told, 1000)  # more is out of range
        if elapsed >= due:
            while elapsed >= due:
                self._told += 1
                due *= 2
            # Nobody is there to raise it to, and the other waits need this thread.
            with suppress(BaseException):
                self._speak(step, elapsed)
        return due - elapsed

    def _speak(self, step: tuple[int, float], elapsed: float) -> None:
        text = self.tell(elapsed)
        with self._speaking:
            # To look has taken a while, and it may have gone on.
            if text is not None and self in watchman.waits and self.current() == step:
                logger().warning("%s", text)

    def begin(self) -> None:
        watchman.watch(self)

    def end(self) -> None:
        watchman.waits.pop(self, None)
        # No line about it comes after it, and no thread dies in the middle of one when the
        # interpreter exits. But a log handler that hangs holds up nothing.
        if self._speaking.acquire(timeout=_PATIENCE):
            self._speaking.release()


class OneWait(Wait):
    """A wait that has one step, which begins now."""

    __slots__ = ("_began",)

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._began = settings.clock.now()

    def current(self) -> tuple[int, float]:
        return 1, self._began


class _Watchman:
    """Keep the waits to watch, and the thread that does while there are any.

    No lock: a dict's single operations are atomic (see Stack), and a signal handler may
    unwind in the middle of any of this.
    """

    def __init__(self) -> None:
        self.waits: dict[Wait, None] = {}
        self._thread: dict[None, Thread] = {}
        self._wake = allocate_lock()
        self._next_look = inf
        self._resting = False

    def watch(self, wait: Wait) -> None:
        self.waits[wait] = None
        self.heed(wait.settings.slow_after)

    def heed(self, slow_after: float | None) -> None:
        """See to it that somebody looks so many seconds from now."""
        if slow_after is None or not self.waits:
            return
        if not self._thread:
            # In a subinterpreter, or at the end of the interpreter on 3.12.0 and 3.12.1, there
            # is no such thread to be had.
            with suppress(RuntimeError):
                self._start()
        elif perf_counter() + slow_after < self._next_look:
            with suppress(RuntimeError):  # awake already
                self._wake.release()

    def _start(self) -> None:
        thread = Thread(target=self._run, name="lastly: watch", daemon=True)
        if self._thread.setdefault(None, thread) is not thread:
            return  # another unwind has been quicker
        try:
            thread.start()
        except BaseException:
            self._thread.clear()
            raise

    def rest(self) -> None:
        """End the thread if it only lingers: a fork with threads draws a DeprecationWarning."""
        thread = self._thread.get(None)
        if thread is not None and not self.waits:
            self._resting = True
            with suppress(RuntimeError):  # awake already
                self._wake.release()
            with suppress(RuntimeError):  # another thread is just about to start it
                thread.join(_PATIENCE)

    def _run(self) -> None:
        self._wake.acquire(blocking=False)
        idle = self._resting = False
        while True:
            self._next_look = inf  # who comes now may not be seen below, and wakes us
            seconds = self._look()
            if seconds is None and (idle or self._resting) and self._ends():
                return
            idle = seconds is None
            seconds = min(_LOOKS, inf if seconds is None else seconds)
            self._next_look = perf_counter() + seconds
            self._wake.acquire(timeout=max(0.0, seconds))

    def _look(self) -> float | None:
        """Look at all waits; return the seconds until the next one has to be told."""
        # A function of its own, so that no variable keeps what is over alive.
        seconds = None
        for wait in list(self.waits):
            seconds = min(inf if seconds is None else seconds, wait.look())
        return seconds

    def _ends(self) -> bool:
        thread = self._thread.pop(None)
        # Somebody may have come in between, and counted on this thread.
        return not self.waits or self._thread.setdefault(None, thread) is not thread


def at(where: tuple[str, ...]) -> str:
    """Return the innermost line, and below it, indented, all of them."""
    if len(where) == 0:
        return ""
    more = "".join(f"\n    {line}" for line in where) if len(where) > 1 else ""
    return f", at {where[-1]}{more}"


def threads_that_hold() -> list[Thread]:
    """Return the threads that somebody will join: an executor, or the interpreter."""
    main = threading.main_thread()
    return [t for t in threading.enumerate() if not t.daemon and t is not main]


def told_of_thread(thread: Thread) -> str:
    """Return a thread's name and where it is, one indented line for each."""
    lines = [f"    {one_line(thread.name)}, at"]
    lines += [f"        {line}" for line in thread_stack(thread.ident or 0)]
    return "\n".join(lines)


watchman = _Watchman()
# The child has neither the thread nor the parent's unwinds.
in_child(lambda: _Watchman.__init__(watchman), before=watchman.rest)
