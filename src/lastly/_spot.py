"""The spot of an unwind: which callback it is at, which thread and task run that, and where.

May import _backends, _threads, _watch and _where.
"""

from __future__ import annotations

from _thread import allocate_lock
from contextlib import contextmanager, suppress
from threading import get_ident

from ._backends import call_soon, current_home, current_task
from ._threads import InThread
from ._watch import Wait, at
from ._where import await_chain, thread_stack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sized
    from contextlib import AbstractContextManager
    from typing import Any

    from ._limits import Limit
    from ._registration import Registration
    from ._settings import Settings

    Step = tuple[Registration, Limit | None]

_ANSWERS = 0.1  # seconds in which a loop that is not blocked answers


class Spot(Wait):
    """Where an unwind is: its current callback, and which thread and task run it.

    Who unwinds writes it, at the price of a few assignments. `at` is the thread's ident,
    the event loop and the task; `awaitable` is what they wait for, or None in a sync call.
    `has_run` and `pending` are those before the current one, and those to come. `step` is
    given where the current one has a limit, or is called elsewhere. `interruption` is what has
    interrupted the wait for the current one, where that has not ended by it.
    """

    __slots__ = (
        "_has_run",
        "at",
        "awaitable",
        "interruption",
        "pending",
        "registration",
        "start",
        "step",
    )

    def __init__(
        self, settings: Settings, has_run: Sized, pending: Callable[[], int], ident: int
    ) -> None:
        super().__init__(settings)
        self._has_run = has_run
        self.pending = pending
        self.at: tuple[int, Any, Any] = (ident, None, None)
        self.awaitable: object = None
        self.registration: Any = None  # a Registration, in what runs while there is one
        self.start = 0.0
        self.step: Step | None = None
        self.interruption: BaseException | None = None

    @property
    def limit(self) -> Limit | None:
        return None if self.step is None else self.step[1]

    def end(self) -> None:
        super().end()
        # Whoever keeps the unwind keeps no callback alive.
        self.registration = self.awaitable = self.step = self.interruption = None

    def interrupt(self, exception: BaseException | None) -> None:
        """Note what is to go on when the current one has ended; the first of all does."""
        if self.interruption is None:
            self.interruption = exception

    def current(self) -> tuple[int, float]:
        return (0 if self.registration is None else len(self._has_run) + 1), self.start

    def here(self) -> AbstractContextManager[None]:
        """Note that the thread and task that call this run the callback."""
        return self.moved(get_ident(), current_home(), current_task())

    def moved(self, ident: int, loop: Any, task: Any) -> AbstractContextManager[None]:
        """Note that this thread, loop and task run the callback, for as long as the block."""
        return _Moved(self, (ident, loop, task))

    @contextmanager
    def excused(self) -> Generator[None]:
        """Take what the block lasts off the callback's time: to load a library, say."""
        now = self.settings.clock.now
        began = now()
        yield
        if self.limit is not None:
            self.limit.start += now() - began

    def tell(self, elapsed: float) -> str | None:
        registration, step = self.registration, self.step
        if registration is None:
            return None
        # Read while it may go on: one from before belongs to another.
        limit = step[1] if step is not None and step[0] is registration else None
        number = len(self._has_run) + 1
        total = number + self.pending()
        text = (
            f"still waiting for {registration.name} ({registration.origin}), "
            f"{number} of {total}, for {elapsed:.1f} s"
        )
        if limit is not None and limit.expired:
            text += ", although it was cancelled"
        elif limit is not None and elapsed > limit.seconds and limit.is_idle():
            text += ", which is sync, so that no limit ends it; did you forget `thread=True`?"
        where = self._look_from_outside()
        if not where and not self.at[0]:
            return f"{text}, on an event loop of another thread that does not come to it"
        if not where and self.awaitable is None:
            return f"{text}, in a function that is not written in Python"
        return text + at(where)

    def in_thread(self) -> InThread | None:
        """Return the call in a thread that is being waited for, until it has returned."""
        # From then on, what it returned may be what is awaited.
        awaitable = self.awaitable
        if isinstance(awaitable, InThread) and not awaitable.future.done():
            return awaitable
        return None

    def look_inside(self) -> tuple[str, ...]:
        """Return where it is, seen from the event loop that runs it."""
        if (call := self.in_thread()) is not None:
            return thread_stack(call.ident)
        return await_chain(self.at[2], self.awaitable)

    def _look_from_outside(self) -> tuple[str, ...]:
        ident, loop, _ = self.at
        if (call := self.in_thread()) is not None:
            return thread_stack(call.ident)
        if self.awaitable is None or loop is None:
            return thread_stack(ident)
        return look_from_outside(ident, loop, self.look_inside)


class _Moved:
    # Not @contextmanager, which sets the traceback of what leaves the block: a frozen exception
    # refuses that, and would come out as another one (R11).
    __slots__ = ("_before", "_here", "_spot")

    def __init__(self, spot: Spot, here: tuple[int, Any, Any]) -> None:
        self._spot = spot
        self._here = here

    def __enter__(self) -> None:
        spot = self._spot
        self._before = spot.at, spot.awaitable
        spot.at, spot.awaitable = self._here, None

    def __exit__(self, *exc: object) -> None:
        spot = self._spot
        if spot.at is self._here:  # else the unwind has gone on without it
            spot.at, spot.awaitable = self._before


def look_from_outside(
    ident: int, loop: Any, look_inside: Callable[[], tuple[str, ...]]
) -> tuple[str, ...]:
    """Return where a task of this loop is, seen from another thread than the loop's."""
    # A chain is read where nothing changes it meanwhile. If the loop does not answer,
    # it is blocked, and its thread's stack says by what.
    answers: list[tuple[str, ...]] = []
    answered = allocate_lock()
    answered.acquire()

    def answer() -> None:
        answers.append(look_inside())
        answered.release()

    with suppress(RuntimeError):  # closed meanwhile
        call_soon(loop, answer)
        answered.acquire(timeout=_ANSWERS)
    return answers[0] if answers else thread_stack(ident)
