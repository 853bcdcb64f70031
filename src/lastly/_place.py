"""One place on the stack that many registrations share: run them side by side (R4).

Each is an unwind of its own, of one registration, with its own limit, watch and guard. May
import what is below _homes, and that is told what to call.
"""

from __future__ import annotations

import sys
from threading import get_ident

from ._backends import current_home, is_closed, is_trio, load_anyio
from ._errors import reraise
from ._guard import Guard
from ._outcome import Ran
from ._registration import dispose
from ._spot import Spot
from ._threads import InThread
from ._unwind import Unwind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from typing import Any

    from ._registration import Registration
    from ._unwind import Call


async def run_place(
    discard: Callable[[Registration], bool], place: Unwind, first: Registration, call: Call
) -> None:
    """Run the first member of a block, which was popped, and all that `discard` finds of it.

    They are called one after the other, the newest first; then what they returned is awaited,
    each in a task of its own, and threads go on meanwhile. One's failure is not the others'.
    """
    assert first._options is not None
    assert first._options.block is not None
    registrations = [first, *first._options.block.take(discard)]
    place.members = members = [
        _Member(place, registration, len(place.ran.entries) + n, len(registrations) - n - 1)
        for n, registration in enumerate(registrations)
    ]
    place.spot.registration = None  # it is at none: each has a spot of its own
    error: BaseException | None = None
    try:
        for member in members:
            member.call(call)
        if waiting := [member for member in members if member.is_waiting]:
            if place.run is not None:
                await _from_outside(place, waiting)
            else:
                place.shield(limited=True)
                await _beside(waiting)
    except BaseException as exc:
        error = exc
    for member in members:
        if member.is_waiting:  # it was cancelled before it began
            member.go_on(error or RuntimeError("it was not awaited"))
    place.absorb(members, error)


class _Member(Unwind):
    """Unwind one registration: call it at once, and await what it returned later, in a task."""

    runs_places = False

    def __init__(self, place: Unwind, registration: Registration, before: int, behind: int) -> None:
        def pending() -> int:
            return behind + place.spot.pending()

        settings = place.settings
        super().__init__(place.reason, settings, pending, ladder=place.ladder, whole=False)
        self.ran = Ran(place.ran.began)
        self.spot = Spot(settings, range(before), pending, get_ident())
        self.budget = place.budget
        self.registration = registration
        self._left = [(registration, None)]
        self._steps: Any = None
        self.awaitable: Any = None  # what its call has returned, while it waits for a task

    @property
    def is_waiting(self) -> bool:
        return self.awaitable is not None

    def call(self, call: Call) -> None:
        """Call it, and go no further than to where something has to be awaited."""
        self.spot.begin()
        self._steps = self.steps(self._pop, call).__await__()
        self.go_on()

    def _pop(self) -> tuple[Registration, None]:
        if not self._left:
            raise KeyError
        return self._left.pop()

    async def result_of(self, awaitable: Any) -> Any:
        if self.guard.task is None and self.run is None:
            self.awaitable = awaitable
            try:
                await _Later()
            except BaseException:
                dispose(awaitable)
                raise
            finally:
                self.awaitable = None
        return await super().result_of(awaitable)

    def go_on(self, error: BaseException | None = None) -> None:
        """Go on where no loop runs; or with the error that kept it from being awaited."""
        try:
            if error is None:
                self._steps.send(None)
            else:
                self._steps.throw(error)
        except StopIteration:
            self.spot.end()

    async def finish(self) -> None:
        """Go on in a task of its own."""
        self.guard = guard = Guard()
        self.spot.at = (get_ident(), guard.home, guard.task)
        try:
            await self
        finally:
            guard.unshield()
            self.spot.end()

    def __await__(self) -> Generator[Any, Any, None]:
        steps: Generator[Any, Any, None] = self._steps
        return steps

    def interrupt(self) -> None:
        """Pass a native cancellation on, which has come for the task that unwinds."""
        if self.guard.task is not None:
            self.guard.task.cancel()


class _Later:
    """Suspend a coroutine that no task runs yet."""

    def __await__(self) -> Generator[None, None, None]:
        yield


async def _beside(members: list[_Member]) -> None:
    """Finish them in the loop that runs here, each in a task of its own."""
    load_anyio()
    import anyio  # lazy: only who awaits side by side comes here

    left = set(members)
    done = anyio.Event()
    interrupted: BaseException | None = None

    async def finish(member: _Member) -> None:
        try:
            await member.finish()
        finally:
            left.discard(member)
            if not left:
                done.set()

    async with anyio.create_task_group() as group:
        for member in members:
            group.start_soon(finish, member)
        while left:
            try:
                await done.wait()
            except BaseException as exc:
                # The group could not cancel them, which are shielded from any scope. Trio's own
                # cancellation comes only where there is no shield around all of this.
                if type(exc) is not _native_cancellation():
                    raise
                interrupted = exc
                for member in list(left):
                    member.interrupt()
    if interrupted is not None:
        reraise(interrupted)


def _native_cancellation() -> type[BaseException] | None:
    return None if is_trio(current_home()) else sys.modules["asyncio"].CancelledError


async def _from_outside(place: Unwind, waiting: list[_Member]) -> None:
    """Finish them where no loop runs: those of one home side by side, on that loop."""
    run = place.run
    assert run is not None
    by_home: dict[Any, list[_Member]] = {}
    for member in waiting:
        home = None if isinstance(member.awaitable, InThread) else member.registration._home
        by_home.setdefault(home, []).append(member)
    error: BaseException | None = None
    for home, members in by_home.items():
        try:
            if len(members) > 1 and current_home() is None and not (home and is_closed(home)):
                run(_beside(members), home, place.spot)
                continue
        except BaseException as exc:  # Ctrl-C: that loop has come to its end all the same
            error = exc
        for member in members:
            member.run = run
            if member.is_waiting:
                member.go_on()
    if error is not None:
        reraise(error)
